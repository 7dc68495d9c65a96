"""`kit.warmup`: memoized functions refreshed on an interval, so that no caller pays for a cold cache."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from workerkit.api.engine import Engine
from workerkit.api.memo import Memo
from workerkit.core.durations import Duration, humanize, seconds
from workerkit.core.events import WarmTick
from workerkit.errors import DefinitionError, EncodingError, RateLimited
from workerkit.warming.schedule import Due, Every, due
from workerkit.warming.ticks import CLAIM_MS, Ticks

SHORTEST = 1.0
LONGEST_WAIT = 1.0  # seconds to wait for the limit; beyond that the rest is left to the next tick


class Outcome(NamedTuple):
    """What a tick did: entries refreshed, found fresh, failed, and left because the limit was used up."""

    warmed: int = 0
    fresh: int = 0
    failed: int = 0
    left: int = 0


class Warmup:
    """One declared warming."""

    def __init__(
        self,
        engine: Engine,
        memo: Memo[Any, Any],
        name: str,
        every: float,
        before: float,
        args: Iterable[Any] | Callable[[], Iterable[Any]],
    ) -> None:
        self._engine = engine
        self._memo = memo
        self.name = name
        self.every = every
        self._before = before
        self._schedule = Every(round(every * 1000))
        self._args = args if callable(args) else _checked(memo, name, args)

    @cached_property
    def _ticks(self) -> Ticks:
        return Ticks(self._engine.keys("h"), self.name)

    def run_due(self) -> Outcome | None:
        """Run the tick that is due, unless it is done or under way; what it did, or None."""
        call = self._engine.runner.call
        state = call(self._ticks.look())  # whose reply tells the server's time, too
        now = self._engine.now_us() // 1000
        found = due(self._schedule, now, state.done, "once", None, at_once=True)
        if found.tick is None:
            return None
        token = secrets.token_hex(8)
        if call(self._ticks.claim(token, found.tick, state.done)) != "go":
            return None
        return self._claimed(token, found)

    def _claimed(self, token: str, found: Due) -> Outcome:
        call = self._engine.runner.call
        renew = self._ticks.renew(token)
        beat = self._engine.ticker.every(CLAIM_MS / 3000, "warm claim", lambda: call(renew))
        try:
            outcome = self.run()
        finally:
            beat.stop()
        call(self._ticks.finish(token, found.tick, found.passed, outcome._asdict()))
        self._engine.hooks.emit(WarmTick(self.name, " ".join(f"{k}={v}" for k, v in outcome._asdict().items())))
        return outcome

    def run(self) -> Outcome:
        """Refresh what is due to expire, now; what was done."""
        warmed = fresh = failed = 0
        calls = list(self._args() if callable(self._args) else self._args)
        for done, call in enumerate(calls):
            arguments = call if isinstance(call, tuple) else (call,)
            try:
                if self._is_fresh(arguments):
                    fresh += 1
                elif self._refresh(arguments):
                    warmed += 1
            except RateLimited:
                return Outcome(warmed, fresh, failed, left=len(calls) - done)
            except Exception as error:  # noqa: BLE001 - the user's function: one failure must not end the tick
                failed += 1
                self._engine.hooks.emit(WarmTick(self.name, f"failed: {type(error).__name__}"))
        return Outcome(warmed, fresh, failed)

    def _is_fresh(self, arguments: tuple[Any, ...]) -> bool:
        return self._engine.runner.run(self._memo.fetcher.fresh_for(self._memo.work(arguments, {}))) > self._before

    def _refresh(self, arguments: tuple[Any, ...]) -> bool:
        try:
            self._memo.refresh(*arguments)
        except RateLimited as limited:
            if limited.retry_after > LONGEST_WAIT:
                raise
            time.sleep(limited.retry_after)
            self._memo.refresh(*arguments)
        return True


def _checked(memo: Memo[Any, Any], name: str, args: Iterable[Any]) -> list[Any]:
    calls = list(args)
    for call in calls:
        try:
            memo.signature.bind(*(call if isinstance(call, tuple) else (call,)))
        except (TypeError, EncodingError) as error:
            raise DefinitionError(f"warmup {name}: args {call!r} do not fit the function: {error}") from None
    return calls


class Warmups:
    """The warmups of one kit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_name: dict[str, Warmup] = {}
        self.changed: Callable[[], None] = lambda: None

    def add(
        self,
        fn: Any,
        *,
        every: Duration,
        args: Iterable[Any] | Callable[[], Iterable[Any]],
        before: Duration | None,
        name: str | None,
    ) -> Warmup:
        """Declare a warmup. Raises DefinitionError for what cannot work."""
        memo = getattr(fn, "memo", None)
        if not isinstance(memo, Memo):
            raise DefinitionError(f"warmup: {fn!r} is not memoized; put @kit.memoize(...) on it")
        if memo.is_async:
            raise DefinitionError("warmup: coroutine functions cannot be warmed yet; warm a plain function")
        name = name or memo.fn.__qualname__
        interval = seconds(every, what=f"warmup {name}: every")
        if interval < SHORTEST:
            raise DefinitionError(
                f"warmup {name}: every {humanize(interval)} is too often; {humanize(SHORTEST)} at least"
            )
        if name in self._by_name:
            raise DefinitionError(f"there is a warmup {name} already; give this one another name=")
        ahead = interval if before is None else seconds(before, what=f"warmup {name}: before")
        warmup = self._by_name[name] = Warmup(self._engine, memo, name, interval, ahead, args)
        self.changed()
        return warmup

    @property
    def shortest(self) -> float | None:
        """The shortest interval, None without warmups."""
        return min((each.every for each in self._by_name.values()), default=None)

    def run_tick(self) -> None:
        """Run what is due. Each warmup by itself: one that fails leaves the others alone."""
        for warmup in list(self._by_name.values()):
            try:
                warmup.run_due()
            except Exception as error:  # noqa: BLE001 - the other warmups go on
                self._engine.hooks.emit(WarmTick(warmup.name, f"failed: {type(error).__name__}: {error}"))
