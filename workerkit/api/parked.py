"""`kit.waitlist`: the parked tasks, to be looked at, explained, moved and cancelled."""

from __future__ import annotations

import secrets
from functools import cached_property

from workerkit.api.engine import Engine
from workerkit.core.flow import Flow, Invoke
from workerkit.errors import DefinitionError
from workerkit.waitlist import listing
from workerkit.waitlist.line import HIGHEST, LOWEST
from workerkit.waitlist.listing import Explanation, ParkedTask, State, WaitingLine
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Taken


class ParkedTasks:
    """`kit.waitlist`: the throttled tasks that wait for their turn, in all processes' view.

    Every verb raises StoreError when Redis is down. `.aio` has the same verbs for coroutines.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def aio(self) -> AioParkedTasks:
        """The same verbs for coroutines."""
        return AioParkedTasks(self._engine, self)

    def count(self) -> int:
        """How many tasks are parked: waiting, returning, and in quarantine."""
        return self._engine.runner.call(self._engine.waitlist.count())

    def lines(self, limiter: str | None = None) -> list[WaitingLine]:
        """How many wait for each key of each limiter, or of one."""
        return self._engine.runner.run(self.lining(limiter))

    def tasks(
        self, *, state: State = "waiting", limiter: str | None = None, first: int = 0, most: int = 100
    ) -> list[ParkedTask]:
        """`most` parked tasks from the `first` on; those that wait in the order in which each line will go, and only
        those of `limiter` (its name) if one is given."""
        return self._engine.runner.run(self.listing(state, limiter, first, most))

    def explain(self, task_id: str) -> Explanation | None:
        """Why this task waits, behind how many, and until when, about; as text: `str(...)`. None when it is not parked.

        The time is a guess: others may come in between, by their priority or share.
        """
        return self._engine.runner.run(self.explaining(task_id))

    def move(self, task_id: str, *, priority: int) -> bool:
        """Let a waiting task go first among those of a priority, from 0 to 9, which goes first; False when it does not
        wait. Raises DefinitionError for another priority."""
        return self._engine.runner.run(self.moving(task_id, priority))

    def cancel(self, task_id: str) -> bool:
        """Revoke a parked task: the next worker ends it as Celery ends revoked tasks, so whoever waits for it is told.
        False when it is not parked. One in quarantine is forgotten without a word."""
        return self._engine.runner.call(self._engine.waitlist.cancel(task_id)) > 0

    def restore(self, task_id: str) -> bool:
        """Publish a task from quarantine again; False when it is not there."""
        return self._engine.runner.run(self.restoring(task_id))

    def drain(self, limiter: str | None = None) -> int:
        """Send everything that waits back to its queues now, whatever the limits say; answers how many.

        Where the tasks are throttled still, workers park again what is over the limit. Raises what the broker's client
        raises; what was not sent by then waits still.
        """
        return self._engine.runner.run(self.draining(limiter))

    # The same for both sides

    def lining(self, limiter: str | None) -> Flow[list[WaitingLine]]:
        waitlist, found = self._engine.waitlist, []
        for name, line in (yield from listing.line_list(waitlist, limiter)):
            found.append((yield from listing.lengths(waitlist, name, line)))
        return found

    def listing(self, state: State, limiter: str | None, first: int, most: int) -> Flow[list[ParkedTask]]:
        if first < 0 or most < 1:
            raise DefinitionError(f"waitlist.tasks: first={first} must be at least 0, most={most} at least 1")
        waitlist = self._engine.waitlist
        if state == "waiting":
            return (yield from listing.waiting(waitlist, limiter, first, most))
        if state == "returning":
            return (yield from listing.returning(waitlist, first, most))
        if state == "quarantined":
            return (yield from listing.quarantined(waitlist, first, most))
        raise DefinitionError(f"waitlist.tasks: state={state!r} must be 'waiting', 'returning' or 'quarantined'")

    def explaining(self, task_id: str) -> Flow[Explanation | None]:
        parked = yield from listing.find(self._engine.waitlist, task_id)
        if parked is None:
            return None
        where = yield from listing.place(self._engine.waitlist, parked.id)
        limiter = self._engine.limiters.get(parked.limiter)
        if parked.ahead is None or where is None or limiter is None:
            return Explanation(parked, None)
        name, every_us = where
        line = dict((yield from listing.line_list(self._engine.waitlist))).get(name)
        room = (yield from limiter.room(line.part, line.costs)) if line is not None else None
        return Explanation(parked, None if room is None else room.wait + parked.ahead * every_us / 1e6)

    def moving(self, task_id: str, priority: int) -> Flow[bool]:
        if type(priority) is not int or not LOWEST <= priority <= HIGHEST:
            raise DefinitionError(
                f"waitlist.move: priority={priority!r} must be a whole number from {LOWEST} to {HIGHEST}"
            )
        parked = yield from listing.find(self._engine.waitlist, task_id)
        where = (yield from listing.place(self._engine.waitlist, parked.id)) if parked is not None else None
        if parked is None or where is None:
            return False
        return (yield from self._engine.waitlist.move(parked.id, where[0], priority))

    def restoring(self, task_id: str) -> Flow[bool]:
        parked = yield from listing.find(self._engine.waitlist, task_id)
        if parked is None or parked.state != "quarantined":
            return False
        return (yield from self._engine.waitlist.restore(parked.id)) > 0

    def draining(self, limiter: str | None) -> Flow[int]:
        waitlist, sent = self._engine.waitlist, 0
        # All of them first: a worker may park again what was sent.
        for id_, line in (yield from listing.waiting_ids(waitlist, limiter)):
            taken = yield from waitlist.take(id_, line, whatever=True)
            if taken is not None and taken.ticket:
                yield from Invoke(self._publish, (taken,))
                sent += 1
        return sent

    def _publish(self, taken: Taken) -> None:
        try:
            ticket = Ticket.load(taken.ticket)
        except ValueError:
            return  # a pump puts it into quarantine
        self._engine.host.publish(ticket.published_as(secrets.token_hex(8), cancelled=taken.cancelled))


class AioParkedTasks:
    """The same verbs, for coroutines."""

    def __init__(self, engine: Engine, parked: ParkedTasks) -> None:
        self._engine = engine
        self._parked = parked

    async def count(self) -> int:
        """See `ParkedTasks.count`."""
        return await self._engine.aio_runner.call(self._engine.waitlist.count())

    async def lines(self, limiter: str | None = None) -> list[WaitingLine]:
        """See `ParkedTasks.lines`."""
        return await self._engine.aio_runner.run(self._parked.lining(limiter))

    async def tasks(
        self, *, state: State = "waiting", limiter: str | None = None, first: int = 0, most: int = 100
    ) -> list[ParkedTask]:
        """See `ParkedTasks.tasks`."""
        return await self._engine.aio_runner.run(self._parked.listing(state, limiter, first, most))

    async def explain(self, task_id: str) -> Explanation | None:
        """See `ParkedTasks.explain`."""
        return await self._engine.aio_runner.run(self._parked.explaining(task_id))

    async def move(self, task_id: str, *, priority: int) -> bool:
        """See `ParkedTasks.move`."""
        return await self._engine.aio_runner.run(self._parked.moving(task_id, priority))

    async def cancel(self, task_id: str) -> bool:
        """See `ParkedTasks.cancel`."""
        return await self._engine.aio_runner.call(self._engine.waitlist.cancel(task_id)) > 0

    async def restore(self, task_id: str) -> bool:
        """See `ParkedTasks.restore`."""
        return await self._engine.aio_runner.run(self._parked.restoring(task_id))

    async def drain(self, limiter: str | None = None) -> int:
        """See `ParkedTasks.drain`; the broker's client blocks the event loop for each message."""
        return await self._engine.aio_runner.run(self._parked.draining(limiter))
