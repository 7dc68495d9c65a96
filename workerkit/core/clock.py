"""The server's time, carried on this process's monotonic clock.

Deadlines travel to the server as server time. A client's own wall clock is never asked, so it may be off by hours.
"""

from __future__ import annotations

import time


class ServerClock:
    """What the server's `TIME` is, as a lower bound.

    A sample was taken by the server before its reply arrived, so `server + (t - received)` is never ahead of the
    true server time: a Call's *not after* never lets a script run after its caller gave up.
    """

    __slots__ = ("_offset_us", "learned")

    def __init__(self) -> None:
        self._offset_us: int | None = None
        self.learned = float("-inf")

    @property
    def known(self) -> bool:
        return self._offset_us is not None

    def learn(self, server_us: int, received: float) -> None:
        """Take a sample: the server said `server_us`, and the reply came at monotonic `received` seconds."""
        self._offset_us = server_us - int(received * 1e6)
        self.learned = received

    def at(self, monotonic: float) -> int:
        """The server's time in microseconds at `monotonic` seconds of this process's clock."""
        if self._offset_us is None:
            raise RuntimeError("the server's clock is not known before the first connection")
        return self._offset_us + int(monotonic * 1e6)

    def now_us(self) -> int:
        """The server's time now, in microseconds."""
        # As `at` does it, without its frame: every hit asks.
        if self._offset_us is None:
            return self.at(0.0)
        return self._offset_us + int(time.monotonic() * 1e6)
