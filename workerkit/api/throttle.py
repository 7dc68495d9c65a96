"""`kit.throttle`: executions admitted by a limiter; a task over the limit is parked and comes back by itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

from workerkit.api import computing, layers
from workerkit.api.engine import Engine
from workerkit.api.held import AioHeld, Held, Plan
from workerkit.api.limiter import Limiter
from workerkit.core.binding import Binder
from workerkit.core.durations import Duration, seconds
from workerkit.core.events import TaskParked
from workerkit.core.flow import Flow
from workerkit.core.template import Template
from workerkit.limits.lease import Slot
from workerkit.throttle.admission import Turn, admit, enter, interval_us, park
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Waitlist

P = ParamSpec("P")
R = TypeVar("R")


class Throttle(Protocol):
    """What `kit.throttle(...)` answers: the function's type stays as it is."""

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]: ...


class Gate:
    """The admission of one throttled function."""

    def __init__(
        self,
        engine: Engine,
        limiter: Limiter,
        fn: Callable[..., Any],
        key: str | Callable[..., object],
        cost: int,
        wait: Duration | None,
        units: Mapping[str, int],
    ) -> None:
        self._costs = limiter.definition.costs(cost, units)
        if wait is not None:
            seconds(wait, what="throttle: wait", zero_ok=True)
        self.engine = engine
        self._limiter = limiter
        self._cost = cost
        self._units = units
        self._wait = wait
        self._binder = Binder(fn)
        self._template = Template(key, self._binder.names, "throttle: key")

    @functools.cached_property
    def _waitlist(self) -> Waitlist:
        return Waitlist(self.engine.keys("w"))

    def plan(self, wrapper: Callable[..., Any], args: Any, kwargs: Any) -> Plan[Any]:
        """How to hold the limit during one execution: as the task that `wrapper` belongs to, else as a plain slot."""
        key = self._template(self._binder(args, kwargs))
        computation = computing.current(wrapper)
        ticket = self.engine.host.ticket()
        if computation is not None and computation.spare:
            wait: Duration | None = 0  # denied, the old value is served
        elif ticket is None or not self.engine.host.runs(wrapper):
            wait = self._wait
        else:
            found = ticket
            return self._limiter.holding(self._limiter.part(key), lambda: self._admitting(found, key))
        return self._limiter.plan(key, cost=self._cost, wait=wait, units=self._units)

    def returning(self) -> Flow[None]:
        """Let in a delivery that has been parked before; a first delivery costs nothing here."""
        ticket = self.engine.host.ticket()
        if ticket is not None and ticket.generation:
            yield from self._entering(ticket)

    def _entering(self, ticket: Ticket) -> Flow[None]:
        """Once an execution. Raises what ends a spent duplicate without a trace."""
        host = self.engine.host
        if not host.entered() and not (yield from enter(self._waitlist, ticket)):
            raise host.parked()

    def _admitting(self, ticket: Ticket, key: str) -> Flow[Slot]:
        """The limiter's yes. Raises what ends a denied task's execution, after parking it."""
        limiter = self._limiter
        yield from self._entering(ticket)
        sleep_under = self.engine.settings.sleep_under
        slot = yield from admit(lambda: limiter.entering(key, self._costs), sleep_under=sleep_under)
        decision = slot.decision
        if decision.allowed:
            return slot
        # The state first: once parked, the task may be running again before a later write would arrive.
        self.engine.host.throttled(decision.retry_after)
        interval = interval_us(zip(limiter.policy.rates, self._costs, strict=True), decision.bound_by)
        turn = Turn(f"{limiter.name}:{limiter.part(key)}", interval)
        yield from park(self._waitlist, ticket, turn, decision.retry_after)
        self.engine.hooks.emit(TaskParked(ticket.task, limiter.name, decision.retry_after))
        raise self.engine.host.parked()


def throttle(
    engine: Engine,
    limiter: Limiter,
    *,
    key: str | Callable[..., object],
    cost: int,
    wait: Duration | None,
    units: Mapping[str, int],
) -> Throttle:
    """The decorator behind `kit.throttle`."""

    def decorate(fn: Callable[..., Any]) -> Any:
        layers.check(fn, "throttle")
        gate = Gate(engine, limiter, fn, key, cost, wait, units)
        wrapper = _async_wrapper(gate, fn) if inspect.iscoroutinefunction(fn) else _sync_wrapper(gate, fn)
        functools.update_wrapper(wrapper, fn)
        wrapper.__signature__ = inspect.signature(fn)  # functools.wraps alone costs Celery its argument check
        setattr(wrapper, layers.RETURNING, gate.returning)
        layers.mark(wrapper, fn, "throttle")
        return wrapper

    return decorate


def _sync_wrapper(gate: Gate, fn: Callable[..., Any]) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with Held(gate.engine, gate.plan(wrapper, args, kwargs)):
            return fn(*args, **kwargs)

    return wrapper


def _async_wrapper(gate: Gate, fn: Callable[..., Any]) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with AioHeld(gate.engine, gate.plan(wrapper, args, kwargs)):
            return await fn(*args, **kwargs)

    return wrapper
