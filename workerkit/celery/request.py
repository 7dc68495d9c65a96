"""The worker's request of a throttled task: it hands the raw message to the process that executes the task.

A signature rebuilt from a request would lose serializer, compression, representation and delivery headers; the message
itself loses nothing.
"""

from __future__ import annotations

import json
from typing import Any

from celery.app.task import Context
from celery.worker.request import Request
from celery.worker.state import revoked
from kombu.utils.json import dumps

from workerkit.api import layers
from workerkit.waitlist.ticket import CANCELLED, GENERATION, LINE, PUBLICATION, Ticket

MESSAGE = "workerkit_message"
_OWN = {GENERATION, PUBLICATION, LINE, CANCELLED}
_PROPERTIES = ("correlation_id", "reply_to", "priority", "delivery_mode", "message_id", "type", "app_id")


class TicketRequest(Request):
    """A request that carries its message as a Ticket, for tasks with a throttle."""

    # What celery-types leaves out of Request.
    _decoded: bool
    _task: Any
    _type: str
    _body: Any
    _request_dict: dict[str, Any]

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        if self._request_dict.get(CANCELLED):
            revoked.add(self.id)  # what is revoked, Celery ends before it comes to the pool
        if not self._decoded and "throttle" in layers.layers(self._task.run):
            # What Celery takes for the user's own headers goes on with a retry, which is another execution.
            custom = Context(self._request_dict).headers or {}
            self._request_dict["headers"] = {name: value for name, value in custom.items() if name not in _OWN}
            self._request_dict[MESSAGE] = _ticket(message, self._type, self._body)


def _ticket(message: Any, task: str, body: Any) -> Ticket:
    # The body is inflated by now, so a compression header would be a lie; a broker-side expiration would
    # drop a parked task without a word, where the `expires` header makes Celery revoke it.
    headers = {name: value for name, value in message.headers.items() if name != "compression"}
    properties = message.properties or {}
    delivery = message.delivery_info or {}
    return Ticket(
        task=task,
        body=body.encode() if isinstance(body, str) else bytes(body),
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=json.loads(dumps(headers)),  # which may hold dates, where the waitlist knows plain JSON
        properties={name: properties[name] for name in _PROPERTIES if properties.get(name) is not None},
        exchange=delivery.get("exchange") or "",
        routing_key=delivery.get("routing_key") or "",
    )
