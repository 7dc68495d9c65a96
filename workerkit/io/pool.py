"""The connections of one process to one server, for threads.

A connection that is lost track of (its holder was interrupted where nothing can be caught) is not counted any more as
soon as it is garbage: the pool counts what is alive, by weak references, not what was taken and given.
"""

from __future__ import annotations

import os
import threading
import time
from weakref import WeakMethod, WeakSet

from workerkit.errors import PoolExhausted
from workerkit.io.link import Link, Lost
from workerkit.io.server import Server


class Pool:
    """A stack of free connections; `take` one, then `give` it back clean or `drop` it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._minimum = server.options.minimum
        self._reset()
        # At the fork and not at the next call: of two threads that call first, one could take what the other resets.
        reset = WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (forget := reset()) and forget())

    def _reset(self) -> None:
        """Begin empty. A forked child forgets its parent's connections, and does not close them: they are in use."""
        self._free: list[Link] = []
        self._alive: WeakSet[Link] = WeakSet()
        # Taken by itself, not through the condition: an interrupt that strikes there would leave it locked for ever.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._waiting = 0

    @property
    def size(self) -> int:
        """Connections open now."""
        return len(self._alive)

    @property
    def in_use(self) -> int:
        """Connections taken now."""
        return len(self._alive) - len(self._free)

    def take(self, deadline: float) -> Link:
        """A connection fit for use.

        Raises PoolExhausted after the options' `wait`, Lost when none can be opened before `deadline`.
        """
        while self._free:
            try:
                link = self._free.pop()
            except IndexError:
                break
            if not link.hung_up():
                return link
            # A server that closed one has closed the others: finding out one by one would cost a Call each.
            self.drop(link)
            self.drop_free()
        return self._grow(deadline)

    def give(self, link: Link) -> None:
        """Put back a connection on which no reply is outstanding."""
        link.used = time.monotonic()
        self._free.append(link)
        if len(self._free) > self._minimum:
            self._trim(link.used)
        if self._waiting:
            with self._lock:
                self._room.notify()

    def drop(self, link: Link) -> None:
        """Close a connection whose state is not known."""
        link.close()
        with self._lock:
            self._alive.discard(link)
            self._room.notify()

    def drop_free(self) -> None:
        while self._free:
            try:
                link = self._free.pop()
            except IndexError:
                return
            self.drop(link)

    def fill(self, deadline: float) -> None:
        """Open connections up to the minimum. Raises StoreUnavailable when that cannot be done before `deadline`."""
        opened = []
        try:
            while self.size < self.server.options.minimum:
                opened.append(self._grow(deadline))
        except Lost as lost:
            raise self.server.unavailable(str(lost), store=self.server.role, call="open") from None
        finally:
            for link in opened:
                self.give(link)

    close = drop_free

    def _grow(self, deadline: float) -> Link:
        link = self._room_for_one(deadline)
        if link.used:
            return link
        try:
            replies = link.open(self.server.greeting(), deadline)
            self.server.greeted(replies, time.monotonic())
        except BaseException:
            self.drop(link)
            raise
        return link

    def _room_for_one(self, deadline: float) -> Link:
        """A new connection's place, or one that became free while waiting for it."""
        options = self.server.options
        began = time.monotonic()
        with self._lock:
            self._waiting += 1
            try:
                while True:
                    if self._free:
                        return self._free.pop()
                    if len(self._alive) < options.maximum:
                        link = self.server.link()
                        self._alive.add(link)
                        return link
                    waited = time.monotonic() - began
                    left = min(options.wait - waited, deadline - time.monotonic())
                    if left <= 0:
                        raise self._exhausted(waited)
                    self._room.wait(left)
            finally:
                self._waiting -= 1

    def _exhausted(self, waited: float) -> PoolExhausted:
        limit = self.server.options.maximum
        return PoolExhausted(
            f"all {limit} connections to {self.server.shown} stayed in use for {waited:.2f} s: "
            "raise workerkit_pool_max, or run fewer threads",
            store=self.server.role,
            in_use=self.in_use,
            limit=limit,
            waited=waited,
        )

    def _trim(self, now: float) -> None:
        """Close what has not been needed for a while: the bottom of the stack is what rests longest."""
        try:
            if now - self._free[0].used > self.server.options.idle:
                self.drop(self._free.pop(0))
        except IndexError:  # other threads took them meanwhile
            return
