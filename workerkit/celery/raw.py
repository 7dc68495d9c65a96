"""Publishing a ticket as the message it was: body, headers and properties as they came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from workerkit.waitlist.ticket import Ticket


def publish(producer: Any, ticket: Ticket, *, countdown: float = 0.0, **options: Any) -> None:
    """Send `ticket` once, to be executed after `countdown` seconds. Raises what the transport raises."""
    headers = ticket.headers
    if countdown:
        headers = {**headers, "eta": (datetime.now(UTC) + timedelta(seconds=countdown)).isoformat()}
    producer.publish(
        ticket.body,
        exchange=ticket.exchange,
        routing_key=ticket.routing_key,
        content_type=ticket.content_type,
        content_encoding=ticket.content_encoding,
        headers=headers,
        retry=False,
        **ticket.properties,
        **options,
    )
