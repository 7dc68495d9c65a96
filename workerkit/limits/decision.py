"""What a limiter answers, as a value; raising `RateLimited` is sugar on top."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to "may I?".

    `remaining`: what the tightest rate has left (free slots for a limiter without rates). `retry_after` (seconds, 0.0
    when allowed): after that long, alone, the same request succeeds; for "concurrency" only a hint. `reset_after`
    (seconds): when the rates are wholly free again if nobody asks. `bound_by`: the rate that refused as it was
    written ("100/s"; of several the one to wait for longest), else "concurrency" or "pause"; "" when allowed, and
    "down" when Redis was down and the limiter's `when_down="open"` admitted unseen.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    bound_by: str
