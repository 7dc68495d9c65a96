"""A parked task as the raw message it came as: a signature made from a request would lose half of it."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

GENERATION = "wk_gen"
PUBLICATION = "wk_pub"
LINE = "wk_line"
CANCELLED = "wk_cancelled"


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
    def task_id(self) -> str:
        return str(self.headers.get("id"))

    @property
    def id(self) -> str:
        """What stays the same while one execution is parked again and again; a retry is another execution."""
        h = self.headers
        identity = f"{self.task_id}/{self.task}/{h.get('replaced_task_nesting', 0)}/{h.get('retries', 0)}"
        return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    @property
    def generation(self) -> int:
        """How often it has been parked."""
        return int(self.headers.get(GENERATION) or 0)

    @property
    def publication(self) -> str:
        """Which of perhaps several publications of this generation the message is."""
        return str(self.headers.get(PUBLICATION) or "")

    @property
    def line(self) -> str:
        """The line in which it was parked last; "" when it never was."""
        return str(self.headers.get(LINE) or "")

    @property
    def expires_us(self) -> int:
        """When its task expires, in microseconds since 1970; 0 when it does not, or says so illegibly."""
        try:
            expires = datetime.fromisoformat(self.headers["expires"])
        except (KeyError, TypeError, ValueError):
            return 0
        return int((expires if expires.tzinfo else expires.replace(tzinfo=UTC)).timestamp() * 1e6)

    def next(self, line: str) -> Ticket:
        """The ticket of the next generation, parked in `line`."""
        headers = {**self.headers, GENERATION: self.generation + 1, PUBLICATION: "", LINE: line}
        return replace(self, headers=headers)

    def published_as(self, publication: str, *, cancelled: bool = False) -> Ticket:
        mark = {CANCELLED: True} if cancelled else {}
        return replace(self, headers={**self.headers, PUBLICATION: publication, **mark})

    def dump(self) -> bytes:
        return json.dumps({**asdict(self), "body": base64.b64encode(self.body).decode()}).encode()

    @classmethod
    def load(cls, data: bytes) -> Ticket:
        """Read a ticket. Raises ValueError for bytes that are none."""
        try:
            found = json.loads(data)
            parts = {name: dict(found[name]) for name in ("headers", "properties")}
            return cls(**{**found, **parts, "body": base64.b64decode(found["body"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a ticket: {error}") from None
