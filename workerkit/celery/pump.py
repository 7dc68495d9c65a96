"""The pump: a thread of each worker that publishes parked tasks when their turn has come. There is no leader."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps

from workerkit.celery.checks import check_app
from workerkit.core.events import TicketTrouble
from workerkit.errors import OutcomeUnknown, StoreUnavailable
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Waitlist

if TYPE_CHECKING:
    from workerkit.api.engine import Engine

BATCH = 100
IDLE = 0.1  # seconds between two looks when nothing is due: a task parked meanwhile waits at least `sleep_under`
DOWN = 0.5  # seconds before a store or broker that cannot be used is tried again


class Pump:
    """Claims due tickets and publishes each as the message it was, with connections of its own."""

    def __init__(self, app: Celery, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._waitlist = Waitlist(engine.keys("w"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workerkit-pump", daemon=True)

    def start(self) -> None:
        """Begin. Raises StoreError for a guard store that will never do; one that is down may still come."""
        try:
            self._engine.runner.call(self._waitlist.count())
        except (StoreUnavailable, OutcomeUnknown):
            pass  # the store's own events tell of it
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._app.connection_for_write() as connection:
                    self._pump(self._app.amqp.Producer(connection))
            except Exception as error:  # noqa: BLE001 - a store or a broker: the claimed tickets are still listed
                self._engine.hooks.emit(TicketTrouble(f"{type(error).__name__}: {error}"))
                self._stop.wait(DOWN)

    def _pump(self, producer: Any) -> None:
        while not self._stop.is_set():
            try:
                claimed = self._engine.runner.call(self._waitlist.claim(BATCH))
            except (StoreUnavailable, OutcomeUnknown):
                self._stop.wait(DOWN)  # the store's own events tell of it
                continue
            for _, data in claimed.tickets:
                self._publish(producer, data)
            if len(claimed.tickets) < BATCH:
                self._stop.wait(IDLE if claimed.wait is None else min(claimed.wait, IDLE))

    def _publish(self, producer: Any, data: bytes) -> None:
        try:
            ticket = Ticket.load(data).published_as(secrets.token_hex(8))
        except ValueError as error:
            self._engine.hooks.emit(TicketTrouble(str(error)))
            return
        producer.publish(
            ticket.body,
            exchange=ticket.exchange,
            routing_key=ticket.routing_key,
            content_type=ticket.content_type,
            content_encoding=ticket.content_encoding,
            headers=ticket.headers,
            retry=False,
            **ticket.properties,
        )


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

    return PumpStep
