"""`kit.warmup`: a memoized function kept warm, so that no caller pays for a cold cache."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from workerkit.api.budget import Budget
from workerkit.api.demanding import Demands, decoded
from workerkit.api.engine import Engine
from workerkit.api.memo import Memo
from workerkit.cache.computation import Work
from workerkit.cache.entries import EntryKey
from workerkit.core.events import WarmTick
from workerkit.core.flow import Batch, Flow
from workerkit.errors import DefinitionError, RateLimited
from workerkit.warming.demand import Asked
from workerkit.warming.plan import Arguments, Plan, Target, plan
from workerkit.warming.schedule import Missed, Schedule, due
from workerkit.warming.ticks import CLAIM_MS, State, Ticks

LONGEST_WAIT = 1.0  # seconds to wait for the limit; beyond that the rest is left to the next tick
_LOT = 100  # entries that are looked at in one pipeline
MOST_CALLS = 100_000


class Declared(NamedTuple):
    """A warmup's checked options. `args` are calls, or answer them; `hot` are so many of those asked for most."""

    name: str
    schedule: Callable[[], Schedule]
    said: str  # the schedule, as it was written
    args: list[Arguments] | Callable[[], Iterable[Any]]
    hot: int
    before: float
    missed: Missed
    grace: int | None  # ms
    at_once: bool
    budget: Budget | None


class Outcome(NamedTuple):
    """What a run did: entries refreshed, found fresh, failed, and left because the limit was used up."""

    warmed: int = 0
    fresh: int = 0
    failed: int = 0
    left: int = 0


@dataclass(frozen=True)
class WarmStatus:
    """How a warmup stands. Moments are in seconds since 1970, by the server's clock.

    `next` is when it is due, `running` since when a run is under way. `missed` ticks were left out because nobody was
    there to run them, `overlaps` because a run took that long. `last` is what the last run did, `reason` why it failed.
    """

    name: str
    schedule: str
    next: float
    running: float | None
    ended: float | None
    paused: bool
    runs: int
    missed: int
    overlaps: int
    last: Outcome | None
    reason: str


