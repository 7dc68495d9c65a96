"""One request and its answer under a limiter, whatever the client library.

Its slot is charged before it is sent, and counts until its answer has come: what an API counts are arrivals. So the
slot ends with the response's head, and with a concurrency cap when the body has been read or closed. A request that
failed under way keeps its charge, for it may have arrived. What the response's headers say is learned by the fleet.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from workerkit.api.held import AioHeld, Held, Plan
from workerkit.api.limiter import Limiter
from workerkit.core.durations import Duration, seconds
from workerkit.core.events import BackgroundTrouble
from workerkit.core.flow import Flow, Invoke
from workerkit.errors import DefinitionError, StoreError
from workerkit.limits.headers import Advice, read
from workerkit.limits.lease import Slot

Q = TypeVar("Q")  # the library's request
R = TypeVar("R")  # and its response
Key = str | Callable[[Q], str]
Cost = Callable[[Q], Mapping[str, int]]
WAIT = "30s"


class Exchange(Generic[Q, R]):
    """What a transport was told of its limiter.

    key: the limiter's key, or what makes it from a request. wait: how long a request may wait for its slot; None: not
    at all. cost: what makes the units of a request ("cost" for calls): `lambda request: {"tokens": 800}`. settle: what
    a response says was really used, in the same units; it may read the body. learn: whether headers are heeded.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        key: Key[Q] = "",
        wait: Duration | None = WAIT,
        cost: Cost[Q] | None = None,
        settle: Callable[[R], Any] | None = None,
        learn: bool = True,
    ) -> None:
        if not isinstance(key, str) and not callable(key):
            raise DefinitionError(f"key={key!r} must be text, or a function that makes it from a request")
        for name, function in (("cost", cost), ("settle", settle)):
            if function is not None and not callable(function):
                raise DefinitionError(f"{name}={function!r} must be a function that answers a mapping of units")
        self.limiter = limiter
        self.engine = limiter.engine
        self.capped = limiter.definition.concurrency is not None
        self._key = key
        self._wait = None if wait is None else seconds(wait, what="wait", zero_ok=True)
        self._cost = cost
        self._settle = settle
        self._learn = learn

    def turn(self, request: Q) -> Turn[R]:
        """What becomes of one request. Raises DefinitionError for a key or a cost that will not do."""
        key = self._key if isinstance(self._key, str) else self._key(request)
        units = dict(self._cost(request)) if self._cost else {}
        cost = units.pop("cost", 1)
        # A response may be read while the next request is sent: each is a connection of its own to the API.
        plan = self.limiter.plan(key, cost=cost, wait=self._wait, exact=True, units=units, nests=False)
        return Turn(self.limiter, key, plan, self._settle, learn=self._learn)


class Turn(Generic[R]):
    """What becomes of one request: sent within `held` or `aio_held`, and there also `answered`."""

    def __init__(
        self, limiter: Limiter, key: str, plan: Plan[Slot], settle: Callable[[R], Any] | None, *, learn: bool
    ) -> None:
        self._limiter = limiter
        self._key = key
        self._plan = plan
        self._settle = settle
        self._learn = learn

    def held(self) -> Lease:
        return Lease(self._limiter.engine, self._plan)

    def aio_held(self) -> AioLease:
        return AioLease(self._limiter.engine, self._plan)

    def answered(self, slot: Slot, response: R, status: int, headers: Iterable[tuple[str, str]]) -> Flow[None]:
        """Tell the fleet what the head of the response says, and the slot what was really used."""
        if self._learn:
            advice = read(status, headers, now=time.time())
            try:
                yield from self._limiter.learning(self._key, self._apart(advice, slot))
            except StoreError as error:  # the response is the caller's all the same
                hooks = self._limiter.engine.hooks
                hooks.emit(BackgroundTrouble(f"headers for limiter {self._limiter.name}", str(error)))
        if self._settle:
            ask: Invoke[Mapping[str, int] | None] = Invoke(self._settle, (response,))
            slot.settle(**((yield from ask) or {}))

    def _apart(self, advice: Advice, slot: Slot) -> Advice:
        """As the API said it before this request: its charge, still held, would be taken off once more."""
        if advice.refused or not slot.exact:
            return advice
        own = dict(zip(self._limiter.definition.units, slot.charged, strict=True))
        budgets = (
            each if each.remaining is None else replace(each, remaining=each.remaining + own.get(each.unit, 0))
            for each in advice.budgets
        )
        return replace(advice, budgets=tuple(budgets))


class Lease(Held[Slot]):
    """A slot that may outlive its `with` block, for as long as a body is read."""

    def tie_to(self, body: object) -> None:
        """Renew no longer once `body` is dropped unread. No I/O: that happens wherever garbage is collected."""
        if self._beat:
            weakref.finalize(body, self._beat.stop).atexit = False


class AioLease(AioHeld[Slot]):
    """The same for coroutines."""

    def tie_to(self, body: object) -> None:
        """See `Lease.tie_to`."""
        if self._beat:
            weakref.finalize(body, _call_in, asyncio.get_running_loop(), self._beat.stop).atexit = False


def _call_in(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(act)
