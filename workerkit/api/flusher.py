"""Counts kept in the process, added to the fleet's every second."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from workerkit.cache.ledger import Index, Ledger
from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow
from workerkit.errors import StoreUnavailable
from workerkit.limits.tally import Tally
from workerkit.telemetry.runs import Runs
from workerkit.warming.demand import Demand

if TYPE_CHECKING:
    from workerkit.api.engine import Engine
    from workerkit.telemetry.watcher import Watcher

INTERVAL = 1.0


class Flusher:
    """Asks each ledger, tally, demand and record of runs for what it has, and sends it.

    Begins with the first use in a process, so after any fork.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ledgers: list[Ledger] = []
        self._tallies: list[Tally] = []
        self._demands: list[Demand] = []
        self._runs: list[Runs] = []
        self.watchers: list[Watcher] = []
        self.running = False  # in this process
        self._loop: asyncio.AbstractEventLoop | None = None
        forked = WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (act := forked()) and act())

    def _forked(self) -> None:
        self.running = False  # no thread of the parent lives on

    def add(self, ledger: Ledger) -> None:
        self._ledgers.append(ledger)

    def add_tally(self, tally: Tally) -> None:
        self._tallies.append(tally)

    def add_demand(self, demand: Demand) -> None:
        self._demands.append(demand)

    def add_runs(self, runs: Runs) -> None:
        self._runs.append(runs)

    def start(self) -> None:
        """See to it that a thread of this process flushes."""
        if not self.running:
            self.running = True
            self._engine.ticker.every(INTERVAL, "counts", self._beat)

    def begin(self) -> None:
        """See to it that somebody flushes: a task of the running loop, or a thread where there is none."""
        if asyncio._get_running_loop() is None:  # noqa: SLF001 - documented, and does not raise
            self.start()
        else:
            self.aio_started()

    def aio_started(self) -> None:
        """See to it that a task of the running loop flushes."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._engine.aio_ticker.every(INTERVAL, "counts", self._aio_beat)

    def _beat(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # the store's own events tell of it
            self.flush()

    async def _aio_beat(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.aio_flush()

    def flush(self) -> None:
        """Send what there is now; what certainly did not arrive is kept for the next time."""
        self._engine.runner.run(self.flow())

    async def aio_flush(self) -> None:
        """As `flush`."""
        await self._engine.aio_runner.run(self.flow())

    def flow(self) -> Flow[None]:
        """`flush` as a Flow."""
        failed: StoreUnavailable | None = None
        for flush in (self._flush_ledgers, self._flush_tallies, self._flush_demands, self._flush_runs):
            try:
                yield from flush()
            except StoreUnavailable as error:  # the other store may be well
                failed = error
        if failed is not None:
            raise failed

    def _flush_ledgers(self) -> Flow[None]:
        taken = [(ledger, counts) for ledger in self._ledgers if (counts := ledger.take())]
        if taken:
            calls = [ledger.add(counts) for ledger, counts in taken]
            yield from self._sent(taken, *calls, Index(self._engine.keys("c")).add(ledger for ledger, _ in taken))

    def _flush_demands(self) -> Flow[None]:
        taken = [(demand, calls) for demand in self._demands if (calls := demand.take())]
        if taken:
            yield from self._sent(taken, *[demand.add(calls) for demand, calls in taken])

    def _flush_tallies(self) -> Flow[None]:
        taken = [(tally, counts) for tally in self._tallies if (counts := tally.take())]
        if taken:
            yield from self._sent(taken, *[tally.add(counts) for tally, counts in taken])

    def _flush_runs(self) -> Flow[None]:
        taken = [(runs, longest) for runs in self._runs if (longest := runs.take())]
        if taken:
            yield from self._sent(taken, *[runs.add(longest) for runs, longest in taken])

    def _sent(self, taken: Sequence[tuple[Any, Any]], *calls: Call[Any]) -> Flow[None]:
        kept = False
        try:
            yield from Batch(*calls)
        except StoreUnavailable:
            kept = True
            for source, counts in taken:
                source.give_back(counts)
            raise
        finally:
            if not kept:  # else they are told of when they are taken again
                self._tell(taken)

    def _tell(self, taken: Sequence[tuple[Any, Any]]) -> None:
        for watcher, (source, counts) in product(self.watchers, taken):
            with contextlib.suppress(Exception):  # as a hook's
                if isinstance(source, Ledger):
                    watcher.cached(source.shown, counts)
                elif isinstance(source, Tally):
                    watcher.limited(source.name, counts.stats)
