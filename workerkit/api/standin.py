"""What decides for a limiter while Redis is down: nobody, everybody is let in, or each process keeps to its share."""

from __future__ import annotations

import asyncio
import os
from typing import Literal, get_args
from uuid import uuid4

from workerkit.api.engine import Engine
from workerkit.core.call import Call
from workerkit.core.events import LimitDown
from workerkit.core.flow import Flow
from workerkit.errors import DefinitionError, StoreError, StoreUnavailable
from workerkit.limits.decision import Decision
from workerkit.limits.definition import Definition
from workerkit.limits.fleet import Fleet
from workerkit.limits.share import Share

WhenDown = Literal["closed", "open", "local"]

BEAT = 5.0  # seconds between two heartbeats; who misses two is not counted any more
_TTL_MS = 15_000


class StandIn:
    """The stand-in of one limiter in this process."""

    def __init__(self, engine: Engine, definition: Definition, policy: WhenDown) -> None:
        if policy not in get_args(WhenDown):
            raise DefinitionError(f"{definition.what}: when_down={policy!r} must be 'closed', 'open' or 'local'")
        self._engine = engine
        self._name = definition.name
        self._policy = policy
        self._share = Share(definition.rates, definition.concurrency, margin=definition.margin)
        self._capped = definition.concurrency is not None
        self._live = 0  # processes, as last heard; 0 before that
        self._member = ""
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.beats = policy == "local"
        self.stands_in = policy != "closed"

    def decide(self, error: StoreError, part: str, costs: tuple[int, ...], *, hold: bool) -> Decision:
        """The decision that stands in for the one which failed with `error`; raises that when there is none."""
        if self._policy == "closed" or (self._policy == "local" and not self._live):
            raise error
        self._engine.hooks.emit(LimitDown(self._name, self._policy, type(error).__name__))
        if self._policy == "open":
            return Decision(True, 0, 0.0, 0.0, "down")
        if hold and self._capped and not self._share.hold(part, self._live):
            return Decision(False, 0, 0.05, 0.0, "concurrency")
        decision = self._share.try_acquire(part, costs, self._live)
        if hold and self._capped and not decision.allowed:
            self._share.release(part)
        return decision

    def leave(self, part: str) -> None:
        """The end of a slot that was held here."""
        if self._capped:
            self._share.release(part)

    @property
    def absent(self) -> bool:
        """Whether nobody says yet that this process lives."""
        if not self.beats or self._pid == os.getpid():
            return False
        return self._loop is None or self._loop is not asyncio._get_running_loop()  # noqa: SLF001 - does not raise

    def joining(self) -> Flow[None]:
        """Say that this process lives, and go on saying so: from a thread, or a task of the running loop."""
        if not self._member or self._forked:
            self._member = f"{os.getpid()}-{uuid4().hex[:12]}"
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented, and does not raise
        self._loop = loop
        if loop is None:
            self._pid = os.getpid()
            self._engine.ticker.every(BEAT, "heartbeat", self._beat)
        else:
            self._engine.aio_ticker.every(BEAT, "heartbeat", self._aio_beat)
        try:
            self._live = yield from self._call()
        except StoreError:
            pass  # the next beat says it

    @property
    def _forked(self) -> bool:
        return not self._member.startswith(f"{os.getpid()}-")

    def _call(self) -> Call[int]:
        return Fleet(self._engine.keys("g"), self._name).beat(self._member, _TTL_MS)

    def _beat(self) -> None:
        try:
            self._live = self._engine.runner.call(self._call())
        except StoreUnavailable:
            pass  # the store's own events tell of it

    async def _aio_beat(self) -> None:
        try:
            self._live = await self._engine.aio_runner.call(self._call())
        except StoreUnavailable:
            pass  # as above
