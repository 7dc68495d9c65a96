"""A circuit breaker: after a few failures in a row, fail at once and let only a probe through now and then.

Source: M. Nygard, *Release It!* (2007), "Circuit Breaker".
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5  # a server that is back is noticed within half a second, whatever the load


class Breaker:
    """Whether a store may be called now. Times are monotonic seconds, given by the caller.

    A probe that never reports back (its caller was killed) blocks nothing: letting a probe through already moves
    the time of the next one.
    """

    __slots__ = ("_jitter", "_pause", "_retry_at", "failures", "threshold")

    def __init__(self, threshold: int, *, jitter: Callable[[], float] = random.random) -> None:
        self.threshold = threshold
        self.failures = 0
        self._jitter = jitter
        self._pause = FIRST_PAUSE
        self._retry_at = 0.0

    @property
    def closed(self) -> bool:
        return self.failures < self.threshold

    def admits(self, now: float) -> bool:
        """Whether a call may go out; while open, at most one a pause: the probe."""
        if self.failures < self.threshold:
            return True
        if now < self._retry_at:
            return False
        self._retry_at = now + self._pause
        return True

    def succeeded(self) -> bool:
        """Note a success; True if the breaker was open until now."""
        failures, self.failures = self.failures, 0  # one step: of several threads only one sees it close
        if failures:
            self._pause = FIRST_PAUSE
        return failures >= self.threshold

    def failed(self, now: float) -> bool:
        """Note a failure; True if this one opened the breaker."""
        failures = self.failures = self.failures + 1  # one step: of several threads only one sees it open
        if failures < self.threshold:
            return False
        # Half fixed, half random: probes of many processes spread out, none comes sooner than half a pause.
        self._retry_at = now + self._pause * (0.5 + 0.5 * self._jitter())
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return failures == self.threshold
