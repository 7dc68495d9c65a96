"""How the cost of a hit grows: with callers at once, and with entries in the store."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import redis
from _hits import aio_rows, both_places, sync_rows
from _rows import Case, Row, Run
from _subjects import TTL, VALUE, cashews, need, redis_py, workerkit, workerkit_aio

CALLERS = (1, 4, 16, 64)
SIZES = (10**2, 10**3, 10**4, 10**5, 10**6)
REAL = 2_000  # computed, and asked for
BATCH = 5_000  # few enough for the server not to keep others waiting
_FILL = "for n = ARGV[1], ARGV[2] do redis.call('SET', 'filler:' .. n, ARGV[3], 'EX', ARGV[4]) end"


def cases() -> Iterator[Case]:
    """One case a number of callers; one for all sizes, because each fills up what the one before left."""
    for callers in CALLERS:
        name = f"cache.hit.sync.callers.{callers}"
        yield Case(name, "redis-py", lambda run, name=name, callers=callers: _threads(run, name, callers))
    for callers in CALLERS:
        name = f"cache.hit.async.callers.{callers}"
        yield Case(name, "cashews", lambda run, name=name, callers=callers: _tasks(run, name, callers))
    yield Case("cache.hit.sync.keys", "redis-py", _sizes)


def _threads(run: Run, name: str, callers: int) -> Iterator[Row]:
    ours, peer = workerkit(run.url), redis_py(run.url)
    return sync_rows(run, name, "redis-py GET + loads", ours, peer, callers=callers)


def _tasks(run: Run, name: str, callers: int) -> Iterator[Row]:
    need("cashews")
    return aio_rows(run, name, "cashews", workerkit_aio(run.url), cashews(run.url), callers=callers)


def _sizes(run: Run) -> Iterator[Row]:
    """Hits on random keys of more and more; beyond REAL, entries that nobody asks for fill the store."""
    with workerkit(run.url) as mine, redis_py(run.url) as theirs, redis.Redis.from_url(run.url) as client:
        filled = 0
        for size in SIZES[:3] if run.quick else SIZES:
            for number in range(filled, min(size, REAL)):
                mine(number)
                theirs(number)
            for start in range(max(filled, REAL), size, BATCH):
                client.eval(_FILL, 0, start, min(start + BATCH, size) - 1, json.dumps(VALUE) * 2, TTL)
            filled = size
            chosen = random.Random(size).sample(range(min(size, REAL)), k=min(size, REAL))
            loops = [_wandering(function, chosen) for function in (mine, theirs)]
            name = f"cache.hit.sync.keys.{size}"
            yield from both_places(run, name, "redis-py GET + loads", *loops, goal=None, pinned_goal=None)
        counted = mine.memo.stats().computations  # type: ignore[attr-defined]  # a memoized function
        if counted > min(filled, REAL):
            raise ValueError(f"{counted - min(filled, REAL)} misses among the hits")


def _wandering(function: Any, chosen: list[int]) -> Any:
    keys = itertools.cycle(chosen)

    def loop(calls: int) -> None:
        for key in itertools.islice(keys, calls):
            function(key)

    return loop
