"""What a limiter answers, as a value; raising `RateLimited` is sugar on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Decision(NamedTuple):
    """The answer to "may I?".

    `remaining`: what the tightest rate has left (free slots for a limiter without rates). `retry_after` (seconds, 0.0
    when allowed): after that long, alone, the same request succeeds; only a hint for "concurrency", and where requests
    without an answer use up a rate. `reset_after` (seconds): when the rates are wholly free again if nobody asks.
    `bound_by`: the rate that refused as it was written ("100/s"; of several the one to wait for longest), else
    "concurrency", "pause", or "learned" (the called API said that nothing is left); "" when allowed, and when Redis was
    down "down" (`when_down="open"`: admitted unseen) or "local" (admitted from this process's share).
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    bound_by: str


class Answer(NamedTuple):
    """A decision with what is needed to hold it: the server's time of the charge (us), and the seconds to wait before
    acting on it."""

    decision: Decision
    stamp: int
    delay: float

    @property
    def acts(self) -> int:
        """The server's time (us) at which the call has its turn."""
        return self.stamp + round(self.delay * 1e6)


@dataclass(slots=True)
class Reservation:
    """A call's own time, charged already: act `delay` seconds after it was answered, or `cancel` it, once."""

    delay: float
    decision: Decision
    key: str
    charged: tuple[int, ...]
    stamp: int
    cancelled: bool = False
