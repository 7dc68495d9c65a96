"""The connections of one event loop to one server."""

from __future__ import annotations

import asyncio
import time

from workerkit.errors import PoolExhausted
from workerkit.io.aiolink import AioLink
from workerkit.io.link import Lost
from workerkit.io.server import Server


class AioPool:
    """As `Pool`, for one event loop: its connections cannot move to another."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._minimum = server.options.minimum
        self._free: list[AioLink] = []
        self._room = asyncio.Semaphore(server.options.maximum)
        self.in_use = 0

    @property
    def size(self) -> int:
        """Connections open now."""
        return self.in_use + len(self._free)

    async def take(self, deadline: float) -> AioLink:
        """A connection fit for use.

        Raises PoolExhausted after the options' `wait`, Lost when none can be opened before `deadline`.
        """
        if self._room.locked():
            await self._wait(deadline)
        else:
            await self._room.acquire()  # does not wait: somebody else's turn cannot come in between
        self.in_use += 1
        try:
            while self._free:
                link = self._free.pop()
                if not link.hung_up():
                    return link
                link.close()
                self.drop_free()
            link = self.server.aio_link()
            try:
                replies = await link.open(self.server.greeting(), deadline)
                self.server.greeted(replies, time.monotonic())
            except BaseException:
                link.close()
                raise
        except BaseException:
            self._leave()
            raise
        return link

    async def _wait(self, deadline: float) -> None:
        options = self.server.options
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(options.wait, deadline - began)):
                await self._room.acquire()
        except TimeoutError:
            waited = time.monotonic() - began
            raise PoolExhausted(
                f"all {options.maximum} connections to {self.server.shown} stayed in use for {waited:.2f} s: "
                "raise workerkit_pool_max, or run fewer callers at once",
                store=self.server.role,
                in_use=self.in_use,
                limit=options.maximum,
                waited=waited,
            ) from None

    def _leave(self) -> None:
        self.in_use -= 1
        self._room.release()

    def give(self, link: AioLink) -> None:
        """Put back a connection on which no reply is outstanding."""
        link.used = time.monotonic()
        self._free.append(link)
        if len(self._free) > self._minimum:
            self.trim()
        self._leave()

    def drop(self, link: AioLink) -> None:
        """Close a connection whose state is not known."""
        try:
            link.close()
        finally:
            self._leave()

    def drop_free(self) -> None:
        while self._free:
            self._free.pop().close()

    def trim(self) -> None:
        """Close what has rested longer than the options' `idle`, above the minimum."""
        options = self.server.options
        oldest = time.monotonic() - options.idle
        while len(self._free) > self._minimum and self._free[0].used < oldest:
            self._free.pop(0).close()

    async def fill(self, deadline: float) -> None:
        """As `Pool.fill`."""
        opened = []
        try:
            while self.size < self.server.options.minimum:
                taken, self._free = self._free, []
                try:
                    opened.append(await self.take(deadline))
                finally:
                    self._free = taken + self._free
        except Lost as lost:
            raise self.server.unavailable(str(lost), store=self.server.role, call="open") from None
        finally:
            for link in opened:
                self.give(link)

    close = drop_free
