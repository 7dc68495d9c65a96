"""`kit.throttle`: executions admitted by a limiter; a task over the limit is parked and comes back by itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

from workerkit.api import layers
from workerkit.api.admissions import Admissions
from workerkit.api.engine import Engine
from workerkit.api.gate import Gate
from workerkit.api.held import AioHeld, Held
from workerkit.api.queueing import Queueing
from workerkit.core.durations import Duration
from workerkit.errors import DefinitionError, RateLimited

P = ParamSpec("P")
R = TypeVar("R")


class Throttle(Protocol):
    """What `kit.throttle(...)` answers: the function's type stays as it is."""

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]: ...


def throttle(
    engine: Engine,
    limiter: Admissions | None,
    *,
    key: str | Callable[..., object],
    cost: int,
    wait: Duration | None,
    units: Mapping[str, int],
    priority: int | Callable[..., int],
    fairness_key: str | Callable[..., object] | None,
    weight: float | Callable[..., float],
) -> Throttle:
    """The decorator behind `kit.throttle`."""
    if limiter is not None and not isinstance(limiter, Admissions):
        raise DefinitionError(
            f"throttle: {limiter!r} is no limiter; write kit.throttle(kit.limiter('name', '100/s')), or kit.throttle()"
        )
    if limiter is None and (key or cost != 1 or units or wait is not None):
        raise DefinitionError("throttle: key, cost, wait and units are a limiter's: write kit.throttle(limiter, ...)")
    queueing = Queueing(priority, fairness_key, weight, engine.digest)

    def decorate(fn: Callable[..., Any]) -> Any:
        layers.check(fn, "throttle")
        gate = Gate(engine, limiter, fn, key=key, cost=cost, wait=wait, units=units, queueing=queueing)
        wrapper = _async_wrapper(gate, fn) if inspect.iscoroutinefunction(fn) else _sync_wrapper(gate, fn)
        functools.update_wrapper(wrapper, fn)
        wrapper.__signature__ = inspect.signature(fn)  # functools.wraps alone costs Celery its argument check
        setattr(wrapper, layers.RETURNING, gate.returning)
        setattr(wrapper, layers.GATE, gate)
        layers.mark(wrapper, fn, "throttle")
        return wrapper

    return decorate


def _sync_wrapper(gate: Gate, fn: Callable[..., Any]) -> Any:
    engine, limiter = gate.engine, gate.limiter

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            if limiter is None:
                engine.runner.run(gate.passing(wrapper))
                return fn(*args, **kwargs)
            with Held(engine, gate.plan(limiter, wrapper, args, kwargs)):
                return fn(*args, **kwargs)
        except RateLimited as error:
            engine.runner.run(gate.deferring(wrapper, args, kwargs, error))
            raise

    return wrapper


def _async_wrapper(gate: Gate, fn: Callable[..., Any]) -> Any:
    engine, limiter = gate.engine, gate.limiter

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            if limiter is None:
                await engine.aio_runner.run(gate.passing(wrapper))
                return await fn(*args, **kwargs)
            async with AioHeld(engine, gate.plan(limiter, wrapper, args, kwargs)):
                return await fn(*args, **kwargs)
        except RateLimited as error:
            await engine.aio_runner.run(gate.deferring(wrapper, args, kwargs, error))
            raise

    return wrapper
