"""The keys, their values and expiries, and who is told when they change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from workerkit.testing.clock import Clock, RealClock
from workerkit.testing.memory.replies import WRONG_TYPE, Refused
from workerkit.testing.memory.values import Stream, Value

if TYPE_CHECKING:
    from workerkit.testing.memory.scripts import Scripts

V = TypeVar("V", bound=Value)
Watcher = Callable[[list[bytes] | None], None]


class Store:
    """One database in this process. All commands and scripts run under `turn`, one at a time, at one time of its clock.

    It is for one process: a forked child has a copy of its own.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or RealClock()
        self.now_us = self.clock.now_us()
        self.watchers: list[Watcher] = []
        self._values: dict[bytes, Value] = {}
        self._expiries: dict[bytes, int] = {}  # ms since 1970
        self._changed: dict[bytes, None] = {}
        self._all_gone = False
        self._lock = threading.RLock()
        self._depth = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile, and time stands still; the watchers are told at the end."""
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self.now_us = self.clock.now_us()
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._tell()

    def _tell(self) -> None:
        if self._all_gone:
            self._all_gone = False
            for watcher in tuple(self.watchers):
                watcher(None)
        if self._changed:
            changed, self._changed = list(self._changed), {}
            for watcher in tuple(self.watchers):
                watcher(changed)

    @cached_property
    def scripts(self) -> Scripts:
        from workerkit.testing.memory.scripts import Scripts  # which runs commands on a store

        return Scripts(self)

    @property
    def now_ms(self) -> int:
        return self.now_us // 1000

    # Values

    def find(self, key: bytes) -> Value | None:
        """What is there, of any kind."""
        if self._expiries.get(key, self.now_ms) < self.now_ms:
            self.delete(key)
        return self._values.get(key)

    def read(self, key: bytes, kind: type[V]) -> V | None:
        """What is there; raises Refused when it is of another kind."""
        value = self.find(key)
        if value is None or type(value) is kind:
            return value
        raise Refused(WRONG_TYPE)

    def opened(self, key: bytes, kind: type[V]) -> V:
        """What is there, or a new empty value, to be changed; `touch` when that is done."""
        value = self.read(key, kind)
        if value is None:
            self._values[key] = value = kind()
        return value

    def put(self, key: bytes, value: Value, expiry: int | None = None) -> None:
        """Replace whatever is there, and its expiry."""
        self._values[key] = value
        self._expiries.pop(key, None)
        self._changed[key] = None
        if expiry is not None:
            self.expire(key, expiry)

    def touch(self, key: bytes, *, changed: bool = True) -> None:
        """Note that a value was changed; an empty collection is none."""
        value = self._values.get(key)
        if value is not None and not len(value) and not isinstance(value, bytes | Stream):
            self._forget(key)
        if changed:
            self._changed[key] = None

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""
        there = key in self._values and self._expiries.get(key, self.now_ms) >= self.now_ms
        if key in self._values:
            self._forget(key)
            self._changed[key] = None
        return there

    def clear(self) -> None:
        """Forget everything."""
        with self.turn():
            self._values.clear()
            self._expiries.clear()
            self._all_gone = True

    def all_keys(self) -> list[bytes]:
        """The keys that are there."""
        with self.turn():
            return [key for key in list(self._values) if self.find(key) is not None]

    def _forget(self, key: bytes) -> None:
        del self._values[key]
        self._expiries.pop(key, None)

    # Expiries, in ms since 1970

    def expiry(self, key: bytes) -> int | None:
        return self._expiries.get(key)

    def expire(self, key: bytes, at: int) -> None:
        """At a time that is over, at once."""
        if at <= self.now_ms:
            self.delete(key)
        else:
            self._expiries[key] = at
            self._changed[key] = None

    def persist(self, key: bytes) -> bool:
        """Whether it had an expiry."""
        return self._expiries.pop(key, None) is not None
