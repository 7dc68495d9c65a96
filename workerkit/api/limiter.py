"""`kit.limiter`: a named set of rates and a concurrency cap, kept by a whole fleet together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from workerkit.api.admissions import Admissions, Down
from workerkit.api.engine import Engine
from workerkit.api.held import AioHeld, Held
from workerkit.api.standin import WhenDown
from workerkit.core.durations import Duration
from workerkit.core.rates import parse_rates
from workerkit.limits.decision import Decision, Reservation
from workerkit.limits.definition import LEASE, Algorithm, Count, Definition, LeaseTokens
from workerkit.limits.lease import Slot
from workerkit.limits.tally import KeyCount, LimitStats
from workerkit.limits.usage import Usage

if TYPE_CHECKING:
    from workerkit.limits.headers import Advice


class Limiter(Admissions):
    """A limit shared by all processes; `kit.limiter` says what its options mean.

    `key` (any text; only its digest is stored) gives every account, host, ... a count of its own. `cost` is what a call
    counts for, where a rate counts calls; every other unit of the rates is named: `slot(tokens=800)`. `.aio` has the
    same verbs for coroutines. The algorithms are described in `limits/window.lua`, `gcra.lua` and `fixed.lua`.
    """

    internal: ClassVar[bool] = False  # whether the kit has made it for itself

    def __init__(
        self,
        engine: Engine,
        name: str,
        *rates: str,
        algorithm: Algorithm = "window",
        burst: int | None = None,
        concurrency: int | None = None,
        margin: Duration | None = None,
        lease: Duration = LEASE,
        count: Count = "request",
        when_down: WhenDown = "closed",
        lease_tokens: LeaseTokens = None,
        name_keys: bool = False,
    ) -> None:
        definition = Definition(
            name,
            parse_rates(*rates) if rates or concurrency is None else (),
            algorithm=algorithm,
            burst=burst,
            concurrency=concurrency,
            margin=margin,
            lease=lease,
            count=count,
            lease_tokens=lease_tokens,
        )
        super().__init__(engine, definition, when_down=when_down, name_keys=name_keys)

    @cached_property
    def aio(self) -> AioLimiter:
        """The same verbs for coroutines."""
        return AioLimiter(self)

    def try_acquire(self, key: str = "", *, cost: int = 1, **units: int) -> Decision:
        """Charge every rate if all have room, else change nothing; does not wait.

        Raises DefinitionError when a cost is no whole number from 1 to what its rate can admit at once, when a unit is
        missing or unknown, or when the limiter has a concurrency cap or counts responses (what is held needs `slot`).
        When Redis is down: see `when_down`.
        """
        token = self.token(key, cost, units)
        if token is not None:
            return token
        runner, flusher = self.engine.runner, self.engine.flusher
        if not flusher.running:
            flusher.start()
        try:
            if self.straight:
                decision = runner.call(self.attempt(key, cost, units))
            else:
                decision = runner.run(self.deciding(key, cost, units))
        except Down as error:
            return self.unseen(error, key, self.definition.costs(cost, units))
        self.tally.note(key, decision.allowed)
        return decision

    def slot(self, key: str = "", *, cost: int = 1, wait: Duration | None = None, **units: int) -> Held[Slot]:
        """`with limiter.slot(...) as slot:` charges the rates and holds a place under the cap, renewed until the end.

        wait: how long to wait for it at most; None does not wait. Within a task, a slot inside a slot of the same key
        takes no second place. Raises RateLimited when refused for longer than that (at once, if waiting cannot
        suffice), DefinitionError as `try_acquire`. A holder that outlives its lease (paused, cut off) is told by
        `slot.lost`. When Redis is down: see `when_down`; if it is at the end, the slot comes free after one lease.
        """
        return Held(self.engine, self.plan(key, cost=cost, wait=wait, units=units))

    def reserve(self, key: str = "", *, within: Duration, cost: int = 1, **units: int) -> Reservation:
        """Charge now for a time of one's own, in order of asking: act `delay` seconds from now, `within` at most.

        For algorithm="gcra" without a cap. Raises RateLimited when the time would be later than that (nothing is
        charged then), DefinitionError as `try_acquire`, StoreError when Redis is down.
        """
        return self.engine.runner.run(self.reserving(key, within, cost, units))

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back, as far as nobody was let in or given a later time on its account since.

        Raises StoreError when Redis is down: then it counts as used.
        """
        self.engine.runner.call(self.cancelling(reservation))

    def peek(self, key: str = "", *, cost: int = 1, **units: int) -> Decision:
        """What such a request would be answered now; charges nothing. Raises StoreError when Redis is down."""
        costs = self.definition.costs(cost, units)
        return self.engine.runner.call(self.policy.peek(self.keys, self.part(key), costs))

    def usage(self, key: str = "") -> Usage:
        """What is used of each rate and of the cap, and what was configured or learned. Raises StoreError when Redis
        is down."""
        return self.engine.runner.call(self.policy.usage(self.keys, self.part(key)))

    def busiest(self, most: int = 10) -> list[KeyCount]:
        """The keys that were asked for most in this hour and the one before; other processes add their counts every
        second. By their digests, as `part` makes them, unless the limiter was defined with `name_keys`. Raises
        StoreError when Redis is down."""
        self.engine.flusher.flush()
        return self.engine.runner.call(self.tally.busiest(most))

    def waiting(self, key: str = "") -> list[str]:
        """Who waits in `slot(wait=...)` for a quarter of a second or longer: host, process and task. Raises StoreError
        when Redis is down."""
        return self.engine.runner.call(self.waiters.read(self.part(key)))

    def labelled(self, label: str) -> tuple[Usage, list[str]]:
        """`usage` and `waiting` of a key as listings name it (`busiest`, the waitlist): by its digest, unless the
        limiter was defined with `name_keys`. Raises StoreError when Redis is down."""
        part = self.part(label) if self.names_keys else label
        runner = self.engine.runner
        return runner.call(self.policy.usage(self.keys, part)), runner.call(self.waiters.read(part))

    def stats(self) -> LimitStats:
        """What all processes have decided, this one's latest second included. Raises StoreError when Redis is down."""
        self.engine.flusher.flush()
        return self.engine.runner.call(self.tally.read())

    def reset(self, key: str = "") -> None:
        """Forget what was charged and learned, and a pause; held slots stay held. Raises StoreError when Redis is
        down."""
        self.engine.runner.call(self.policy.reset(self.keys, self.part(key)))

    def pause(self, key: str, duration: Duration) -> None:
        """Refuse everything under `key` for the whole fleet, for so long from now, whatever pause there was.

        Raises DefinitionError for a duration that is none or negative, StoreError when Redis is down.
        """
        self.engine.runner.call(self.policy.pause(self.keys, self.part(key), duration))

    def configure(self, key: str, *rates: str, concurrency: int | None = None) -> None:
        """Replace the rates of one key, or its cap, for the whole fleet from the next decision on.

        Kept for a year; `configure(key)` goes back to the definition. What was charged under a rate of the same period
        still counts. No refusal of the API brings configured rates down; its pauses, and what it says is left, count
        all the same. Raises DefinitionError for rates that will not do, or leave out something that the limiter
        counts, StoreError when Redis is down.
        """
        parsed = parse_rates(*rates) if rates else ()
        self.engine.runner.call(self.policy.configure(self.keys, self.part(key), parsed, concurrency))

    def learn(self, key: str, advice: Advice) -> None:
        """Take in what an API's response said (`workerkit.limits.headers.read`): pause, or tighten; never loosen.

        The transports do it by themselves. A rate that was brought down is whole again after an hour without another
        refusal. Raises StoreError when Redis is down.
        """
        self.engine.runner.run(self.learning(key, advice))

    def __repr__(self) -> str:
        return f"Limiter({self.definition!r})"


