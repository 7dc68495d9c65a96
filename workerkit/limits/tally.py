"""What a limiter did: totals and the busiest keys, counted in the process and added to the fleet's in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable
from heapq import nlargest
from typing import Any, NamedTuple
from weakref import WeakMethod

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

MOST_PARTS = 1000  # kept in the process between two flushes; what the others did is in the totals
MOST_SENT = 200  # the busiest of them: bounds what one flush costs the server
LONGEST = 200
LIFE_MS = 30 * 86_400_000  # a limiter that nobody asks for a month is forgotten

_ADD = Script("workerkit.limits", "tally")
_FOREMOST = Script("workerkit.limits", "foremost")


class LimitStats(NamedTuple):
    """Decisions since the tally began; `unseen` ones admitted while Redis was down are not among `admitted`."""

    admitted: int = 0
    refused: int = 0
    unseen: int = 0


class KeyCount(NamedTuple):
    """What was decided for one key in the last one to two hours."""

    key: str
    admitted: int
    refused: int

    @property
    def asked(self) -> int:
        return self.admitted + self.refused


class Foremost(NamedTuple):
    """What all processes decided, and for which keys most."""

    stats: LimitStats
    keys: list[KeyCount]


class Counts(NamedTuple):
    """What one process counted: `stats` are all of it, `keys` the busiest."""

    stats: LimitStats
    keys: list[KeyCount]


class Tally:
    """The counts of one limiter in this process; `name` is for keys.

    Losing the GIL between a count's reading and writing may lose it. A forked child begins at zero: its parent sends
    what was counted before.
    """

    __slots__ = ("__weakref__", "_admitted", "_buckets", "_others", "_refused", "_totals", "_unseen", "name")

    def __init__(self, keys: Keys, name: str) -> None:
        self.name = name
        self._totals = keys.key(name, "all", "n")
        self._buckets = (keys.key(name, "all", "b0"), keys.key(name, "all", "b1"))
        self._clear()
        clear = WeakMethod(self._clear)
        os.register_at_fork(after_in_child=lambda: (act := clear()) and act())

    def _clear(self) -> None:
        self._admitted: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._others = [0, 0]  # refused and admitted for keys that had no place
        self._unseen = 0

    def note(self, part: str, admitted: bool) -> None:
        """Count one decision of Redis for the key that is shown as `part`."""
        counts = self._admitted if admitted else self._refused
        known = counts.get(part)
        if known is not None:
            counts[part] = known + 1
        else:
            self._count(part, admitted, 1)

    def note_unseen(self) -> None:
        """Count one admission without Redis."""
        self._unseen += 1

    def take(self) -> Counts | None:
        """What was counted since the last time; None if nothing."""
        admitted, refused, others, unseen = self._admitted, self._refused, self._others, self._unseen
        if not (admitted or refused or unseen):
            return None
        self._clear()
        keys = (KeyCount(part, admitted.get(part, 0), refused.get(part, 0)) for part in {**admitted, **refused})
        stats = LimitStats(sum(admitted.values()) + others[1], sum(refused.values()) + others[0], unseen)
        return Counts(stats, _busiest(keys, MOST_SENT))

    def give_back(self, taken: Counts) -> None:
        """Count again what could not be sent."""
        self._unseen += taken.stats.unseen
        self._others[1] += taken.stats.admitted - sum(each.admitted for each in taken.keys)
        self._others[0] += taken.stats.refused - sum(each.refused for each in taken.keys)
        for part, admitted, refused in taken.keys:
            self._count(part, True, admitted)
            self._count(part, False, refused)

    def add(self, counts: Counts) -> Call[Any]:
        """Add counts to the fleet's."""
        words: list[Word] = [LIFE_MS, *counts.stats]
        for part, admitted, refused in counts.keys:
            shown = part[:LONGEST].encode("utf-8", "backslashreplace")
            words += [word for sign, n in ((b"+", admitted), (b"-", refused)) if n for word in (sign + shown, n)]
        return Call("limits.tally", "guard", int, script=_ADD, keys=(self._totals, *self._buckets), args=tuple(words))

    def read(self) -> Call[LimitStats]:
        """The fleet's totals, without what processes have not flushed yet."""
        return Call("limits.stats", "guard", _parse_stats, args=("HGETALL", self._totals))

    def busiest(self, most: int) -> Call[list[KeyCount]]:
        """The `most` keys that were asked for most in this clock hour (the server's) and the one before.

        What a key was admitted, or refused, less often than a thousand others in an hour may be missing.
        """

        def parse(reply: Any) -> list[KeyCount]:
            return _busiest(_key_counts(reply), most)

        # Each bucket expires with the hour after its own, so those that are there are the ones that count.
        return Call("limits.busiest", "guard", parse, args=("ZUNION", 2, *self._buckets, "WITHSCORES"))

    def foremost(self, most: int) -> Call[Foremost]:
        """The totals and about the `most` busiest keys, for who looks each second: it does not read all that is kept.
        A key is found by what it was admitted, or refused, in one of the two hours."""
        keys = (self._totals, *self._buckets)
        return Call("limits.foremost", "guard", _foremost, script=_FOREMOST, keys=keys, args=(most,))

    def _count(self, part: str, admitted: bool, n: int) -> None:
        counts = self._admitted if admitted else self._refused
        if part in counts or len(counts) < MOST_PARTS:
            counts[part] = counts.get(part, 0) + n
        else:
            self._others[admitted] += n


def _busiest(keys: Iterable[KeyCount], most: int) -> list[KeyCount]:
    return nlargest(most, keys, key=lambda each: each.asked)


def _key_counts(reply: Any) -> list[KeyCount]:
    pairs = reply if reply and isinstance(reply[0], list) else zip(reply[::2], reply[1::2], strict=True)
    found: dict[bytes, list[int]] = {}
    for member, score in pairs:
        found.setdefault(member[1:], [0, 0])[member[:1] == b"+"] += int(float(score))
    return [KeyCount(part.decode("utf-8", "replace"), counts[1], counts[0]) for part, counts in found.items()]


def _foremost(reply: Any) -> Foremost:
    keys = [
        KeyCount(key.decode("utf-8", "replace"), admitted, refused)
        for key, admitted, refused in zip(reply[3::3], reply[4::3], reply[5::3], strict=True)
    ]
    return Foremost(LimitStats(*reply[:3]), keys)


def _parse_stats(reply: Any) -> LimitStats:
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found = {name.decode(): int(count) for name, count in items}
    return LimitStats(**{name: count for name, count in found.items() if name in LimitStats._fields})
