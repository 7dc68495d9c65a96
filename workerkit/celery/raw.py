"""Publishing a ticket as the message it was: body, headers and properties as they came."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from kombu.utils.json import loads

from workerkit.waitlist.ticket import Ticket


def publish(app: Celery, producer: Any, ticket: Ticket, *, countdown: float = 0.0, **options: Any) -> None:
    """Send `ticket` once, to be executed after `countdown` seconds. Raises what the transport raises."""
    headers = loads(json.dumps(ticket.headers))  # see TicketRequest
    if countdown:
        headers = {**headers, "eta": (datetime.now(UTC) + timedelta(seconds=countdown)).isoformat()}
    producer.publish(
        ticket.body,
        exchange=ticket.exchange,
        routing_key=ticket.routing_key,
        content_type=ticket.content_type,
        content_encoding=ticket.content_encoding,
        headers=headers,
        declare=_exchange(app, ticket.exchange),
        retry=False,
        **ticket.properties,
        **options,
    )


def _exchange(app: Celery, name: str) -> list[Any]:
    """Redis as a broker has connections that take an exchange which they have not declared for a direct one."""
    queues: Any = app.amqp.queues.values() if name else ()
    return [queue.exchange for queue in queues if queue.exchange.name == name][:1]
