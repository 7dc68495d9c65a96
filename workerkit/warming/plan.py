"""What a run refreshes, and in which order: a policy over what is known of each call, without any I/O."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any, NamedTuple

from workerkit.core.durations import humanize

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
UNKNOWN_COST = 0.1  # seconds; where nothing at all is known of what a computation takes


class Target(NamedTuple):
    """A call that a warmup is about. `asked`: how often in each second, None where that is not counted. `left`: seconds
    for which its entry is fresh, `cost`: those that its computation took; None without an entry.
    """

    arguments: Arguments
    asked: float | None = None
    left: float | None = None
    cost: float | None = None


class Pick(NamedTuple):
    """A call to refresh, what that should take in seconds, and what it is worth."""

    arguments: Arguments
    cost: float
    score: float


class Skip(NamedTuple):
    """A call to leave alone, and why."""

    arguments: Arguments
    reason: str


class Plan(NamedTuple):
    """The calls to refresh, the most valuable first, and those to leave alone.

    `share` says what of a limit they may use, and `limited` are the seconds that it makes of them at least.
    """

    picks: list[Pick]
    skips: list[Skip]
    share: str = ""
    limited: float = 0.0

    @property
    def seconds(self) -> float:
        """What it should take, one after the other."""
        return max(sum(pick.cost for pick in self.picks), self.limited)


def plan(targets: Iterable[Target], before: float) -> Plan:
    """Refresh what is not fresh for longer than `before` seconds.

    The score is demand x cost x nearness: how many seconds of waiting each second saves, weighted by how soon it will
    be too late. A call without an entry is nearest. Where demand is not counted all calls are asked for alike; where a
    cost is not known it is the mean of the others'.
    """
    known = list(targets)
    costs = [target.cost for target in known if target.cost is not None]
    usual = fmean(costs) if costs else UNKNOWN_COST
    picks, skips = [], []
    for target in known:
        if target.left is not None and target.left > before:
            skips.append(Skip(target.arguments, f"fresh for {humanize(round(target.left, 1))}"))
            continue
        cost = usual if target.cost is None else target.cost
        asked = 1.0 if target.asked is None else target.asked
        picks.append(Pick(target.arguments, cost, asked * max(cost, 1e-6) * _nearness(target.left, before)))
    picks.sort(key=lambda pick: -pick.score)
    return Plan(picks, skips)


def _nearness(left: float | None, before: float) -> float:
    """1 for what is not fresh any more, 0 for what is for `before` seconds."""
    if left is None or left <= 0:
        return 1.0
    return 1 - left / before
