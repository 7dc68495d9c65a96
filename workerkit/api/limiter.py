"""`kit.limiter`: a named set of rates and a concurrency cap, kept by a whole fleet together."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, get_args
from uuid import uuid4

from workerkit.api.engine import Engine
from workerkit.api.held import AioHeld, Held, Plan
from workerkit.core.call import Call
from workerkit.core.durations import Duration, seconds
from workerkit.core.encoding import digest
from workerkit.core.events import BackgroundTrouble, LimitOpen
from workerkit.core.flow import Flow
from workerkit.core.keys import Keys
from workerkit.core.rates import parse_rates
from workerkit.errors import DefinitionError, OutcomeUnknown, RateLimited, StoreError, StoreUnavailable
from workerkit.limits.decision import Decision
from workerkit.limits.lease import Slot
from workerkit.limits.limiter import LEASE, LimitPolicy

WhenDown = Literal["closed", "open"]
_Down = (StoreUnavailable, OutcomeUnknown)


class Limiter:
    """Never more than each rate's amount in *any* of its periods, and at most `concurrency` holders at once.

    rates: "100/s", "5000/h". concurrency: the cap on slots held at once. margin: added to every period, to cover how
    much the delays between us and the limited service spread. lease: how long the slot of a killed holder stays taken;
    live holders renew theirs. All of it may be changed with a deploy, a lease at most threefold at a time. when_down:
    what Redis being down means: "closed" raises StoreUnavailable (or OutcomeUnknown: perhaps charged, not admitted),
    "open" admits, marked `bound_by="down"` and told by an event.

    `key` (any text; only its digest is stored) gives every account, host, ... a count of its own. `.aio` has the same
    verbs for coroutines. The algorithm is described in `limits/window.lua`.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *rates: str,
        concurrency: int | None = None,
        margin: Duration | None = None,
        lease: Duration = LEASE,
        when_down: WhenDown = "closed",
    ) -> None:
        parsed = parse_rates(*rates) if rates or concurrency is None else ()
        self.policy = LimitPolicy(name, parsed, concurrency=concurrency, margin=margin, lease=lease)
        if when_down not in get_args(WhenDown):
            raise DefinitionError(
                f"limiter {name}: when_down={when_down!r} must be 'closed' or 'open' ('local' is not there yet)"
            )
        self._engine = engine
        self._open = when_down == "open"

    @cached_property
    def aio(self) -> AioLimiter:
        return AioLimiter(self, self._engine)

    @property
    def name(self) -> str:
        return self.policy.name

    @cached_property
    def keys(self) -> Keys:
        return self._engine.keys("g")

    def part(self, key: str) -> str:
        """What stands for `key` in Redis: a digest, keyed with the kit's secret, as keys may be secrets themselves."""
        if not isinstance(key, str):
            raise DefinitionError(f"limiter {self.name}: key must be text, not {type(key).__name__}; write str(...)")
        return digest(key.encode("utf-8", "surrogatepass"), self._engine.secret)

    def try_acquire(self, key: str = "", *, cost: int = 1) -> Decision:
        """Charge `cost` to every rate if all have room, else change nothing; does not wait.

        Raises DefinitionError when `cost` is no whole number from 1 to every rate's amount, or when the limiter has a
        concurrency cap (what is held needs `slot`). When Redis is down: see `when_down`.
        """
        call = self.attempt(key, cost)
        try:
            return self._engine.runner.call(call)
        except _Down as error:
            return self.unseen(error)

    def slot(self, key: str = "", *, cost: int = 1, wait: Duration | None = None) -> Held[Slot]:
        """`with limiter.slot(...) as slot:` charges the rates and holds a place under the cap, renewed until the end.

        wait: how long to wait for it at most; None does not wait. Raises RateLimited when refused for longer than that
        (at once, if waiting cannot suffice), DefinitionError as `try_acquire`. A holder that outlives its lease
        (paused, cut off) is told by `slot.lost`. When Redis is down: see `when_down`; if it is at the end, the slot
        comes free after one lease.
        """
        return Held(self._engine, self.plan(key, cost=cost, wait=wait))

    def peek(self, key: str = "") -> Decision:
        """What a request of cost 1 would be answered now; charges nothing. Raises StoreError when Redis is down."""
        return self._engine.runner.call(self.policy.peek(self.keys, self.part(key)))

    def reset(self, key: str = "") -> None:
        """Forget what was charged, and a pause; held slots stay held. Raises StoreError when Redis is down."""
        self._engine.runner.call(self.policy.reset(self.keys, self.part(key)))

    def pause(self, key: str, duration: Duration) -> None:
        """Refuse everything under `key` for the whole fleet, for so long from now; the latest pause counts.

        Raises DefinitionError for a duration that is none or negative, StoreError when Redis is down.
        """
        self._engine.runner.call(self.policy.pause(self.keys, self.part(key), duration))

    def acquire(self, key: str, cost: int, owner: str) -> Flow[Decision]:
        """One request as a Flow, for those who hold by other means than `slot`: take a lease as `owner`, too."""
        try:
            return (yield from self.policy.ask(self.keys, self.part(key), cost, owner))
        except _Down as error:
            return self.unseen(error)

    def plan(self, key: str, *, cost: int = 1, wait: Duration | None = None, owner: str | None = None) -> Plan[Slot]:
        """How to hold a slot, as `owner` (who may hold it already) or as somebody new."""
        policy, keys, part = self.policy, self.keys, self.part(key)
        policy.check_cost(cost)
        patience = 0.0 if wait is None else seconds(wait, what="wait", zero_ok=True)

        def enter() -> Flow[Slot]:
            token = owner or uuid4().hex
            try:
                slot = yield from policy.slot(keys, part, cost, token, patience)
            except _Down as error:
                slot = Slot(token, self.unseen(error))
            if not slot.decision.allowed:
                raise self._refused(key, slot.decision)
            return slot

        def leave(slot: Slot, _: BaseException | None) -> Flow[None]:
            if policy.concurrency and slot.decision.bound_by != "down":
                try:
                    yield from policy.release(keys, part, slot.owner)
                except StoreError as error:  # must not replace what the block did; the lease ends by itself
                    self._engine.hooks.emit(BackgroundTrouble(what, str(error)))

        def renew(slot: Slot) -> Call[bool]:
            return policy.renew_slot(keys, part, slot)

        what = f"lease of limiter {self.name}"
        return Plan(what, enter, leave, renew=renew if policy.concurrency else None, interval=policy.lease / 3)

    def attempt(self, key: str, cost: int) -> Call[Decision]:
        """The Call of `try_acquire`."""
        if self.policy.concurrency:
            raise DefinitionError(f"limiter {self.name} has a concurrency cap: what is held needs slot(), not this")
        return self.policy.acquire(self.keys, self.part(key), cost, "")

    def unseen(self, error: StoreError) -> Decision:
        """The decision when Redis is down: the declared one, or none (the error is raised)."""
        if not self._open:
            raise error
        self._engine.hooks.emit(LimitOpen(self.name, type(error).__name__))
        return Decision(True, 0, 0.0, 0.0, "down")

    def _refused(self, key: str, decision: Decision) -> RateLimited:
        # The key stays out of the message, which is logged: it may be a secret.
        return RateLimited(
            f"limiter {self.name}: {decision.bound_by} is used up; ask again in {decision.retry_after:.3f} s",
            limiter=self.name,
            key=key,
            retry_after=decision.retry_after,
            bound_by=decision.bound_by,
        )

    def __repr__(self) -> str:
        return f"Limiter{repr(self.policy).removeprefix('LimitPolicy')}"


