"""The clocks that the memory in place of Redis goes by."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What says the store's time."""

    def now_us(self) -> int:
        """Microseconds since 1970."""


class RealClock:
    """The time of this machine."""

    def now_us(self) -> int:
        """As `Clock.now_us`."""
        return time.time_ns() // 1000