class AioLimiter:
    """The same verbs, for coroutines."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._engine = limiter.engine

    async def try_acquire(self, key: str = "", *, cost: int = 1, **units: int) -> Decision:
        """See `Limiter.try_acquire`."""
        limiter = self._limiter
        token = limiter.token(key, cost, units)
        if token is not None:
            return token
        runner = self._engine.aio_runner
        self._engine.flusher.aio_started()
        try:
            if limiter.straight:
                decision = await runner.call(limiter.attempt(key, cost, units))
            else:
                decision = await runner.run(limiter.deciding(key, cost, units))
        except Down as error:
            return limiter.unseen(error, key, limiter.definition.costs(cost, units))
        limiter.tally.note(key, decision.allowed)
        return decision

    def slot(self, key: str = "", *, cost: int = 1, wait: Duration | None = None, **units: int) -> AioHeld[Slot]:
        """See `Limiter.slot`; `async with`."""
        return AioHeld(self._engine, self._limiter.plan(key, cost=cost, wait=wait, units=units))

    async def reserve(self, key: str = "", *, within: Duration, cost: int = 1, **units: int) -> Reservation:
        """See `Limiter.reserve`."""
        return await self._engine.aio_runner.run(self._limiter.reserving(key, within, cost, units))

    async def cancel(self, reservation: Reservation) -> None:
        """See `Limiter.cancel`."""
        await self._engine.aio_runner.call(self._limiter.cancelling(reservation))

    async def peek(self, key: str = "", *, cost: int = 1, **units: int) -> Decision:
        """See `Limiter.peek`."""
        limiter = self._limiter
        costs = limiter.definition.costs(cost, units)
        return await self._engine.aio_runner.call(limiter.policy.peek(limiter.keys, limiter.part(key), costs))

    async def usage(self, key: str = "") -> Usage:
        """See `Limiter.usage`."""
        limiter = self._limiter
        return await self._engine.aio_runner.call(limiter.policy.usage(limiter.keys, limiter.part(key)))

    async def busiest(self, most: int = 10) -> list[KeyCount]:
        """See `Limiter.busiest`."""
        await self._engine.flusher.aio_flush()
        return await self._engine.aio_runner.call(self._limiter.tally.busiest(most))

    async def waiting(self, key: str = "") -> list[str]:
        """See `Limiter.waiting`."""
        limiter = self._limiter
        return await self._engine.aio_runner.call(limiter.waiters.read(limiter.part(key)))

    async def labelled(self, label: str) -> tuple[Usage, list[str]]:
        """See `Limiter.labelled`."""
        limiter, runner = self._limiter, self._engine.aio_runner
        part = limiter.part(label) if limiter.names_keys else label
        usage = await runner.call(limiter.policy.usage(limiter.keys, part))
        return usage, await runner.call(limiter.waiters.read(part))

    async def stats(self) -> LimitStats:
        """See `Limiter.stats`."""
        await self._engine.flusher.aio_flush()
        return await self._engine.aio_runner.call(self._limiter.tally.read())

    async def reset(self, key: str = "") -> None:
        """See `Limiter.reset`."""
        limiter = self._limiter
        await self._engine.aio_runner.call(limiter.policy.reset(limiter.keys, limiter.part(key)))

    async def pause(self, key: str, duration: Duration) -> None:
        """See `Limiter.pause`."""
        limiter = self._limiter
        await self._engine.aio_runner.call(limiter.policy.pause(limiter.keys, limiter.part(key), duration))

    async def configure(self, key: str, *rates: str, concurrency: int | None = None) -> None:
        """See `Limiter.configure`."""
        limiter, parsed = self._limiter, parse_rates(*rates) if rates else ()
        await self._engine.aio_runner.call(
            limiter.policy.configure(limiter.keys, limiter.part(key), parsed, concurrency)
        )

    async def learn(self, key: str, advice: Advice) -> None:
        """See `Limiter.learn`."""
        await self._engine.aio_runner.run(self._limiter.learning(key, advice))
