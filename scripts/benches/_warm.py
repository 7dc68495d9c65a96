"""One way of the bench `warm`: readers of a function whose results live for seconds, beside a warmup, or none."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from workerkit import WorkerKit
from workerkit.api.warmup import Warmup
from workerkit.testing.servers import start_server

WAYS = ("none", "everything", "hot", "oracle")
TICKS = 4  # looks at what is due, each interval; as a beat would
LOTS = 4  # of everything
REPORTED = 100  # of the calls asked for most, that are compared with the truth


class Load(NamedTuple):
    """Who reads what, and how it is kept. Times are seconds; the same load is the same reads at the same moments."""

    seed: int
    seconds: float = 60.0
    keys: int = 10_000
    hot: int = 300  # of them are kept warm
    ttl: float = 4.0
    every: float = 1.0
    before: float = 2.0
    rate: int = 1500  # reads a second, of all readers
    readers: int = 4
    cost: float = 0.001  # of a call of the upstream

    @property
    def settled(self) -> float:
        """When the first cycle is over: what was there at the beginning has expired, and a tick has followed."""
        return self.ttl + self.every

    @property
    def ranking(self) -> list[int]:
        """The keys, the most popular first: their order says nothing of that."""
        return random.Random(self.seed).sample(range(self.keys), self.keys)

    def reads(self, reader: int) -> list[int]:
        """What one reader asks for, by Zipf(1.0)."""
        weights = list(accumulate(1 / rank for rank in range(1, self.keys + 1)))
        count = int(self.rate * self.seconds / self.readers)
        return random.Random(f"{self.seed} {reader}").choices(self.ranking, cum_weights=weights, k=count)


class Call(NamedTuple):
    """A call of the upstream: when, for which key, and whether a reader had to make it."""

    moment: float
    key: int
    reader: bool


class Run(NamedTuple):
    """A run of the warmup, and the keys that it was about."""

    began: float
    ended: float
    keys: frozenset[int]


class Seen(NamedTuple):
    """What came of one way; moments are seconds since the readers began."""

    way: str
    load: Load
    reads: list[tuple[float, int]]  # in order
    calls: list[Call]  # in order
    runs: list[Run]
    reported: list[int]  # the keys asked for most, as a warmup has them at the end

    @property
    def late(self) -> Seen:
        """After the first cycle."""
        return self.within(self.load.settled, self.load.seconds)

    def within(self, since: float, until: float) -> Seen:
        """The reads and calls of some time."""
        reads = self.reads[bisect_right(self.reads, (since,)) : bisect_right(self.reads, (until,))]
        return self._replace(reads=reads, calls=[call for call in self.calls if since <= call.moment < until])

    def of(self, keys: set[int]) -> Seen:
        """The reads and calls of some keys."""
        reads = [read for read in self.reads if read[1] in keys]
        return self._replace(reads=reads, calls=[call for call in self.calls if call.key in keys])

    @property
    def paid(self) -> int:
        """Calls that a reader had to make."""
        return sum(call.reader for call in self.calls)

    @property
    def hit_rate(self) -> float:
        """Reads for which their reader computed nothing, in percent."""
        return 100 * (1 - self.paid / len(self.reads)) if self.reads else 0.0

    def popular(self, most: int) -> Seen:
        """The reads and calls of so many most popular keys."""
        return self.of(set(self.load.ranking[:most]))

    @property
    def broken(self) -> int:
        """Calls that a reader had to make for a key that the warmup keeps warm: it has been part of each plan since
        that of the last run that was finished by then. Keys that come or go meanwhile are at the rim, not in the set.
        """
        ends = [run.ended for run in self.runs]
        count = 0
        for call in self.calls:
            finished = bisect_right(ends, call.moment) - 1
            if call.reader and finished >= 0:
                count += all(call.key in run.keys for run in self.runs[finished:] if run.began <= call.moment)
        return count

    def overlap(self, truth: Sequence[int]) -> float:
        """How many percent of so many most popular keys were reported."""
        return 100 * len(set(self.reported) & set(truth)) / len(truth)

    @property
    def most_read(self) -> list[int]:
        """The keys that were really read most; of those at the end that were read alike, those that were reported."""
        counts, reported = Counter(key for _, key in self.reads), set(self.reported)
        return sorted(counts, key=lambda key: (-counts[key], key not in reported))[:REPORTED]


class _Over(BaseException):
    """Ends a run, which goes on after other errors: one over everything takes longer than anybody wants to wait."""


class _Upstream:
    """Slow, and it notes who asks."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.notes: list[tuple[float, int, str]] = []
        self.over = False

    def __call__(self, key: int) -> int:
        who = threading.current_thread().name
        self.notes.append((time.monotonic(), key, who))
        if self.over and not who.startswith("reader"):
            raise _Over
        time.sleep(self.cost)
        return 2 * key


