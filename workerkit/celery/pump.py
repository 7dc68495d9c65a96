"""The pump: a thread of each worker that publishes parked tasks when their turn has come. There is no leader."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from contextlib import suppress
from struct import error as StructError  # noqa: N812 - a class, whatever its name
from typing import TYPE_CHECKING, Any

from amqp.exceptions import FrameSyntaxError
from celery import Celery, bootsteps, signals

from workerkit.celery.checks import check_app
from workerkit.celery.raw import publish
from workerkit.celery.request import MESSAGE
from workerkit.celery.revocations import Revocations
from workerkit.core.call import Call
from workerkit.core.events import TicketQuarantined, TicketTrouble
from workerkit.errors import OutcomeUnknown, StoreUnavailable
from workerkit.throttle.turns import Turn, gather
from workerkit.waitlist.line import Line
from workerkit.waitlist.ticket import Ticket

if TYPE_CHECKING:
    from workerkit.api.engine import Engine
    from workerkit.limits.room import Room

IDLE = 0.1  # seconds between two looks when nothing is due: a task parked meanwhile waits at least `sleep_under`
DOWN = 0.5  # seconds before a store or broker that cannot be used is tried again
RESTORE = 300.0  # seconds after which tasks that some worker did not know are looked for again
UNKNOWN = "unknown task "
CONTENT: tuple[type[Exception], ...] = (ValueError, StructError, FrameSyntaxError)  # of a message that cannot be sent


class Pump:
    """Claims due tickets and publishes each as the message it was, with connections of its own."""

    def __init__(self, app: Celery, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._waitlist = engine.waitlist
        self._revocations = Revocations()
        self._todo: deque[Call[Any]] = deque()  # what signals, in other threads, have found out
        self._unsent: deque[Turn] = deque()  # what was claimed: it survives a broken connection
        self._ahead: dict[str, float] = {}
        self._restored = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workerkit-pump", daemon=True)

    def start(self) -> None:
        """Begin. Raises StoreError for a guard store that will never do; one that is down may still come."""
        try:
            self._engine.runner.call(self._waitlist.count())
        except (StoreUnavailable, OutcomeUnknown):
            pass  # the store's own events tell of it
        signals.task_revoked.connect(self._revoked)
        signals.task_unknown.connect(self._unknown)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)
        signals.task_revoked.disconnect(self._revoked)
        signals.task_unknown.disconnect(self._unknown)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._app.connection_for_write() as connection:
                    if connection.transport.driver_type == "amqp":
                        # Without it the broker may lose, or drop as unroutable, what it seems to have taken.
                        connection.transport_options = {**(connection.transport_options or {}), "confirm_publish": True}
                    self._pump(connection)
            except Exception as error:  # noqa: BLE001 - a store or a broker: the claimed tickets are still listed
                self._engine.hooks.emit(TicketTrouble(f"{type(error).__name__}: {error}"))
                self._stop.wait(DOWN)

    def _pump(self, connection: Any) -> None:
        producer = self._app.amqp.Producer(connection)
        refusals = CONTENT
        if connection.transport.driver_type == "amqp":  # of Redis, they say how it is, not what the message is
            refusals += connection.channel_errors
        while not self._stop.is_set():
            while self._unsent:
                if not self._publish(producer, self._unsent[0], refusals):
                    producer = self._app.amqp.Producer(connection)
                self._unsent.popleft()
            try:
                self._keep_house()
                turns = self._engine.runner.run(gather(self._waitlist, self._room, self._ahead))
            except (StoreUnavailable, OutcomeUnknown):
                self._stop.wait(DOWN)  # the store's own events tell of it
                continue
            for each in turns.given_up:
                self._engine.hooks.emit(TicketQuarantined("", f"no worker has begun ticket {each}"))
            self._unsent.extend(turns.turns)
            if not self._unsent:
                self._stop.wait(IDLE if turns.wait is None else min(turns.wait, IDLE))

    def _room(self, line: Line, ahead: float) -> Call[Room] | None:
        limiter = self._engine.limiters.get(line.limiter)
        return limiter.room(line.part, line.costs, ahead) if limiter is not None else None

    # Publishing

    def _publish(self, producer: Any, turn: Turn, refusals: tuple[type[Exception], ...]) -> bool:
        """Publish a ticket, or put it into quarantine; False when the channel is gone."""
        try:
            ticket = Ticket.load(turn.ticket)
        except ValueError as error:
            self._quarantine(turn.id, turn.line, "", str(error))
            return True
        if ticket.task not in self._app.tasks and self._consumes(ticket):
            self._quarantine(turn.id, turn.line, ticket.task, f"{UNKNOWN}{ticket.task}")
            return True
        try:
            message = ticket.published_as(secrets.token_hex(8), cancelled=turn.cancelled)
            publish(self._app, producer, message, mandatory=True)
        except refusals as error:
            self._quarantine(turn.id, turn.line, ticket.task, f"{type(error).__name__}: {error}")
            return False
        return True

    def _consumes(self, ticket: Ticket) -> bool:
        """Whether this worker would get the message, and drop it because it does not know the task."""
        return any(
            ticket.routing_key == queue.name if not ticket.exchange
            else (ticket.exchange, ticket.routing_key) == (queue.exchange.name, queue.routing_key)
            for queue in self._app.amqp.queues.consume_from.values()
        )  # fmt: skip

    def _quarantine(self, id_: str, line: str, task: str, reason: str) -> None:
        if self._engine.runner.call(self._waitlist.quarantine(id_, line, reason)):
            self._engine.hooks.emit(TicketQuarantined(task, reason))

    # What this worker has heard of

    def _keep_house(self) -> None:
        while self._todo:
            self._engine.runner.call(self._todo[0])
            self._todo.popleft()
        for ids in self._revocations.news():
            self._engine.runner.call(self._waitlist.cancel(*ids))
        if time.monotonic() >= self._restored:
            self._restored = time.monotonic() + RESTORE
            self._restore_known()

    def _restore_known(self) -> None:
        """Tasks that an older worker did not know may be known by this one."""
        found = self._engine.runner.call(self._waitlist.quarantine_reasons())
        known = [
            id_ for id_, why in found.items() if why.startswith(UNKNOWN) and why[len(UNKNOWN) :] in self._app.tasks
        ]
        if known:
            self._engine.runner.call(self._waitlist.restore(*known))

    def _revoked(self, request: Any = None, **_: Any) -> None:
        """Celery has ended a task before it began: revoked, or expired."""
        ticket = getattr(request, MESSAGE, None)
        if ticket is not None and ticket.generation:
            self._todo.append(self._waitlist.drop(ticket))

    def _unknown(self, message: Any = None, name: str = "", **_: Any) -> None:
        """Celery has dropped a message; if it came from the waitlist, its ticket is still there."""
        with suppress(Exception):
            headers = dict(message.headers)
            ticket = Ticket(name, b"", "", "", headers, {}, "", "")
            if ticket.generation:
                self._todo.append(self._waitlist.quarantine(ticket.id, ticket.line, f"{UNKNOWN}{name}"))
                self._engine.hooks.emit(TicketQuarantined(name, f"{UNKNOWN}{name}"))


def pump_step(app: Celery, engine: Engine) -> type[Any]:
    """The bootstep that runs a kit's pump in a worker, after the pool has forked its children."""

    class PumpStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)
        pump: Pump | None = None

        def __init__(self, worker: Any, **options: Any) -> None:
            self.needed = check_app(app)  # the worker imports its modules before its steps are made
            super().__init__(worker, **options)

        def include_if(self, worker: Any) -> bool:
            # Without throttled tasks a worker has no use for a guard store, and may well do without one.
            return self.needed

        def start(self, worker: Any) -> None:
            self.pump = Pump(app, engine)
            self.pump.start()

        def stop(self, worker: Any) -> None:
            if self.pump is not None:
                self.pump.stop()

        def terminate(self, parent: Any) -> None:
            self.stop(parent)

    return PumpStep
