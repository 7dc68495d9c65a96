"""For how many such requests a limiter has room now."""

from __future__ import annotations

from typing import NamedTuple

from workerkit.limits.decision import Decision
from workerkit.limits.usage import Usage


class Room(NamedTuple):
    """How many would be admitted now, or in how many seconds the first may be; `paced`: there is no cap."""

    requests: int
    wait: float
    paced: bool


def room(decision: Decision, usage: Usage, costs: tuple[int, ...]) -> Room:
    """From what a request would be answered, how the key stands, and what it costs of each of its rates."""
    paced = usage.concurrency is None
    if not decision.allowed:
        return Room(0, decision.retry_after, paced)
    left = [rate.remaining if rate.told is None else min(rate.remaining, rate.told) for rate in usage.rates]
    each = [have // cost for have, cost in zip(left, costs, strict=True)]
    if usage.concurrency is not None:
        each.append(usage.concurrency - usage.holders)
    return Room(max(1, min(each, default=1)), 0.0, paced)
