"""Something held for a while (a slot, a job): entered, renewed in the background, and left, sync or async."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from workerkit.api.engine import Engine
from workerkit.core.call import Call
from workerkit.core.flow import Flow

T = TypeVar("T")
Exit = Callable[[T, BaseException | None], Flow[Any]]


class Plan(Generic[T]):
    """How to hold: `enter` answers the held thing, `renew` (every `interval` seconds) keeps it, `leave` lets it go.

    `kept` says whether what was entered needs renewing at all.
    """

    __slots__ = ("enter", "interval", "kept", "leave", "renew", "what")

    def __init__(
        self,
        what: str,
        enter: Callable[[], Flow[T]],
        leave: Exit[T],
        *,
        renew: Callable[[T], Call[Any] | Flow[Any]] | None = None,
        interval: float = 0.0,
        kept: Callable[[T], bool] = lambda _: True,
    ) -> None:
        self.what = what
        self.enter = enter
        self.leave = leave
        self.renew = renew
        self.interval = interval
        self.kept = kept


class Held(Generic[T]):
    """A `with` block over a Plan."""

    def __init__(self, engine: Engine, plan: Plan[T]) -> None:
        self._engine = engine
        self._plan = plan

    def __enter__(self) -> T:
        plan, engine = self._plan, self._engine
        self._value = value = engine.runner.run(plan.enter())
        renew = plan.renew if plan.kept(value) else None
        self._beat = (
            engine.ticker.every(plan.interval, plan.what, lambda: engine.runner.run(iter(renew(value))))
            if renew
            else None
        )
        return value

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._beat:
            self._beat.stop()
        self._engine.runner.run(self._plan.leave(self._value, error))


class AioHeld(Generic[T]):
    """An `async with` block over a Plan."""

    def __init__(self, engine: Engine, plan: Plan[T]) -> None:
        self._engine = engine
        self._plan = plan

    async def __aenter__(self) -> T:
        plan, engine = self._plan, self._engine
        self._value = value = await engine.aio_runner.run(plan.enter())
        renew = plan.renew if plan.kept(value) else None
        self._beat = (
            engine.aio_ticker.every(plan.interval, plan.what, lambda: engine.aio_runner.run(iter(renew(value))))
            if renew
            else None
        )
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._beat:
            self._beat.stop()
        await self._engine.aio_runner.run(self._plan.leave(self._value, error))
