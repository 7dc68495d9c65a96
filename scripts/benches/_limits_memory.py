"""What limits cost in a store of more and more keys: bytes of a key with its one rate, and the time of a decision."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import redis
from _hits import both_places
from _limits_rows import Versus, check
from _limits_subjects import Ask
from _pairs import Loop
from _rows import Case, Row, Run, Skip

from workerkit import WorkerKit

SIZES = (10**2, 10**3, 10**4, 10**5, 10**6)
FEW = 100
PERIOD = 1.0
RATES = ("1000/second",)
FILLED = 100  # admissions of each key, spread over the period: our window has about as many records then as ever
ASKED = 20_000  # keys that are asked for, at most
BATCH = 5_000  # few enough for the server not to keep others waiting
ROOM = 1e9  # bytes that one side may take
HOUR = 3600
_COPY = "for n = 2, #ARGV do redis.call('COPY', ARGV[1], ARGV[n], 'REPLACE') end"


def memory(versus: Versus) -> Case:
    """For each size a row of bytes and, in both places, a row of times."""
    return Case(versus.name, versus.peer.name, partial(_rows, versus))


def flat(versus: Versus) -> Case:
    """For each size rows of times beside ours in a store of few keys, with as many asked for: what a process knows of
    the keys that it has seen lately is not what is measured."""
    return Case(versus.name, f"{FEW} keys", partial(_flat_rows, versus._replace(peer=versus.ours)))


def _rows(versus: Versus, run: Run) -> Iterator[Row]:
    peer = versus.peer.name
    with _opened(versus, run) as stores:
        for size in _sizes(run):
            if any(store.usage() * size > ROOM for store in stores):
                raise Skip(f"{size:,} keys would take more than {ROOM:.0e} bytes")
            used, its = (store.weigh(size) for store in stores)
            ratio, name = used / its, f"{versus.name}.{size}"
            yield Row(name, "B", used, its, peer, ratio, ratio, ratio, 1, goal=versus.goal or {})
            yield from both_places(
                run, f"{name}.time", peer, *(_wandering(store, ASKED) for store in stores), goal=None, pinned_goal=None
            )


def _flat_rows(versus: Versus, run: Run) -> Iterator[Row]:
    with _opened(versus, run) as stores:
        for size in _sizes(run)[1:]:
            for store, each in zip(stores, (size, FEW), strict=True):
                store.fill(each)
            name, peer, loops = (
                f"{versus.name}.{size}",
                f"itself with {FEW} keys",
                (_wandering(store, FEW) for store in stores),
            )
            yield from both_places(run, name, peer, *loops, goal=None, pinned_goal=versus.pinned_goal)


def _sizes(run: Run) -> tuple[int, ...]:
    return SIZES[:3:2] if run.quick else SIZES


@contextlib.contextmanager
def _opened(versus: Versus, run: Run) -> Iterator[list[Store]]:
    """A store for each side, and one key charged in each."""
    with contextlib.ExitStack() as opened:
        digest = opened.enter_context(WorkerKit(url=run.url)).limiter("any", "1/s").part
        stores = []
        for number, side in enumerate((versus.ours, versus.peer)):
            url = f"{run.url.removesuffix('/0')}/{number}"  # a database each, whose tables grow by themselves
            ask = opened.enter_context(side.sync(url, *versus.rates))
            client = opened.enter_context(redis.Redis.from_url(url))
            stores.append(Store(client, ask, digest))
        for _ in range(FILLED):
            for store in stores:
                check(store.ask(_key(0)), 1, admitted=True)
            time.sleep(1.02 * PERIOD / FILLED)
        for store in stores:
            store.learn()
        yield stores


class Store:
    """A database full of keys that were charged as key 0 was, through the library; `digest` is what ours makes of a
    caller's key in the names of Redis keys."""

    def __init__(self, client: redis.Redis, ask: Ask, digest: Callable[[str], str]) -> None:
        self.ask = ask
        self.size = 0
        self._client = client
        self._part = digest
        self._values: dict[str, Any] = {}

    def learn(self) -> None:
        """Take what is there, under key 0, for what the others are to be filled with."""
        replies: Any = self._client.keys("*")
        names = [name.decode() for name in replies]
        if any(_key(0) in name for name in names):
            self._part = str
        first = self._part(_key(0))  # what is not of a key counts for all together
        self._values = {name: self._client.dump(name) for name in names if first in name}
        self.fill(FEW)  # so that the script's own bytes are there

    def weigh(self, size: int) -> float:
        """`fill`; answers the bytes that each key takes of the server: the median, as buffers come and go."""
        return median(self._filled(size) for _ in range(5 if size < BATCH else 1)) / size

    def fill(self, size: int) -> None:
        """Make it hold keys 0 to `size` and no others."""
        self._filled(size)

    def _filled(self, size: int) -> int:
        self.size = size
        self._client.execute_command("FLUSHDB", "SYNC")  # type: ignore[no-untyped-call]  # redis-py's only asks for async
        empty, first = self._used(), self._part(_key(0))
        for source, value in self._values.items():
            self._client.restore(source, HOUR * 1000, value)
            for start in range(1, size, BATCH):
                parts = (self._part(_key(number)) for number in range(start, min(start + BATCH, size)))
                self._client.eval(_COPY, 0, source, *(source.replace(first, part) for part in parts))
        return self._used() - empty

    def usage(self) -> int:
        """The bytes that the server counts for one key, names included, before there are tables of them."""
        return sum(self._client.memory_usage(name) or 0 for name in self._values)

    def _used(self) -> int:
        return int(self._client.info("memory")["used_memory"])


def _key(number: int) -> str:
    return f"account {number:07}"


def _wandering(store: Store, most: int) -> Loop:
    chosen = random.Random(store.size).sample(range(store.size), k=min(store.size, most))
    keys = itertools.cycle(map(_key, chosen))
    return lambda calls: check(sum(map(store.ask, itertools.islice(keys, calls))), calls, admitted=True)
