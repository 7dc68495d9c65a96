"""Limiters and who waits for them: the busiest keys of each, and those that tasks are parked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from workerkit.api.kit import WorkerKit
from workerkit.api.limiter import Limiter
from workerkit.core.call import Call, as_is
from workerkit.limits.tally import KeyCount, LimitStats
from workerkit.top.asking import Answers, Questions
from workerkit.top.snapshot import Limit, LimitKey, Parked
from workerkit.waitlist.line import Line
from workerkit.waitlist.waitlist import line_of

KEYS = 5  # of each limiter
LINES = 30  # of the waitlist: those that are to be looked at next


class Place(NamedTuple):
    """One key: its limiter's name, its part (None where that cannot be told), and its line in the waitlist."""

    limiter: str
    part: str | None
    line: str
    counted: KeyCount


class Limits:
    """The limiters of one kit, looked at in two steps; a warmup's budget is no limiter of the app's."""

    def __init__(self, kit: WorkerKit) -> None:
        self._limiters = {name: each for name, each in kit.limiters.items() if not each.internal}
        self._waitlist = kit.engine.waitlist

    def first(self) -> Questions:
        """What was decided, and who is parked."""
        waitlist = self._waitlist
        return {
            "tickets": waitlist.count(),
            "out": Call("waitlist.out", "guard", int, args=("ZCARD", waitlist.out)),
            "quarantined": Call("waitlist.quarantined", "guard", int, args=("HLEN", waitlist.quarantined)),
            "lines": Call("waitlist.due", "guard", as_is, args=("ZRANGE", waitlist.due, 0, LINES - 1)),
            **{("limit", name): each.tally.foremost(KEYS) for name, each in self._limiters.items()},
        }

    def places(self, first: Answers) -> list[Place]:
        """The keys to ask about."""
        found: dict[str, Place] = {}
        for name, limiter in self._limiters.items():
            for count in first["limit", name].keys:
                part = limiter.part_of(count.key)
                line = f"{name} {count.key}" if part is None else Line(name, part, "").name
                found[line] = Place(name, part, line, count)
        for line in (each.decode() for each in first["lines"]):
            name, _, part = line.partition(":")
            found.setdefault(line, Place(name, part, line, KeyCount(part, 0, 0)))
        return list(found.values())

    def second(self, places: Sequence[Place]) -> Questions:
        """How those keys stand."""
        asked: dict[Any, Call[Any]] = {}
        for place in places:
            if place.part is None:
                continue
            asked["parked", place.line] = Call(
                "waitlist.length", "guard", int, args=("ZCARD", self._waitlist.of_line(place.line)[1])
            )
            asked["line", place.line] = Call(
                "waitlist.line", "guard", as_is, args=("HGET", self._waitlist.lines, place.line)
            )
            limiter = self._limiters.get(place.limiter)
            if limiter is not None:
                asked["usage", place.line] = limiter.policy.usage(limiter.keys, place.part)
                asked["waiting", place.line] = limiter.waiters.read(place.part)
        return asked

    def limits(self, first: Answers, places: Sequence[Place], second: Answers) -> tuple[Limit, ...]:
        """All of it; those that only the waitlist knows last: the app defines them no more, or not yet."""
        keys: dict[str, list[LimitKey]] = {name: [] for name in self._limiters}
        for place in places:
            found = _key(place, second)
            if found.parked or place.counted.asked:  # else its line was emptied meanwhile
                limiter = self._limiters.get(place.limiter)
                alone = limiter is not None and place.part == limiter.part("")  # its calls name no key
                keys.setdefault(place.limiter, []).append(replace(found, key="") if alone else found)
        return tuple(_limit(name, self._limiters.get(name), first, tuple(each)) for name, each in keys.items())


def parked(first: Answers) -> Parked:
    """The waitlist's numbers."""
    out, quarantined = first["out"], first["quarantined"]
    return Parked(max(0, first["tickets"] - out - quarantined), out, quarantined)


def _key(place: Place, second: Answers) -> LimitKey:
    data, count = second.get(("line", place.line)), place.counted
    line = None if data is None else line_of(place.line, data)
    return LimitKey(
        line.label if line is not None and line.limiter else count.key,
        count.admitted,
        count.refused,
        second.get(("usage", place.line)),
        tuple(second.get(("waiting", place.line), ())),
        second.get(("parked", place.line), 0),
        line.bound_by if line is not None else "",
    )


def _limit(name: str, limiter: Limiter | None, first: Answers, keys: tuple[LimitKey, ...]) -> Limit:
    if limiter is None:
        return Limit(name, (), None, LimitStats(), keys)
    definition = limiter.definition
    return Limit(name, tuple(map(str, definition.rates)), definition.concurrency, first["limit", name].stats, keys)
