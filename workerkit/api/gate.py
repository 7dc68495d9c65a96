"""The gate of one throttled function: lets an execution in, parks its task, or sends its message back."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from workerkit.api import computing
from workerkit.api.admissions import Admissions, Down
from workerkit.api.engine import Engine
from workerkit.api.held import Plan
from workerkit.api.queueing import Queueing
from workerkit.core.binding import Binder
from workerkit.core.durations import Duration, seconds
from workerkit.core.events import ChordAtRisk, TaskParked, TaskPostponed
from workerkit.core.flow import Flow
from workerkit.core.template import Template
from workerkit.errors import GuardEvicts, RateLimited, StoreError, WaitlistFull
from workerkit.limits.lease import Slot
from workerkit.throttle.admission import admit, begin, enter, interval_us, park
from workerkit.waitlist.line import Line, Place
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Entered, Entry

EAGER_WAIT = 10.0  # seconds that a task which runs in place of being sent waits for its turn
POSTPONED = (5.0, 15.0)  # seconds: below any visibility timeout, and not all at once


class Gate:
    """The admission of one throttled function; without a limiter it only parks what a RateLimited escapes from."""

    def __init__(
        self,
        engine: Engine,
        limiter: Admissions | None,
        fn: Callable[..., Any],
        *,
        key: str | Callable[..., object],
        cost: int,
        wait: Duration | None,
        units: Mapping[str, int],
        queueing: Queueing,
    ) -> None:
        self.costs = limiter.definition.costs(cost, units) if limiter is not None else ()
        self._wait = None if wait is None else seconds(wait, what="throttle: wait", zero_ok=True)
        self.engine = engine
        self.limiter = limiter
        self._cost = cost
        self._units = units
        self._binder = Binder(fn)
        self._template = Template(key, self._binder.names, "throttle: key")
        self._place = queueing.of(self._binder.names)

    def asked(self, args: Any, kwargs: Any) -> tuple[str, tuple[int, ...]]:
        """What a call asks of the limiter: the key, and what each rate is charged."""
        return self._template(self._binder(args, kwargs)), self.costs

    # Entering

    def plan(self, limiter: Admissions, wrapper: Callable[..., Any], args: Any, kwargs: Any) -> Plan[Any]:
        """How to hold the limit during one execution: as the task that `wrapper` belongs to, else as a plain slot."""
        bound = self._binder(args, kwargs)
        key = self._template(bound)
        ticket = self._ticket(wrapper)
        if ticket is not None:
            return limiter.holding(limiter.part(key), lambda: self._admitting(limiter, ticket, key, bound))
        wait: float | None = 0.0
        if not self._has_spare(wrapper):  # else the old value is served when denied
            eager = self._wait is None and self.engine.host.eager() and self.engine.host.runs(wrapper)
            wait = EAGER_WAIT if eager else self._wait
        return limiter.plan(key, cost=self._cost, wait=wait, units=self._units)

    def returning(self) -> Flow[None]:
        """Let in a delivery that has been parked before; a first delivery costs nothing here."""
        ticket = self.engine.host.ticket()
        if ticket is not None and ticket.generation:
            yield from self._kept(ticket, self._entering(ticket, ""))

    def passing(self, wrapper: Callable[..., Any]) -> Flow[None]:
        """What is left to do for an execution that no limiter of this gate decides: it may be a duplicate."""
        ticket = self._ticket(wrapper)
        if ticket is not None:
            if ticket.generation:
                yield from self._kept(ticket, self._entering(ticket, ""))
            self.engine.host.started()

    def deferring(self, wrapper: Callable[..., Any], args: Any, kwargs: Any, error: RateLimited) -> Flow[None]:
        """Park the task that a RateLimited escapes from. Raises what ends its execution; returns where no task can be
        parked: outside one, in eager mode, and where an old value is to be served."""
        ticket = self._ticket(wrapper)
        if ticket is None:
            return
        name = getattr(error, "limiter", "")
        wait, key = float(getattr(error, "retry_after", 1.0)), str(getattr(error, "key", ""))
        limiter, costs = self.engine.limiters.get(name), getattr(error, "costs", ())
        if limiter is None:
            line = Line(name, key and self.engine.digest(key), "", costs, "")
        else:
            line = Line(name, limiter.part(key), limiter.label(key), costs, getattr(error, "bound_by", ""))
        place = self._place(self._binder(args, kwargs), self._every_us(line), line)
        yield from self._kept(ticket, self._parking(ticket, line, place, wait))

    def _ticket(self, wrapper: Callable[..., Any]) -> Ticket | None:
        """The message by which this execution could come back."""
        host = self.engine.host
        return host.ticket() if host.runs(wrapper) and not self._has_spare(wrapper) else None

    @staticmethod
    def _has_spare(wrapper: Callable[..., Any]) -> bool:
        computation = computing.current(wrapper)
        return computation is not None and computation.spare

    # As a task

    def _admitting(self, limiter: Admissions, ticket: Ticket, key: str, bound: Mapping[str, Any]) -> Flow[Slot]:
        slot: Slot = yield from self._kept(ticket, self._slot(limiter, ticket, key, bound))
        self.engine.host.started()
        return slot

    def _slot(self, limiter: Admissions, ticket: Ticket, key: str, bound: Mapping[str, Any]) -> Flow[Slot]:
        """The limiter's yes. Raises what ends a denied task's execution, after parking it."""
        line = Line(limiter.name, limiter.part(key), limiter.label(key), self.costs, "")
        try:
            entered = yield from self._entering(ticket, line.name, keep=True)
        except Down:
            if ticket.generation or not limiter.stands_in:
                raise  # let in unseen, one that was parked would be published again
            entered = Entered(Entry.GO_ON, 0.0)
        if entered.entry is Entry.JOIN:
            yield from self._parking(ticket, line, self._place(bound, 0, line), entered.wait)
        sleep_under = 0.0 if entered.entry is Entry.ASK else self.engine.settings.sleep_under
        slot = yield from admit(lambda: limiter.entering(key, self.costs), sleep_under=sleep_under)
        if not slot.decision.allowed:
            line = Line(line.limiter, line.part, line.label, line.costs, slot.decision.bound_by)
            place = self._place(bound, self._every_us(line), line)
            yield from self._parking(ticket, line, place, slot.decision.retry_after)
        if ticket.generation and not (yield from begin(self.engine.waitlist, ticket)):
            yield from limiter.leaving(line.part, slot)
            raise self.engine.host.parked()
        return slot

    def _entering(self, ticket: Ticket, line: str, *, keep: bool = False) -> Flow[Entered]:
        """Once an execution. Raises what ends a spent duplicate without a trace, or a cancelled task."""
        host = self.engine.host
        if host.entered():
            return Entered(Entry.GO_ON, 0.0)
        entered = yield from enter(self.engine.waitlist, ticket, line, keep=keep)
        if entered.entry is Entry.DROP:
            raise host.parked()
        if entered.entry is Entry.CANCELLED:
            raise host.cancelled()
        return entered

    def _every_us(self, line: Line) -> int:
        """Microseconds between two turns in `line`."""
        limiter = self.engine.limiters.get(line.limiter)
        rates = limiter.policy.rates if limiter is not None else ()
        return interval_us(zip(rates, line.costs, strict=False), line.bound_by)

    def _parking(self, ticket: Ticket, line: Line, place: Place, wait: float) -> Flow[NoReturn]:
        host, engine = self.engine.host, self.engine
        # The state first: once parked, the task may be running again before a later write would arrive.
        host.throttled(wait)
        most = engine.settings.waitlist_max
        parked = yield from park(engine.waitlist, ticket, line, place, wait=wait, most=most)
        if parked.full:
            if engine.settings.waitlist_full == "refuse":
                raise WaitlistFull(
                    f"{most} tasks are parked, as many as workerkit_waitlist_max allows; this one waits for limiter "
                    f"{line.limiter}: raise it, or set workerkit_waitlist_full='countdown'",
                    limiter=line.limiter,
                )
            raise self._postponed(ticket, "the waitlist is full", max(wait, POSTPONED[0]))
        kept = host.chord_kept()
        if kept is not None and parked.wait > kept:
            engine.hooks.emit(ChordAtRisk(ticket.task, parked.wait, kept))
        engine.hooks.emit(TaskParked(ticket.task, line.limiter, parked.wait))
        raise host.parked()

    def _kept(self, ticket: Ticket, flow: Flow[Any]) -> Flow[Any]:
        """`flow`; when Redis is down the message goes back to the broker, so that its task is not lost."""
        try:
            return (yield from flow)
        except GuardEvicts:
            raise
        except StoreError as error:
            raise self._postponed(ticket, f"{type(error).__name__}: {error}", 0.0) from error

    def _postponed(self, ticket: Ticket, reason: str, wait: float) -> BaseException:
        wait += random.uniform(*POSTPONED)  # noqa: S311 - spreads returns, hides nothing
        self.engine.hooks.emit(TaskPostponed(ticket.task, wait, reason))
        return self.engine.host.postponed(ticket, wait)