def watch(way: str, load: Load) -> Seen:
    """One way, on a server and with a kit of its own."""
    with start_server("valkey", tcp=True) as server, WorkerKit(url=server.url, hooks=[]) as kit:
        upstream = _Upstream(load.cost)

        @kit.memoize(load.ttl)
        def price(key: int) -> int:
            return upstream(key)

        warmups = _declared(kit, price, way, load)
        with _driven(kit, warmups, load, upstream) as runs:
            began, reads = _read(price, load)
        price.memo.stats()  # which sends what was counted, demand too
        reported = _targets([kit.warmup(price, every="1h", hot=REPORTED, name="most")]) if way == "hot" else ()
    calls = [Call(moment - began, key, who.startswith("reader")) for moment, key, who in upstream.notes]
    calls = [call for call in calls if call.reader or call.moment <= load.seconds]
    runs = [Run(run.began - began, run.ended - began, run.keys) for run in runs]
    return Seen(way, load, reads, calls, runs, sorted(reported))


def _declared(kit: WorkerKit, price: Any, way: str, load: Load) -> list[Warmup]:
    """The way's warmups: everything is in lots, each for another thread, as it would be for another worker."""
    options: dict[str, Any] = {"every": load.every, "before": load.before}
    if way == "everything":
        lots = [list(range(lot, load.keys, LOTS)) for lot in range(LOTS)]
        return [kit.warmup(price, **options, args=lot, name=f"lot {lot[0]}") for lot in lots]
    if way == "oracle":
        return [kit.warmup(price, **options, args=load.ranking[: load.hot])]
    return [kit.warmup(price, **options, hot=load.hot)] if way == "hot" else []


def _read(price: Callable[[int], int], load: Load) -> tuple[float, list[tuple[float, int]]]:
    """All readers; when they began, and what was read when."""
    asked = [load.reads(reader) for reader in range(load.readers)]
    done: list[list[tuple[float, int]]] = [[] for _ in asked]
    began, wrong = time.monotonic() + 0.05, list[int]()

    def read(reader: int) -> None:
        moment = reader / load.rate
        for key in asked[reader]:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            done[reader].append((time.monotonic() - began, key))
            if price(key) != 2 * key:
                wrong.append(key)
            moment += load.readers / load.rate

    readers = [threading.Thread(target=read, args=(n,), name=f"reader {n}") for n in range(load.readers)]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    if wrong:
        raise ValueError(f"{len(wrong)} reads answered something else, the first of key {wrong[0]}")
    if sum(map(len, done)) != sum(map(len, asked)):
        raise RuntimeError("a reader has failed")
    return began, sorted(read for reads in done for read in reads)


@contextlib.contextmanager
def _driven(kit: WorkerKit, warmups: list[Warmup], load: Load, upstream: _Upstream) -> Iterator[list[Run]]:
    """Within: what is due is run, as by beats; the runs that came of it, where one warmup is all there is."""
    runs, over = list[Run](), threading.Event()

    def drive() -> None:
        while not over.wait(load.every / TICKS):
            kit.warmups.run_due()

    def drive_one() -> None:
        (warmup,) = warmups
        while not over.wait(load.every / TICKS):
            keys, began = _targets(warmups), time.monotonic()
            kit.warmups.run_due()
            if warmup.status().runs > len(runs):
                runs.append(Run(began, time.monotonic(), keys))

    def beat() -> None:
        with contextlib.suppress(_Over):
            (drive_one if len(warmups) == 1 else drive)()

    beats = [threading.Thread(target=beat, name="beat") for _ in warmups]
    for each in beats:
        each.start()
    try:
        yield runs
    finally:
        over.set()
        upstream.over = True
        for each in beats:
            each.join()


def _targets(warmups: list[Warmup]) -> frozenset[int]:
    """The keys that they are about."""
    plans = [warmup.plan() for warmup in warmups]
    return frozenset(each.arguments[0][0] for plan in plans for each in (*plan.picks, *plan.skips))
