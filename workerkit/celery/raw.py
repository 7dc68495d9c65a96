"""Publishing a ticket as the message it was: body, headers and properties as they came."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from kombu.utils.json import loads

from workerkit.waitlist.ticket import Ticket

_NUMBERS = ("priority", "delivery_mode")


def publish(app: Celery, producer: Any, ticket: Ticket, *, countdown: float = 0.0, **options: Any) -> None:
    """Send `ticket` once, to be executed after `countdown` seconds.

    Raises ValueError for one that is no message, and what the transport raises.
    """
    _check(ticket)
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


def _check(ticket: Ticket) -> None:
    """What a transport would stumble over, each in its own words, if somebody has changed a ticket."""
    texts = (ticket.task, ticket.exchange, ticket.routing_key, ticket.content_type, ticket.content_encoding)
    right = all(isinstance(each, str) for each in texts) and all(
        isinstance(value, int if name in _NUMBERS else (str, int)) for name, value in ticket.properties.items()
    )
    if not right:
        raise ValueError("not a message: a text or number in it is none")


def _exchange(app: Celery, name: str) -> list[Any]:
    """Redis as a broker has connections that take an exchange which they have not declared for a direct one."""
    queues: Any = app.amqp.queues.values() if name else ()
    return [queue.exchange for queue in queues if queue.exchange.name == name][:1]
