"""A note of every message that the worker gets, as it came: evidence that does not go through any ticket."""

from __future__ import annotations

import base64
import json
from typing import Any

from celery import signals
from setup import note

PROPERTIES = (
    "correlation_id", "reply_to", "priority", "delivery_mode", "message_id", "type", "app_id", "user_id", "timestamp",
    "expiration", "cluster_id",
)  # fmt: skip


@signals.task_received.connect
def received(request: Any, **_: Any) -> None:
    message = request.message
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    seen = {
        "id": request.id,
        "headers": message.headers,
        "properties": {name: message.properties[name] for name in PROPERTIES if name in message.properties},
        "content": [message.content_type, message.content_encoding],
        "to": [message.delivery_info.get(name) for name in ("exchange", "routing_key")],
        "body": base64.b64encode(body).decode(),
    }
    note("received", json.dumps(seen, default=str))


def generation(task: Any) -> int:
    """How often this execution of the task has been parked."""
    return int(task.request.get("wk_gen") or 0)
