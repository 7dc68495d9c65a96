"""A parked task as the raw message it came as: a signature made from a request would lose half of it."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

GENERATION = "wk_gen"
PUBLICATION = "wk_pub"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One task's message. `body` is as it was on the wire; `headers` hold Celery's and the user's."""

    task: str
    body: bytes = field(repr=False)
    content_type: str
    content_encoding: str
    headers: dict[str, Any] = field(repr=False)
    properties: dict[str, Any]
    exchange: str
    routing_key: str

    @property
    def identity(self) -> str:
        """What stays the same while one execution is parked again and again; a retry is another execution."""
        h = self.headers
        return f"{h.get('id')}/{self.task}/{h.get('replaced_task_nesting', 0)}/{h.get('retries', 0)}"

    @property
    def generation(self) -> int:
        """How often it has been parked."""
        return int(self.headers.get(GENERATION) or 0)

    @property
    def publication(self) -> str:
        """Which of perhaps several publications of this generation the message is."""
        return str(self.headers.get(PUBLICATION) or "")

    def next(self) -> Ticket:
        """The ticket of the next generation."""
        return replace(self, headers={**self.headers, GENERATION: self.generation + 1, PUBLICATION: ""})

    def published_as(self, publication: str) -> Ticket:
        return replace(self, headers={**self.headers, PUBLICATION: publication})

    def dump(self) -> bytes:
        return json.dumps({**asdict(self), "body": base64.b64encode(self.body).decode()}).encode()

    @classmethod
    def load(cls, data: bytes) -> Ticket:
        """Read a ticket. Raises ValueError for bytes that are none."""
        try:
            found = json.loads(data)
            return cls(**{**found, "body": base64.b64decode(found["body"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a ticket: {error}") from None