class Warmup:
    """One declared warming. Its verbs raise StoreError when Redis is down."""

    def __init__(self, engine: Engine, memo: Memo[Any, Any], declared: Declared, demands: Demands) -> None:
        self._engine = engine
        self._memo = memo
        self._declared = declared
        self._demands = demands

    @property
    def name(self) -> str:
        """Its name, which no other warmup of the kit has."""
        return self._declared.name

    @property
    def period(self) -> float:
        """Seconds between the next two ticks."""
        schedule = self._declared.schedule()
        after = schedule.after(int(time.time() * 1000))
        return (schedule.after(after) - after) / 1000

    @cached_property
    def _ticks(self) -> Ticks:
        return Ticks(self._engine.keys("h"), self.name)

    def plan(self) -> Plan:
        """What a run would refresh now, in which order, and what it would leave alone and why; nothing is changed."""
        return self._engine.runner.run(self._planning())

    def run(self) -> Outcome | None:
        """Run now, whatever is due, also while paused; what was done, or None while another run is under way."""
        return self._claimed(0, None, 0, by_hand=True)

    def run_due(self) -> Outcome | None:
        """Run the tick that is due, unless it is done, left out or under way; what was done, or None."""
        call, declared = self._engine.runner.call, self._declared
        state = call(self._ticks.look())  # whose reply tells the server's time, too
        now = self._engine.now_us() // 1000
        found = due(declared.schedule(), now, state.done, declared.missed, declared.grace, at_once=declared.at_once)
        if found.tick is None:
            if found.reason != "done" and call(self._ticks.mark(state.done, found.mark, found.passed)):
                self._tell(found.reason)
            return None
        return self._claimed(found.tick, state.done, found.passed)

    def status(self) -> WarmStatus:
        """How it stands."""
        state: State = self._engine.runner.call(self._ticks.look())
        after = self._declared.schedule().after(max(state.done or 0, self._engine.now_us() // 1000))
        last = {name: state.run[name] for name in Outcome._fields if name in state.run}
        return WarmStatus(
            self.name, self._declared.said, after / 1000, _seconds(state.started if state.running else None),
            _seconds(state.ended), state.paused, state.runs, state.missed, state.overlaps,
            Outcome(**last) if last else None, state.run.get("reason", ""),
        )  # fmt: skip

    def history(self, most: int = 10) -> list[dict[str, Any]]:
        """What the last runs said of themselves, the newest first; at most 50 are kept."""
        return [{**run} for run in self._engine.runner.call(self._ticks.history(most))]

    def pause(self) -> bool:
        """Run no more ticks until `resume`; False when it was paused already. A run that is under way goes on."""
        return self._engine.runner.call(self._ticks.pause(on=True))

    def resume(self) -> bool:
        """Let ticks be run again; False when it was not paused."""
        return self._engine.runner.call(self._ticks.pause(on=False))

    def _claimed(self, tick: int, done: int | None, passed: int, *, by_hand: bool = False) -> Outcome | None:
        call, token = self._engine.runner.call, secrets.token_hex(8)
        verdict = call(self._ticks.claim(token, tick, done, by_hand=by_hand))
        if verdict != "go":
            if verdict == "overlap":
                self._tell("overlap")
            return None
        renew = self._ticks.renew(token)
        beat = self._engine.ticker.every(CLAIM_MS / 3000, "warm claim", lambda: call(renew))
        began, outcome, reason = time.monotonic(), Outcome(), ""
        try:
            outcome = self._refreshed(self.plan())
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:500]
            raise
        finally:
            beat.stop()
            said = {**outcome._asdict(), "seconds": round(time.monotonic() - began, 3), "tick": tick, "reason": reason}
            call(self._ticks.finish(token, None if by_hand else tick, passed, said))
            self._tell(reason or " ".join(f"{name}={count}" for name, count in outcome._asdict().items()))
        return outcome

    def _refreshed(self, planned: Plan) -> Outcome:
        warmed = failed = 0
        for number, pick in enumerate(planned.picks):
            args, kwargs = pick.arguments
            try:
                if not self._allowed(args, kwargs) or not self._refresh(args, kwargs):
                    return Outcome(warmed, len(planned.skips), failed, left=len(planned.picks) - number)
                warmed += 1
            except Exception as error:  # noqa: BLE001 - the user's function: one failure must not end the run
                failed += 1
                self._tell(f"failed: {type(error).__name__}")
        return Outcome(warmed, len(planned.skips), failed)

    def _allowed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Wait a little for the budget; whether there was room."""
        budget, until = self._declared.budget, time.monotonic() + LONGEST_WAIT
        while budget is not None and (wait := self._engine.runner.run(budget.asking(args, kwargs))):
            if time.monotonic() + wait > until:
                return False
            time.sleep(wait)
        return True

    def _refresh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Compute anew, waiting a little for the limit; False when that would take long."""
        try:
            self._memo.refresh(*args, **kwargs)
        except RateLimited as limited:
            if limited.retry_after > LONGEST_WAIT:
                return False
            time.sleep(limited.retry_after)
            try:
                self._memo.refresh(*args, **kwargs)
            except RateLimited:
                return False
        return True

    def _planning(self) -> Flow[Plan]:
        targets: list[Target] = []
        calls, fetcher = (yield from self._calls()), self._memo.fetcher
        for start in range(0, len(calls), _LOT):
            lot = calls[start : start + _LOT]
            found = yield from Batch(*(fetcher.entries.get(work.key, work.tags) for _, _, work in lot))
            for (arguments, asked, work), each in zip(lot, found, strict=True):
                left, cost = (yield from fetcher.outlook(work, each)) or (None, None)
                targets.append(Target(arguments, asked, left, cost))
        return plan(targets, self._declared.before)

    def _calls(self) -> Flow[list[tuple[Arguments, float | None, Work]]]:
        """Each call once, with how often it is asked for where that is counted."""
        declared, hot = self._declared.args, self._declared.hot
        calls = declared if isinstance(declared, list) else checked_calls(self._memo, self.name, declared())
        asked: list[Asked] = (yield from self._demands.of(self._memo.function).top(hot)) if hot else []
        found: dict[EntryKey, tuple[Arguments, float | None, Work]] = {}
        for arguments, rate in [
            *((decoded(each.call), each.rate) for each in asked),
            *((call, None) for call in calls),
        ]:
            work = self._memo.work(*arguments, aio=self._memo.is_async)
            found.setdefault(work.key, (arguments, rate, work))
        return list(found.values())

    def _tell(self, outcome: str) -> None:
        self._engine.hooks.emit(WarmTick(self.name, outcome))


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


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
