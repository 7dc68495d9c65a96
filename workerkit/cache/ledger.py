"""What the cache did: counted in the process, added to the fleet's ledger in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

_COUNT = Script("workerkit.cache", "count")
_LIST = Script("workerkit.cache", "list")
LIFE_MS = 30 * 86_400_000  # a function that nobody calls for a month is forgotten


class CacheStats(NamedTuple):
    """Counts since the ledger began.

    Each call is one of these: a hit in the process (`l1`), a fresh or `stale` one, one of an old value whose refresh
    failed (`failures`), a `remembered` failure, or a miss. Misses compute, or wait for who does: `waits` are those for
    another process. `errors` are uses of the cache that failed; `saved` is seconds: what hits would have cost.
    """

    l1: int = 0
    hits: int = 0
    stale: int = 0
    remembered: int = 0
    misses: int = 0
    computations: int = 0
    waits: int = 0
    failures: int = 0
    errors: int = 0
    saved: float = 0.0

    @property
    def calls(self) -> int:
        """All calls."""
        return self.l1 + self.hits + self.stale + self.failures + self.remembered + self.misses

    @property
    def hit_rate(self) -> float:
        """Calls answered from the cache, of all; 0.0 when there were none."""
        return (self.calls - self.misses) / self.calls if self.calls else 0.0


class Ledger:
    """The counters of one function in this process; `name` is for keys, `shown` for people.

    Losing the GIL between `+=` may lose a count, never a call.
    """

    _NAMES = (*(name for name in CacheStats._fields if name != "saved"), "saved_us")
    __slots__ = ("key", "name", "shown", *_NAMES)

    l1: int
    hits: int
    stale: int
    remembered: int
    misses: int
    computations: int
    waits: int
    failures: int
    errors: int
    saved_us: int

    def __init__(self, keys: Keys, name: str, shown: str = "") -> None:
        self.name = name
        self.shown = shown or name
        self.key = keys.key(name, "all", "n")
        for each in self._NAMES:
            setattr(self, each, 0)

    def take(self) -> dict[str, int]:
        """What was counted since the last time."""
        taken = {name: count for name in self._NAMES if (count := getattr(self, name))}
        self.give_back({name: -count for name, count in taken.items()})
        return taken

    def give_back(self, taken: Mapping[str, int]) -> None:
        """Count again what could not be sent."""
        for name, count in taken.items():
            setattr(self, name, getattr(self, name) + count)

    def add(self, counts: Mapping[str, int]) -> Call[Any]:
        """Add counts to the fleet's."""
        words: list[Word] = []
        for name, count in counts.items():
            words += (name, min(count, 1 << 52))  # a forged cost must not overflow the sum
        return Call("cache.count", "cache", int, script=_COUNT, keys=(self.key,), args=(LIFE_MS, *words))

    def read(self) -> Call[CacheStats]:
        """The fleet's counts, without what processes have not flushed yet."""
        return Call("cache.stats", "cache", _parse_stats, args=("HGETALL", self.key))


class Index:
    """The names of all ledgers, and how they are shown."""

    def __init__(self, keys: Keys) -> None:
        self._key = keys.key("stats", "all", "i")

    def add(self, ledgers: Iterable[Ledger]) -> Call[Any]:
        """List these; those that nobody listed for a month go."""
        names = [f"{ledger.name} {ledger.shown}" for ledger in ledgers]
        return Call("cache.list", "cache", int, script=_LIST, keys=(self._key,), args=(LIFE_MS, *names))

    def read(self) -> Call[list[tuple[str, str]]]:
        """The pairs of name and shown name."""
        return Call("cache.listed", "cache", _parse_names, args=("ZRANGE", self._key, 0, -1))


def merged(ledgers: Iterable[tuple[str, CacheStats]]) -> dict[str, CacheStats]:
    """Counts by shown name: what a function counted before and after its result's shape changed is one."""
    totals: dict[str, CacheStats] = {}
    for shown, stats in ledgers:
        before = totals.get(shown, CacheStats())
        totals[shown] = CacheStats._make(map(sum, zip(before, stats, strict=True)))
    return totals


def _parse_names(reply: Any) -> list[tuple[str, str]]:
    pairs = [member.decode("utf-8", "replace").partition(" ") for member in reply]
    return [(name, shown) for name, _, shown in pairs]


def _parse_stats(reply: Any) -> CacheStats:
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found = {name.decode(): int(count) for name, count in items}
    saved = found.pop("saved_us", 0) / 1e6
    return CacheStats(**{name: count for name, count in found.items() if name in CacheStats._fields}, saved=saved)