class AioLimiter:
    """The same verbs, for coroutines."""

    def __init__(self, limiter: Limiter, engine: Engine) -> None:
        self._limiter = limiter
        self._engine = engine

    async def try_acquire(self, key: str = "", *, cost: int = 1) -> Decision:
        """See `Limiter.try_acquire`."""
        call = self._limiter.attempt(key, cost)
        try:
            return await self._engine.aio_runner.call(call)
        except _Down as error:
            return self._limiter.unseen(error)

    def slot(self, key: str = "", *, cost: int = 1, wait: Duration | None = None) -> AioHeld[Slot]:
        """See `Limiter.slot`; `async with`."""
        return AioHeld(self._engine, self._limiter.plan(key, cost=cost, wait=wait))

    async def peek(self, key: str = "") -> Decision:
        """See `Limiter.peek`."""
        limiter = self._limiter
        return await self._engine.aio_runner.call(limiter.policy.peek(limiter.keys, limiter.part(key)))

    async def reset(self, key: str = "") -> None:
        """See `Limiter.reset`."""
        limiter = self._limiter
        await self._engine.aio_runner.call(limiter.policy.reset(limiter.keys, limiter.part(key)))

    async def pause(self, key: str, duration: Duration) -> None:
        """See `Limiter.pause`."""
        limiter = self._limiter
        await self._engine.aio_runner.call(limiter.policy.pause(limiter.keys, limiter.part(key), duration))
