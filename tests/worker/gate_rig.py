"""An app with a worker of it, and a gate that a test closes and opens: who is parked when is no chance."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from kombu import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerkit.waitlist.listing import ParkedTask

CLOSED = 60.0  # seconds: nobody is let in before he has been parked


class Gated:
    """`module` has a limiter "gate". `worker=False` leaves it to the test to start one."""

    def __init__(
        self,
        broker: Any,
        eventually: Callable[..., None],
        module: str = "parking",
        *,
        worker: bool = True,
        concurrency: int = 2,
    ) -> None:
        self.broker = broker
        self.eventually = eventually
        self.module = module
        self.app = broker.load(module)
        self.waitlist = self.app.kit.waitlist
        # What a failed test leaves behind would try for 20 s to be forgotten by a server that is gone.
        self.app.app.backend.remove_pending_result = lambda result: result
        self.workers: list[Any] = []
        if worker:
            self.start_worker(concurrency=concurrency)

    def start_worker(self, *arguments: str, module: str = "", **options: Any) -> Any:
        quick = ("--without-mingle", "--without-gossip")
        started = self.broker.worker(module or self.module, *quick, *arguments, **options)
        self.workers.append(started)
        return started

    @property
    def log(self) -> str:
        return "".join(worker.output for worker in self.workers)

    def close(self, *keys: str) -> None:
        for key in keys:
            self.app.gate.pause(key, CLOSED)

    def open(self, *keys: str) -> None:
        """Let in whoever waits for one of these keys, without waiting for the worker's next look."""
        for key in keys:
            self.app.gate.reset(key)
        self.waitlist.drain("gate")

    def waiting(self) -> Counter[str]:
        """How many wait for which key."""
        return Counter({line.key: line.waiting for line in self.waitlist.lines("gate") if line.waiting})

    def parked(self, key: str) -> list[ParkedTask]:
        return [task for task in self.waitlist.tasks(limiter="gate", most=1000) if task.key == key]

    def await_parked(self, key: str, count: int, parks: int = 1) -> None:
        """Until `count` wait for this key that were parked at least so often."""

        def arrived() -> bool:
            parked = self.parked(key)
            return len(parked) == count and all(task.parks >= parks for task in parked)

        self.eventually(arrived)

    def notes(self, name: str) -> list[str]:
        return [text for _, text in self.broker.notes(name)]

    def received(self, task_id: str) -> list[dict[str, Any]]:
        """The messages of a task, as they came."""
        return [message for message in map(json.loads, self.notes("received")) if message["id"] == task_id]

    def send(self, message: dict[str, Any]) -> None:
        """A message as `received` gives it, sent again."""
        content_type, encoding = message["content"]
        exchange, routing_key = message["to"]
        with Connection(self.broker.url) as link:
            link.Producer().publish(
                base64.b64decode(message["body"]),
                exchange=exchange,
                routing_key=routing_key,
                headers=message["headers"],
                content_type=content_type,
                content_encoding=encoding,
                **message["properties"],
            )
