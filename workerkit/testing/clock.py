"""The clocks that the memory in place of Redis goes by."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

from workerkit.core.durations import Duration
from workerkit.core.durations import seconds as seconds_of
from workerkit.errors import DefinitionError
from workerkit.io.ticker import Beat


class Clock(Protocol):
    """What says the store's time."""

    def now_us(self) -> int:
        """Microseconds since 1970."""


class RealClock:
    """The time of this machine."""

    def now_us(self) -> int:
        """As `Clock.now_us`."""
        return time.time_ns() // 1000


class FrozenClock:
    """A clock that stands still until it is advanced, or until a kit waits: that takes no time, and as much of its own.

    `at` is what it says first: a datetime with its timezone, or seconds since 1970; now by default. With a kit in
    memory on it (`in_memory(kit, clock=...)`), the kit's time is its time, in the store and in the process.
    """

    def __init__(self, at: datetime | float | None = None) -> None:
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise DefinitionError("FrozenClock: at has no timezone; write datetime(..., tzinfo=timezone.utc)")
            at = at.timestamp()
        start = time.time() if at is None else at
        if not 1e9 <= start < 1e10:
            raise DefinitionError("FrozenClock: at lies between 2001 and 2286, as a server's time does here")
        self._start_us = round(start * 1e6)
        self._passed_us = 0
        self._began = time.monotonic()
        self._beats: list[tuple[int, Beat]] = []
        self._lock = threading.RLock()
        self._beating = False

    def now_us(self) -> int:
        """As `Clock.now_us`."""
        return self._start_us + self._passed_us

    def time(self) -> float:
        """As `time.time`: seconds since 1970."""
        return self.now_us() / 1e6

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self._began + self._passed_us / 1e6

    def advance(self, duration: Duration) -> None:
        """Let time pass: seconds, or text such as "10m".

        What the kit does every few seconds (renewals, heartbeats, counts) is done on the way, each at its time, on the
        calling thread; what coroutines do so waits for `advance_async`.
        """
        for _, beat in self._passing(duration, coroutines=False):
            beat.act()

    async def advance_async(self, duration: Duration) -> None:
        """As `advance`, and what coroutines do every few seconds is done too."""
        for coroutine, beat in self._passing(duration, coroutines=True):
            done = beat.act()
            if coroutine and isinstance(done, Awaitable):
                await done

    def every(self, interval: float, what: str, act: Callable[[], Any], *, coroutine: bool) -> Beat:
        """Run `act` whenever another `interval` seconds have passed."""
        beat = _Repeated(interval, what, act, coroutine)
        with self._lock:
            self._beats.append((self._passed_us + round(interval * 1e6), beat))
        return beat

    def _passing(self, duration: Duration, *, coroutines: bool) -> Any:
        """Let time pass; yields what is due on the way, at its time."""
        with self._lock:
            end = self._passed_us + round(seconds_of(duration, what="FrozenClock: advance") * 1e6)
            nested, self._beating = self._beating, True
        try:
            while not nested and (due := self._next(end, coroutines=coroutines)):
                yield due
        finally:
            self._beating = nested
        self._passed_us = max(self._passed_us, end)

    def _next(self, end: int, *, coroutines: bool) -> tuple[bool, Beat] | None:
        with self._lock:
            self._beats = [each for each in self._beats if not each[1].stopped]
            due = [each for each in self._beats if each[0] <= end and (coroutines or not _awaited(each[1]))]
            if not due:
                return None
            at, beat = found = min(due, key=lambda each: each[0])
            self._passed_us = max(self._passed_us, at)
            self._beats.remove(found)
            # Counts are as they were while nothing but time passes: once in a leap is enough, however long it is.
            again = max(self._passed_us, end if beat.what == "counts" else 0)
            self._beats.append((again + round(beat.interval * 1e6), beat))
            return _awaited(beat), beat


class _Repeated(Beat):
    __slots__ = ("coroutine",)

    def __init__(self, interval: float, what: str, act: Callable[[], Any], coroutine: bool) -> None:
        super().__init__(interval, what, act)
        self.coroutine = coroutine


def _awaited(beat: Beat) -> bool:
    return isinstance(beat, _Repeated) and beat.coroutine
