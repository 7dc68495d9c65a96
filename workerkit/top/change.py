"""What happened between two snapshots: counts over seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from workerkit.cache.ledger import CacheStats
from workerkit.limits.tally import LimitStats
from workerkit.top.snapshot import Snapshot

T = TypeVar("T", CacheStats, LimitStats)
SPAN = 10.0  # seconds that a rate is over: processes send their counts each second, so over less it would flicker


@dataclass(frozen=True, slots=True)
class Change:
    """Counts of `seconds`, by function, by limiter, and by limiter and key where both snapshots have it; without an
    earlier snapshot there are none, and `seconds` is 0.0."""

    seconds: float
    functions: Mapping[str, CacheStats]
    limits: Mapping[str, LimitStats]
    keys: Mapping[tuple[str, str], LimitStats]

    @property
    def all_functions(self) -> CacheStats:
        """Those of all functions together."""
        return total(self.functions)

    def rate(self, count: float) -> float | None:
        """A count as one of each second; None while that is not known."""
        return count / self.seconds if self.seconds else None


def total(functions: Mapping[str, CacheStats]) -> CacheStats:
    """The counts of all functions together."""
    return CacheStats._make(map(sum, zip(CacheStats(), *functions.values(), strict=True)))


def change(before: Snapshot, after: Snapshot) -> Change:
    """What the fleet counted in between. Where counts were forgotten, those since then."""
    functions = {
        name: _grown((before.functions or {}).get(name, CacheStats()), stats)
        for name, stats in (after.functions or {}).items()
    }
    known = {limit.name: limit.stats for limit in before.limits or ()}
    limits = {limit.name: _grown(known.get(limit.name, LimitStats()), limit.stats) for limit in after.limits or ()}
    # What could not be read before has not all happened since.
    if before.functions is None:
        functions = {}
    if before.limits is None:
        limits = {}
    was, now = _keys(before), _keys(after)
    keys = {name: LimitStats(*(b - a for a, b in zip(was[name], now[name], strict=True))) for name in now.keys() & was}
    # Those of an hour that is over count no more.
    keys = {name: counts for name, counts in keys.items() if min(counts) >= 0}
    return Change(max(0.0, after.at - before.at), functions, limits, keys)


def _keys(snapshot: Snapshot) -> dict[tuple[str, str], LimitStats]:
    return {
        (limit.name, key.key): LimitStats(key.admitted, key.refused)
        for limit in snapshot.limits or ()
        for key in limit.keys
    }


def _grown(before: T, after: T) -> T:
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return after if min(differences) < 0 else type(after)._make(differences)


class Window:
    """The snapshots of the last SPAN seconds, and the rates that they make."""

    def __init__(self, span: float = SPAN) -> None:
        self._span = span
        self._kept: deque[Snapshot] = deque()

    def add(self, snapshot: Snapshot) -> Change:
        """The change until `snapshot`, since the oldest one that is kept."""
        if self._kept and snapshot.at <= self._kept[-1].at:
            self._kept.clear()  # the server's clock was set back
        self._kept.append(snapshot)
        while len(self._kept) > 2 and self._kept[1].at <= snapshot.at - self._span:
            self._kept.popleft()
        return change(self._kept[0], snapshot)
