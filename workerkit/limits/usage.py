"""How a limiter key stands: what is used of each rate, who holds it, what was configured and what was learned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateUsage:
    """One rate. `limit` is what counts now, below its definition where an API's answers have brought it down.

    `remaining` of it now, `held` by requests without an answer; `reset_after` (seconds): when it is wholly free again
    if nobody asks. `learned` is the share of its rate that was learned (1.0: all of it). `told` is what the API said is
    left of this unit, for `told_for` seconds more; None when it said nothing that still counts.
    """

    rate: str
    limit: int
    remaining: int
    reset_after: float
    held: int
    learned: float
    told: int | None
    told_for: float


@dataclass(frozen=True, slots=True)
class Usage:
    """One key of a limiter: its rates, `holders` of `concurrency` slots (None: no cap), seconds that it is `paused`
    for still, and whether it was `configured` apart from the definition."""

    rates: tuple[RateUsage, ...]
    holders: int
    concurrency: int | None
    paused: float
    configured: bool
