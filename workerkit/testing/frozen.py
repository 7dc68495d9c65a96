"""A kit whose time is a FrozenClock's: what it reads, what it waits for, what it does every few seconds.

Nothing in the kit is prepared for it, so that nothing is slower for it: the modules' own names are replaced while it
lasts, for all kits of the process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from workerkit.api.engine import Engine
from workerkit.cache.local import Local
from workerkit.core.events import BackgroundTrouble, Hooks
from workerkit.core.flow import Sleep, Step
from workerkit.io.aiorunner import AioRunner
from workerkit.io.runner import Runner
from workerkit.io.server import Server
from workerkit.io.ticker import AioTicker, Beat, Ticker
from workerkit.limits.block import Blocks
from workerkit.limits.share import Share
from workerkit.testing.clock import FrozenClock

# Threads, sockets and processes of other kits go on in real time.
_REAL = (
    *("workerkit.testing", "workerkit.demo", "workerkit.cli", "workerkit.top", "workerkit.io.guarded"),
    *("workerkit.io.ticker", "workerkit.io.listener", "workerkit.io.aiolistener"),
)


class FrozenRunner(Runner):
    """Its flows wait no time."""

    def __init__(self, clock: FrozenClock, servers: Mapping[str, Server], timeout: float) -> None:
        super().__init__(servers, timeout)
        self._clock = clock
        self._warned = True  # a beat that a coroutine lets pass blocks nothing

    def _step(self, step: Step) -> Any:
        if not isinstance(step, Sleep):
            return super()._step(step)
        self._clock.advance(step.seconds)
        time.sleep(0)  # other threads have their turn
        return None


class FrozenAioRunner(AioRunner):
    """As `FrozenRunner`, for coroutines."""

    def __init__(self, clock: FrozenClock, servers: Mapping[str, Server], timeout: float) -> None:
        super().__init__(servers, timeout)
        self._clock = clock

    async def _step(self, step: Step) -> Any:
        if not isinstance(step, Sleep):
            return await super()._step(step)
        await self._clock.advance_async(step.seconds)
        await asyncio.sleep(0)
        return None


class FrozenTicker(Ticker):
    """Its beats come when the clock is advanced."""

    def __init__(self, clock: FrozenClock, hooks: Hooks) -> None:
        super().__init__(hooks)
        self._clock = clock

    def every(self, interval: float, what: str, act: Callable[[], object]) -> Beat:
        def safely() -> None:
            try:
                act()
            except Exception as error:  # noqa: BLE001 - as the real one: reported, and tried again next time
                self._hooks.emit(BackgroundTrouble(what, f"{type(error).__name__}: {error}"))

        return self._clock.every(interval, what, safely, coroutine=False)


class FrozenAioTicker(AioTicker):
    """As `FrozenTicker`, for coroutines."""

    def __init__(self, clock: FrozenClock, hooks: Hooks) -> None:
        super().__init__(hooks)
        self._clock = clock
        self._beats: list[Beat] = []

    def every(self, interval: float, what: str, act: Callable[[], Awaitable[object]]) -> Any:
        async def safely() -> None:
            try:
                await act()
            except Exception as error:  # noqa: BLE001 - as the real one: reported, and tried again next time
                self._hooks.emit(BackgroundTrouble(what, f"{type(error).__name__}: {error}"))

        self._beats.append(self._clock.every(interval, what, safely, coroutine=True))
        return self._beats[-1]

    def close(self) -> None:
        for beat in self._beats:
            beat.stop()


@contextmanager
def frozen(engine: Engine, clock: FrozenClock) -> Iterator[None]:
    """Within the block the engine's time is `clock`'s, and its runners and tickers wait for nothing else."""
    runner = FrozenRunner(clock, engine.servers, engine.settings.timeout)
    aio_runner = FrozenAioRunner(clock, engine.servers, engine.settings.timeout)
    runner.personal = aio_runner.personal = engine.personal
    engine.__dict__.update(runner=runner, aio_runner=aio_runner)
    with ExitStack() as until:
        until.enter_context(patch.object(engine, "ticker", FrozenTicker(clock, engine.hooks)))
        until.enter_context(patch.object(engine, "aio_ticker", FrozenAioTicker(clock, engine.hooks)))
        until.enter_context(patch.object(engine.flusher, "running", False))
        for place, name, made in _readers(engine, clock):
            until.enter_context(
                patch.dict(place, {name: made}) if isinstance(place, dict) else patch.object(place, name, made)
            )
        yield


def _readers(engine: Engine, clock: FrozenClock) -> list[tuple[Any, str, Any]]:
    """Where a clock is read: a place, the name there, and what to put in."""
    stand_in = SimpleNamespace(**{**vars(time), "monotonic": clock.monotonic, "time": clock.time})
    found: list[tuple[Any, str, Any]] = []
    for module in [each for name, each in sys.modules.items() if name.startswith("workerkit.")]:
        if not module.__name__.startswith(_REAL):
            found += [(module, "time", stand_in)] if vars(module).get("time") is time else []
            found += [(module, "monotonic", clock.monotonic)] if vars(module).get("monotonic") is time.monotonic else []
    # Those that were given their clock when they were made, and those that are still to be made.
    found += [(tier.threads, "_now", clock.monotonic) for tier in engine.tiers]
    for limiter in engine.limiters.values():
        found.append((limiter.stand_in._share, "_clock", clock.monotonic))  # noqa: SLF001 - no clock is set in service
        found += [(limiter.blocks, "_clock", clock.monotonic)] if limiter.blocks is not None else []
    for kind, name in ((Local, "now"), (Blocks, "clock"), (Share, "clock")):
        found.append((kind.__init__.__kwdefaults__, name, clock.monotonic))
    return found
