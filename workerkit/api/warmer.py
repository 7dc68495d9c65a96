"""The work of a warmup: what there is to refresh, and refreshing it, a bounded part at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, NamedTuple

from workerkit.api.budget import Budget
from workerkit.api.demanding import Demands, decoded, encoded
from workerkit.api.engine import Engine
from workerkit.api.memo import Memo
from workerkit.cache.computation import Work
from workerkit.cache.entries import EntryKey
from workerkit.core.flow import Batch, Flow
from workerkit.errors import DefinitionError, RateLimited
from workerkit.warming.demand import Asked
from workerkit.warming.plan import Arguments, Plan, Target, plan
from workerkit.warming.run import Run

SLICE = 10.0  # seconds that a message is worked on, about
SHORT_WAIT = 1.0  # seconds of waiting for the limit in place, until there is room; longer waits are a message's
LONGEST_WAIT = 30.0  # seconds that a message waits
MOST_CALLS = 100_000
_LOT = 100  # entries that are looked at in one pipeline


class What(NamedTuple):
    """What is warmed. `args` are calls, or answer them; `hot` are so many of those asked for most."""

    args: list[Arguments] | Callable[[], Iterable[Any]]
    hot: int
    before: float
    budget: Budget | None


class Warmer:
    """Warms one function."""

    def __init__(self, engine: Engine, memo: Memo[Any, Any], name: str, what: What, demands: Demands) -> None:
        self._engine = engine
        self._memo = memo
        self._name = name
        self.function: str = memo.fn.__name__
        self._what = what
        self._demands = demands

    def plan(self) -> Plan:
        """What to refresh now, in which order, and what to leave alone and why."""
        planned, budget = self._engine.runner.run(self._planning()), self._what.budget
        if budget is None:
            return planned
        return planned._replace(share=budget.said, limited=budget.seconds(pick.arguments for pick in planned.picks))

    def go(self, run: Run, lost: threading.Event, failed: Callable[[Exception], object], *, here: bool) -> float | None:
        """Do some of a run; seconds after which the rest is to be done, None when there is nothing to do any more.

        It ends where the claim is `lost`, and where the next run is near. With `here` it is done in one go, but ends
        where the limit would have to be waited for.
        """
        if run.calls is None:
            planned = self.plan()
            run.calls = [pick.arguments for pick in planned.picks]
            run.done = run.done._replace(fresh=len(planned.skips))
        here = here or self.message(run) is None
        ends, patience = time.monotonic() + SLICE, SHORT_WAIT
        while run.calls and not lost.is_set():
            wait = self._first(run, run.calls, failed)
            patience = patience - wait if wait else SHORT_WAIT
            if patience < 0:
                late = self._engine.now_us() / 1000 + wait * 1000 > run.until
                return None if here or late else min(max(wait, SHORT_WAIT), LONGEST_WAIT)
            if time.monotonic() > ends and run.calls and not here:
                return 0.0
            lost.wait(wait)
        return None

    def message(self, run: Run) -> list[Any] | None:
        """A run as a message; None where one cannot hold its calls."""
        return run.message(self._encoded)

    def run_of(self, message: list[Any]) -> Run:
        """The run of a message."""
        return Run.of(message, lambda call: decoded(call.encode()))

    def _encoded(self, call: Arguments) -> str | None:
        data = encoded(self._memo.function, *call)
        return None if data is None else data.decode()

    def _first(self, run: Run, calls: list[Arguments], failed: Callable[[Exception], object]) -> float:
        """Refresh the first call; or the seconds after which there may be room for it."""
        args, kwargs = calls[0]
        try:
            wait = self._engine.runner.run(self._what.budget.asking(args, kwargs)) if self._what.budget else 0.0
            if wait:
                return wait
            self._refresh(args, kwargs)
            run.count("warmed")
        except RateLimited as limited:
            return max(limited.retry_after, 0.001)
        except self._engine.personal:
            raise
        except Exception as error:  # noqa: BLE001 - the user's function: one failure must not end the run
            run.count("failed")
            failed(error)
        del calls[0]
        return 0.0

    def _refresh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._memo.is_async:
            refreshed: Coroutine[Any, Any, Any] = self._memo.aio.refresh(*args, **kwargs)
            self._engine.host.wait_for(refreshed)
        else:
            self._memo.refresh(*args, **kwargs)

    def _planning(self) -> Flow[Plan]:
        targets: list[Target] = []
        calls, fetcher = (yield from self._calls()), self._memo.fetcher
        for start in range(0, len(calls), _LOT):
            lot = calls[start : start + _LOT]
            found = yield from Batch(*(fetcher.entries.get(work.key, work.tags) for _, _, work in lot))
            for (arguments, asked, work), each in zip(lot, found, strict=True):
                left, cost = (yield from fetcher.outlook(work, each)) or (None, None)
                targets.append(Target(arguments, asked, left, cost))
        return plan(targets, self._what.before)

    def _calls(self) -> Flow[list[tuple[Arguments, float | None, Work]]]:
        """Each call once, with how often it is asked for where that is counted."""
        declared, hot = self._what.args, self._what.hot
        calls = declared if isinstance(declared, list) else checked_calls(self._memo, self._name, declared())
        asked: list[Asked] = (yield from self._demands.of(self._memo.function).top(hot)) if hot else []
        found: dict[EntryKey, tuple[Arguments, float | None, Work]] = {}
        for arguments, rate in [
            *((decoded(each.call), each.rate) for each in asked),
            *((call, None) for call in calls),
        ]:
            work = self._memo.work(*arguments, aio=self._memo.is_async)
            found.setdefault(work.key, (arguments, rate, work))
        return list(found.values())


def checked_calls(memo: Memo[Any, Any], name: str, args: Iterable[Any]) -> list[Arguments]:
    """Calls as they are declared: a tuple of arguments, or the only argument. Raises DefinitionError for one that does
    not fit the function, and for more than 100,000."""
    return list(_checked(memo, name, args))


def _checked(memo: Memo[Any, Any], name: str, args: Iterable[Any]) -> Iterator[Arguments]:
    for number, call in enumerate(args):
        if number >= MOST_CALLS:
            raise DefinitionError(
                f"warmup {name}: args gives more than {MOST_CALLS:,} calls; warm what is asked for most: hot=500"
            )
        arguments = call if isinstance(call, tuple) else (call,)
        try:
            memo.signature.bind(*arguments)
        except TypeError as error:
            raise DefinitionError(f"warmup {name}: args {call!r:.100} do not fit the function: {error}") from None
        yield arguments, {}
