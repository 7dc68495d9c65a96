"""This process's share of a limiter while Redis is down: each rate's amount divided by the processes that live.

As in `window.lua` few records remember any number, and never forget early: up to 32 each admission, above that T/32.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf, nextafter
from weakref import WeakMethod

from workerkit.core.rates import Rate
from workerkit.limits.decision import Decision

MOST_PARTS = 4096
_EXACT = 32


class _Window:
    """What one rate of one key has admitted; `records` are (time of the latest admission, count), oldest first."""

    __slots__ = ("_amount", "_base", "first", "period", "records", "share", "used")

    def __init__(self, amount: int, period: float) -> None:
        self._amount = amount
        self._base = period
        self.records: deque[tuple[float, int]] = deque()
        self.used = 0
        self.first = 0.0  # when the newest record began

    def wait(self, now: float, live: int, cost: int) -> float:
        """Drop what has left the window; how long until `cost` fits: 0.0, or the period when it never does."""
        self.share, self.period = self._amount // live, self._base
        if not self.share:
            self.share, self.period = 1, self._base * -(-live // self._amount)
        while self.records and self.records[0][0] + self.period <= now:
            self.used -= self.records.popleft()[1]
        if not self.records:
            self.used = 0  # whatever an interrupt in the middle of `charge` has left
        over = self.used + cost - self.share
        if over <= 0 or not cost:
            return 0.0
        for last, count in self.records:
            over -= count
            if over <= 0:
                return nextafter(last + self.period - now, inf)
        return self.period

    def charge(self, now: float, cost: int) -> None:
        """Count an admission; after `wait`."""
        if not cost:
            return
        self.used += cost  # first: an interrupt must not leave anything uncounted
        if self.records and self.share > _EXACT and now - self.first < self.period / _EXACT:
            self.records[-1] = (now, self.records[-1][1] + cost)
        else:
            self.records.append((now, cost))
            self.first = now

    @property
    def left(self) -> int:
        return max(0, self.share - self.used)

    @property
    def free_at(self) -> float:
        """When nothing is charged any more."""
        return self.records[-1][0] + self.period if self.records else -inf


class Share:
    """Admits at most floor(amount / live) of each rate in any of its periods, by the clock of this process.

    So a fleet of `live` processes that all do so stays within every amount. Where the amount is below `live` a share
    would be less than one: then a process admits at most one in ceil(live / amount) periods, which keeps the fleet
    within the amount *on average* only, as no process knows when the others take their turn. A cap below `live` leaves
    no slot for anybody.

    It begins empty: what Redis admitted in the last period before it went down is not known here.

    At most 4,096 keys are counted at once; while all of them hold charges, further keys are refused (`bound_by` is
    "local"). margin: seconds added to every period.
    """

    def __init__(
        self,
        rates: tuple[Rate, ...],
        concurrency: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        margin: float = 0.0,
    ) -> None:
        self._rates = rates
        self._concurrency = concurrency
        self._clock = clock
        self._margin = margin
        self._parts: dict[str, tuple[_Window, ...]] = {}
        self._held: dict[str, int] = {}
        self._full_until = -inf
        self._unlock()
        unlock = WeakMethod(self._unlock)
        os.register_at_fork(after_in_child=lambda: (act := unlock()) and act())

    def _unlock(self) -> None:
        # Reentrant, as a signal handler may ask in the middle of a request; new in a fork, as its holder is not there.
        self._lock = threading.RLock()

    def try_acquire(self, part: str, costs: tuple[int, ...], live: int) -> Decision:
        """Charge each rate its cost if all have room, else change nothing. `live` counts this process, too.

        Waiting `retry_after`, alone and with the same `live`, succeeds; except that a cost above the share is never
        admitted: then it is the rate's period, and only a smaller cost, fewer processes, or Redis help.
        """
        live = max(1, live)
        with self._lock:
            now = self._clock()
            windows = self._parts.get(part) or self._windows()
            waits = [window.wait(now, live, cost) for window, cost in zip(windows, costs, strict=True)]
            wait = max(waits, default=0.0)
            bound = str(self._rates[waits.index(wait)]) if wait else "local"
            if not wait and windows:
                wait = 0.0 if part in self._parts else self._full_for(now)
            if not wait and windows:
                self._parts[part] = windows
                for window, cost in zip(windows, costs, strict=True):
                    window.charge(now, cost)
            left = min([window.left for window in windows], default=self._slots(part, live))
            reset = max([window.free_at for window in windows], default=now) - now
            return Decision(not wait, left, wait, max(0.0, reset), bound)

    def hold(self, part: str, live: int) -> bool:
        """Take one of floor(concurrency / live) slots, if one is free (always, without a cap); then `release` it."""
        if self._concurrency is None:
            return True
        with self._lock:
            free = self._slots(part, max(1, live)) > 0
            if free:
                self._held[part] = self._held.get(part, 0) + 1
            return free

    def release(self, part: str) -> None:
        """Give back a slot that `hold` gave."""
        with self._lock:
            if held := self._held.pop(part, 1) - 1:
                self._held[part] = held

    def _windows(self) -> tuple[_Window, ...]:
        return tuple(_Window(rate.amount, rate.period + self._margin) for rate in self._rates)

    def _slots(self, part: str, live: int) -> int:
        return max(0, (self._concurrency or 0) // live - self._held.get(part, 0))

    def _full_for(self, now: float) -> float:
        """How long until one more key can be counted. Drops the keys that hold no charge when there are too many."""
        if len(self._parts) >= MOST_PARTS and now >= self._full_until:  # before that none can have come free
            ends = {part: max(window.free_at for window in windows) for part, windows in self._parts.items()}
            self._parts = {part: windows for part, windows in self._parts.items() if ends[part] > now}
            self._full_until = min(filter(now.__lt__, ends.values()), default=now)
        return nextafter(self._full_until - now, inf) if len(self._parts) >= MOST_PARTS else 0.0
