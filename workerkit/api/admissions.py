"""What a limiter's verbs share, sync or async: how a call is charged, held, ended, and what stands in for Redis."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from secrets import token_hex
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from workerkit.api.counting import Counting
from workerkit.api.engine import Engine
from workerkit.api.held import Plan
from workerkit.api.standin import StandIn, WhenDown
from workerkit.core.call import Call
from workerkit.core.durations import Duration, seconds
from workerkit.core.events import BackgroundTrouble, LimitLearned
from workerkit.core.flow import Flow, Own, Share, Sleep
from workerkit.core.keys import Keys
from workerkit.errors import DefinitionError, OutcomeUnknown, RateLimited, StoreError, StoreUnavailable
from workerkit.limits.decision import Answer, Decision, Reservation
from workerkit.limits.definition import Definition
from workerkit.limits.lease import Holder, Slot
from workerkit.limits.limiter import LimitPolicy
from workerkit.limits.room import Room
from workerkit.limits.slots import Slots
from workerkit.limits.tally import LONGEST
from workerkit.limits.waiters import Waiters

if TYPE_CHECKING:
    from workerkit.limits.headers import Advice

Down = (StoreUnavailable, OutcomeUnknown)
HERE = "here"  # the owner of a place that this process has given itself
_MOST_CALLS = 2048
NO_UNITS: Mapping[str, int] = MappingProxyType({})


class Admissions:
    """The admissions of one limiter, as Calls, Flows and Plans."""

    def __init__(self, engine: Engine, definition: Definition, *, when_down: WhenDown, name_keys: bool) -> None:
        self.engine = engine
        engine.limiters[definition.name] = self
        self.definition = definition
        self.policy = LimitPolicy(definition)
        self.blocks = definition.blocks()
        self.stand_in = StandIn(engine, definition, when_down)
        self.straight = self.blocks is None and not self.stand_in.beats
        self.names_keys = name_keys
        self._calls: dict[str, Call[Decision]] = {}  # those of the plainest requests, ready to send
        # Weakly: a slot that an interruption kept from ever being left must not let its task's next one in for nothing.
        self._holders: WeakValueDictionary[Holder | None, Slot] = WeakValueDictionary()

    @property
    def name(self) -> str:
        """The limiter's name."""
        return self.definition.name

    @property
    def stands_in(self) -> bool:
        """Whether anybody is let in while Redis is down."""
        return self.stand_in.stands_in

    @cached_property
    def keys(self) -> Keys:
        return self.engine.keys("g")

    @cached_property
    def waiters(self) -> Waiters:
        return Waiters(self.keys, self.name)

    @cached_property
    def tally(self) -> Counting:
        """What this process has decided."""
        tally = Counting(self.keys, self.name, self.label)
        self.engine.flusher.add_tally(tally)
        return tally

    def label(self, key: str) -> str:
        """What listings show of `key`."""
        return key if self.names_keys else self.part(key)

    def room(self, part: str, costs: tuple[int, ...], ahead: float = 0.0) -> Call[Room]:
        """For how many such requests there will be room in `ahead` seconds."""
        return self.policy.room(self.keys, part, costs, ahead)

    def part(self, key: str) -> str:
        """What stands for `key` in Redis: a digest, keyed with the kit's secret, as keys may be secrets themselves."""
        if not isinstance(key, str):
            raise DefinitionError(f"{self.definition.what}: key must be text, not {type(key).__name__}; write str(...)")
        return self.engine.digest(key)

    def part_of(self, label: str) -> str | None:
        """The `part` of the key that listings show as `label`; None where that is only its beginning."""
        if not self.names_keys:
            return label
        return self.part(label) if len(label) < LONGEST else None

    def attempt(self, key: str, cost: int, units: Mapping[str, int]) -> Call[Decision]:
        """The Call of `try_acquire`."""
        definition = self.definition
        costs = definition.costs(cost, units)
        call = self._calls.get(key) if costs is definition.ones and isinstance(key, str) else None
        if call is not None:
            return call
        if definition.concurrency or definition.exact:
            why = "has a concurrency cap" if definition.concurrency else "counts until the response has come"
            raise DefinitionError(f"{definition.what} {why}: what is held needs slot(), not this")
        call = self.policy.acquire(self.keys, self.part(key), costs)
        if call.kept:
            if len(self._calls) >= _MOST_CALLS:
                self._calls.clear()
            self._calls[key] = call
        return call

    def token(self, key: str, cost: int, units: Mapping[str, int]) -> Decision | None:
        """A token that this process has taken ahead."""
        if self.blocks is None or cost != 1 or units:
            return None
        token = self.blocks.take(key)
        if token is not None:
            self.tally.note(key, True)
        return token

    def deciding(self, key: str, cost: int, units: Mapping[str, int]) -> Flow[Decision]:
        """`attempt`, where it is not the whole of it: a block is taken, or this process says that it lives."""
        if self.stand_in.absent:
            yield from self.stand_in.joining()
        if self.blocks is None or cost != 1 or units:
            return (yield from self.attempt(key, cost, units))
        # One caller of a key asks at a time: the others then find its block.
        return (yield from Share(("limits.block", self.name, key), lambda: self._block(key)))

    def _block(self, key: str) -> Flow[Decision | Own]:
        blocks = self.blocks
        if blocks is None:
            raise RuntimeError("a limiter without lease_tokens has no blocks")
        decision = blocks.take(key)
        part, rates = self.part(key), len(self.definition.rates)
        while decision is None:
            count, sent = blocks.size(key), monotonic()
            answer = yield from self.policy.acquire(self.keys, part, (count,) * rates)
            blocks.put(key, count, answer, sent)
            if answer.allowed or count == 1:
                decision = answer
        return Own(decision)

    def plan(
        self,
        key: str = "",
        *,
        cost: int = 1,
        wait: Duration | None = None,
        exact: bool | None = None,
        units: Mapping[str, int] = NO_UNITS,
        nests: bool = True,
    ) -> Plan[Slot]:
        """How to hold a slot. `exact` (the definition's `count` by default) has its charge count until it ends; within
        one that `nests`, its task's next slots of this key take no place of their own."""
        definition, part = self.definition, self.part(key)
        costs = definition.costs(cost, units)
        patience = 0.0 if wait is None else seconds(wait, what="wait", zero_ok=True)

        def enter() -> Flow[Slot]:
            slot = yield from self.entering(key, costs, wait=patience, exact=exact, nests=nests)
            if not slot.decision.allowed:
                raise self._refused(key, slot.decision, costs)
            return slot

        return self.holding(part, enter)

    def holding(self, part: str, enter: Callable[[], Flow[Slot]]) -> Plan[Slot]:
        """How to hold what `enter` answers, and to end it."""
        policy, what = self.policy, f"lease of limiter {self.name}"

        def leave(slot: Slot, _: BaseException | None) -> Flow[None]:
            try:
                yield from self.leaving(part, slot)
            except StoreError as error:  # must not replace what the block did; the lease ends by itself
                self.engine.hooks.emit(BackgroundTrouble(what, str(error)))

        def renew(slot: Slot) -> Call[bool]:
            return policy.renew(self.keys, part, slot)

        return Plan(what, enter, leave, renew=renew, interval=policy.lease / 3, kept=_kept)

    def entering(
        self,
        key: str,
        costs: tuple[int, ...],
        *,
        wait: float = 0.0,
        exact: bool | None = None,
        nests: bool = True,
    ) -> Flow[Slot]:
        """A slot that was admitted, or says no. Inside one that the same task holds it takes no second lease."""
        definition, part = self.definition, self.part(key)
        exact = (definition.exact if exact is None else exact) and definition.algorithm == "window" and bool(costs)
        holder = self._holder(part)
        began, outer = monotonic(), self._holders.get(holder)
        inner = outer is not None and not outer.lost
        self.engine.flusher.begin()
        if self.stand_in.absent:
            yield from self.stand_in.joining()
        try:
            slots = Slots(self.policy, self.keys, part)
            slot = yield from slots.hold(costs, token_hex(12), wait=wait, exact=exact, leased=not inner, who=self._who)
        except Down as error:
            decision = yield from self._unseen(error, key, costs, began + wait, hold=not inner)
            return Slot("" if inner else HERE, Answer(decision, 0, 0.0), definition.units, costs)
        self.tally.note(key, slot.decision.allowed)
        if slot.leased and holder and nests:
            self._holders[holder] = slot
            slot.holder = holder
        return slot

    def leaving(self, part: str, slot: Slot) -> Flow[None]:
        """The end of an admitted slot."""
        self._holders.pop(slot.holder, None)
        call = self.policy.finish(self.keys, part, slot)
        if slot.decision.bound_by == "local" and slot.owner == HERE:
            self.stand_in.leave(part)
        if call is not None:
            yield from call

    def reserving(self, key: str, within: Duration, cost: int, units: Mapping[str, int]) -> Flow[Reservation]:
        """`reserve` as a Flow."""
        definition, most = self.definition, seconds(within, what="within", zero_ok=True)
        if definition.algorithm != "gcra" or definition.concurrency:
            raise DefinitionError(f"{definition.what}: reserve() needs algorithm='gcra', and no concurrency cap")
        part, costs = self.part(key), definition.costs(cost, units)
        reservation = yield from Slots(self.policy, self.keys, part).reserve(key, costs, most)
        if not reservation.decision.allowed:
            raise self._refused(key, reservation.decision, costs)
        return reservation

    def cancelling(self, reservation: Reservation) -> Call[bool]:
        """`cancel` as a Call."""
        if reservation.cancelled:
            raise DefinitionError(f"{self.definition.what}: this reservation was cancelled before; cancel it once")
        reservation.cancelled = True  # whatever comes of it: what is not known to be given back counts as used
        return self.policy.cancel(self.keys, self.part(reservation.key), reservation)

    def learning(self, key: str, advice: Advice) -> Flow[None]:
        """`learn` as a Flow."""
        if not (advice.pause or advice.budgets or advice.ignored):
            return
        news = yield from self.policy.learn(self.keys, self.part(key), advice)
        if news or advice.ignored:
            self.engine.hooks.emit(LimitLearned(self.name, advice.pause, advice.refused, advice.ignored))

    def unseen(self, error: StoreError, key: str, costs: tuple[int, ...], *, hold: bool = False) -> Decision:
        """The decision when Redis is down: the declared one, or none (the error is raised)."""
        decision = self.stand_in.decide(error, self.part(key), costs, hold=hold)
        if decision.allowed:
            self.tally.note_unseen()
        return decision

    def _unseen(
        self, error: StoreError, key: str, costs: tuple[int, ...], deadline: float, *, hold: bool
    ) -> Flow[Decision]:
        while True:
            decision = self.unseen(error, key, costs, hold=hold)
            if decision.allowed or decision.retry_after > deadline - monotonic():
                return decision
            yield from Sleep(decision.retry_after)

    def _who(self) -> str:
        """This strand, as `waiting` lists it."""
        running = self.engine.host.running()
        task = f" {running.task}" if running else ""
        return f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}{task}"

    def _holder(self, part: str) -> Holder | None:
        """Who would hold a lease: this strand of the running task. Its other coroutines need leases of their own."""
        running = self.engine.host.running() if self.definition.concurrency else None
        if running is None:
            return None
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented, and does not raise
        return part, running.id, threading.get_ident() if loop is None else id(asyncio.current_task(loop))

    def _refused(self, key: str, decision: Decision, costs: tuple[int, ...]) -> RateLimited:
        # The key stays out of the message, which is logged: it may be a secret.
        return RateLimited(
            f"limiter {self.name}: {decision.bound_by} is used up; ask again in {decision.retry_after:.3f} s",
            limiter=self.name,
            key=key,
            retry_after=decision.retry_after,
            bound_by=decision.bound_by,
            costs=costs,
        )


def _kept(slot: Slot) -> bool:
    return slot.leased or slot.exact
