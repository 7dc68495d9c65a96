"""Notices when this process was kept from running: what a test times then is the machine and not the product."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from time import monotonic, sleep

TICK = 0.02
STALL = 0.1  # seconds: as much as the tests of deadlines allow for


class Stalls(threading.Thread):
    """Sleeps for a moment, again and again; `longest` is by how many seconds it overslept, at most."""

    def __init__(self, now: Callable[[], float] = monotonic, sleep: Callable[[float], None] = sleep) -> None:
        super().__init__(name="tests-stalls", daemon=True)
        self.longest = 0.0
        self._now = now
        self._sleep = sleep

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # a test's signals are for its own threads
        while True:
            began = self._now()
            self._sleep(TICK)
            self.longest = max(self.longest, self._now() - began - TICK)

    def since(self) -> float:
        """The longest stall since this was last asked."""
        self._sleep(2 * TICK)  # one that has just ended is known only then
        longest, self.longest = self.longest, 0.0
        return longest
