"""What the cache did: counted in the process, added to the fleet's ledger in batches."""

from __future__ import annotations

from typing import Any, NamedTuple

from workerkit.core.call import Call, Word
from workerkit.core.lua import Script

_COUNT = Script("workerkit.cache", "count")
LIFE_MS = 30 * 86_400_000  # a function that nobody calls for a month is forgotten


class CacheStats(NamedTuple):
    """Counts since the ledger began. Each call is a hit, a stale hit or a miss; misses compute, or wait for who does.

    `errors` are uses of the cache that failed; `saved` is seconds: what hits would have cost to compute.
    """

    hits: int = 0
    stale: int = 0
    misses: int = 0
    computations: int = 0
    waits: int = 0
    errors: int = 0
    saved: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Calls answered from the cache, of all; 0.0 when there were none."""
        answered = self.hits + self.stale
        return answered / (answered + self.misses) if answered + self.misses else 0.0


class Ledger:
    """The counters of one function in this process. Losing the GIL between `+=` may lose a count, never a call."""

    __slots__ = ("computations", "errors", "hits", "key", "misses", "saved_us", "stale", "waits")
    _NAMES = ("hits", "stale", "misses", "computations", "waits", "errors", "saved_us")

    def __init__(self, key: str) -> None:
        self.key = key
        self.hits = self.stale = self.misses = self.computations = self.waits = self.errors = self.saved_us = 0

    def take(self) -> Call[Any] | None:
        """A Call that adds what was counted since the last time, or None when nothing was."""
        words: list[Word] = []
        for name in self._NAMES:
            count = getattr(self, name)
            if count:
                setattr(self, name, getattr(self, name) - count)
                words += (name, count)
        if not words:
            return None
        return Call("cache.count", "cache", int, script=_COUNT, keys=(self.key,), args=(LIFE_MS, *words))

    def read(self) -> Call[CacheStats]:
        """The fleet's counts, without what processes have not flushed yet."""
        return Call("cache.stats", "cache", _parse_stats, args=("HGETALL", self.key))


def _parse_stats(reply: Any) -> CacheStats:
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found = {name.decode(): int(count) for name, count in items}
    saved = found.pop("saved_us", 0) / 1e6
    return CacheStats(**{name: count for name, count in found.items() if name in CacheStats._fields}, saved=saved)
