"""Two ways of doing the same, timed in paired rounds: what disturbs the machine disturbs both sides of a pair."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

Loop = Callable[[int], object]  # does it so many times


class Took(NamedTuple):
    """Seconds a call: by the clock on the wall, and of this process on all cores."""

    wall: float
    cpu: float


def took(loop: Loop, calls: int) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    loop(calls)
    return Took((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def enough(loop: Loop, seconds: float) -> int:
    """How many calls take about that long; warms up on the way."""
    calls = 1
    while (spent := took(loop, calls).wall * calls) < seconds / 2:
        calls = max(calls * 2, int(calls * seconds / 2 / max(spent, 1e-6)))
    return max(1, round(calls * seconds / spent))


def pairs(ours: Loop, peer: Loop, *, rounds: int, seconds: float) -> list[tuple[Took, Took]]:
    """`rounds` pairs, each side about `seconds` long, in the order ABBAABBA...: a drift favours neither."""
    mine, theirs = (enough(loop, seconds) for loop in (ours, peer))
    gc.collect()
    found = []
    for number in range(rounds):
        if number % 2:
            second = took(peer, theirs)
            found.append((took(ours, mine), second))
        else:
            found.append((took(ours, mine), took(peer, theirs)))
    return found


def summary(found: list[tuple[Took, Took]], *, scale: float) -> dict[str, Any]:
    """The fields of a row that come from paired rounds; `scale` turns seconds into the row's unit."""
    ratios = [mine.wall / theirs.wall for mine, theirs in found]
    return {
        "ours": median(mine.wall for mine, _ in found) * scale,
        "peer": median(theirs.wall for _, theirs in found) * scale,
        "ratio": median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "rounds": len(found),
        "ours_cpu": median(mine.cpu for mine, _ in found) * scale,
        "peer_cpu": median(theirs.cpu for _, theirs in found) * scale,
        "cpu_ratio": median(mine.cpu / max(theirs.cpu, 1e-9) for mine, theirs in found),
    }
