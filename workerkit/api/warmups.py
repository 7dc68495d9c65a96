"""The warmups of one kit: declared, checked, and run when they are due."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from workerkit.api.budget import Budget
from workerkit.api.demanding import Demands
from workerkit.api.engine import Engine
from workerkit.api.memo import Memo
from workerkit.api.warmer import Warmer, What, checked_calls
from workerkit.api.warmup import Warmup, When
from workerkit.core.durations import Duration, humanize, seconds
from workerkit.core.events import WarmTick
from workerkit.errors import DefinitionError
from workerkit.warming.demand import CAP
from workerkit.warming.plan import Arguments
from workerkit.warming.schedule import MISSED, Cron, Every, Missed, Schedule, offset

SHORTEST = 1.0
Args = Iterable[Any] | Callable[[], Iterable[Any]]


class Warmups:
    """`kit.warmups`: a kit's warmups by name (`kit.warmups["rates"]`), in the order in which they were declared.

    Raises DefinitionError for a name that was not declared.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_name: dict[str, Warmup] = {}
        self.demands = Demands()
        self.changed: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Warmup]:
        return iter(list(self._by_name.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Warmup:
        """Raises DefinitionError, naming those that there are."""
        found = self._by_name.get(name)
        if found is None:
            raise DefinitionError(f"there is no warmup {name!r:.60}; there are: {', '.join(self._by_name) or 'none'}")
        return found

    def add(
        self,
        fn: Any,
        *,
        every: Duration | None,
        cron: str | None,
        args: Args | None,
        hot: int,
        before: Duration | None,
        budget: str | None,
        jitter: Duration,
        missed: Missed,
        grace: Duration | None,
        on_start: bool,
        queue: str | None,
        name: str | None,
    ) -> Warmup:
        """Declare a warmup. Raises DefinitionError for what cannot work."""
        if not (isinstance(name, str) or name is None) or not isinstance(queue, str | None):
            raise DefinitionError(f"warmup: name and queue must be text, not {name!r:.40} and {queue!r:.40}")
        memo = getattr(fn, "memo", None)
        if not isinstance(memo, Memo):
            raise DefinitionError(f"warmup: {fn!r} is not memoized; put @kit.memoize(...) on it")
        name = name or memo.fn.__qualname__
        if name in self._by_name:
            raise DefinitionError(f"there is a warmup {name} already; give this one another name=")
        schedule, said = self._schedule(name, every, cron, jitter)
        interval = (schedule.after(schedule.after(0)) - schedule.after(0)) / 1000
        if missed not in MISSED:
            raise DefinitionError(f"warmup {name}: missed must be one of {', '.join(MISSED)}, not {missed!r:.40}")
        late = None if grace is None else round(seconds(grace, what=f"warmup {name}: grace") * 1000)
        when = When(
            # In the app's time, which may not be known yet.
            cache(lambda: replace(schedule, zone=self._engine.host.zone()) if isinstance(schedule, Cron) else schedule),
            said,
            missed,
            round(interval * 500) if late is None and missed == "skip" else late,
            on_start or cron is None,
            on_start,
            queue,
        )
        what = What(
            _args(memo, name, args, hot),
            hot,
            # What expires before the next run is over has to be refreshed now; a run may take an interval.
            interval * 2 if before is None else seconds(before, what=f"warmup {name}: before"),
            None if budget is None else Budget(self._engine, memo, name, budget),
        )
        if hot:
            self.demands.record(memo.function, name)
        warmer = Warmer(self._engine, memo, name, what, self.demands)
        warmup = self._by_name[name] = Warmup(self._engine, name, when, warmer)
        self.changed()
        return warmup

    def _schedule(self, name: str, every: Duration | None, cron: str | None, jitter: Duration) -> tuple[Schedule, str]:
        if (every is None) == (cron is None):
            raise DefinitionError(f'warmup {name}: give either every="5m" or cron="0 6 * * *"')
        most_late = seconds(jitter, what=f"warmup {name}: jitter", zero_ok=True)
        late = offset(name, round(most_late * 1000))
        if cron is not None:
            # By name, as the kit finds its glue: cron lines are read by Celery.
            made: Cron = importlib.import_module("workerkit.celery.cron").parsed(
                cron, late, what=f"warmup {name}: cron"
            )
            return made, f"cron {cron}"
        interval = seconds(every or 0, what=f"warmup {name}: every")
        if interval < SHORTEST:
            raise DefinitionError(
                f"warmup {name}: every {humanize(interval)} is too often; {humanize(SHORTEST)} at least"
            )
        if most_late >= interval:
            raise DefinitionError(
                f"warmup {name}: a jitter of {humanize(most_late)} is as long as its interval of {humanize(interval)}; "
                "make it shorter"
            )
        return Every(round(interval * 1000), late), f"every {humanize(interval)}"

    @property
    def shortest(self) -> float | None:
        """The shortest interval, None without warmups."""
        return min((each.period for each in self), default=None)

    def go_on(self, name: str, message: list[Any]) -> None:
        """Work on the run of a message. Where its warmup is not known (yet), another worker gets it some time later."""
        if name in self._by_name:
            self._by_name[name].go_on(message)
        else:
            self._engine.hooks.emit(WarmTick(name, "failed", "this worker knows no such warmup"))

    def run_due(self) -> None:
        """Run what is due, in this process. Each warmup by itself: one that fails leaves the others alone."""
        self._each(Warmup.run_due)

    def send_due(self) -> None:
        """Have the workers run what is due."""
        self._each(Warmup.send_due)

    def start(self) -> None:
        """Have the workers run what is to run when one of them starts."""
        self._each(lambda warmup: warmup.on_start and (warmup.send_due() or warmup.send()))

    def _each(self, act: Callable[[Warmup], object]) -> None:
        for warmup in self:
            try:
                act(warmup)
            except Exception as error:  # noqa: BLE001 - the other warmups go on
                self._engine.hooks.emit(WarmTick(warmup.name, "failed", f"{type(error).__name__}: {error}"))


def _args(
    memo: Memo[Any, Any], name: str, args: Args | None, hot: int
) -> list[Arguments] | Callable[[], Iterable[Any]]:
    if type(hot) is not int or not 0 <= hot <= CAP // 2:
        raise DefinitionError(f"warmup {name}: hot must be an int from 1 to {CAP // 2}, not {hot!r:.40}")
    if args is None:
        if not hot:
            raise DefinitionError(f"warmup {name}: give args=[...], or hot=500 for the 500 calls asked for most")
        return []
    if isinstance(args, (str, bytes)) or not (callable(args) or isinstance(args, Iterable)):
        raise DefinitionError(f"warmup {name}: args must be a list of calls: write args=[{args!r:.60}]")
    return args if callable(args) else checked_calls(memo, name, args)
