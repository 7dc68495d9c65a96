"""Throttled tasks under a limiter that tests close and open."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from celery import Task
from kombu import Exchange, Queue
from received import generation
from setup import app, kit, note

gate = kit.limiter("gate", "1000/s", name_keys=True)
app.conf.update(
    accept_content=["json", "yaml", "msgpack"],
    task_queues=[
        Queue("celery", Exchange("celery", type="direct"), routing_key="celery"),
        Queue("other", Exchange("elsewhere", type="topic"), routing_key="topics.#"),
    ],
    task_queue_max_priority=10,
)


@kit.task(bind=True, max_retries=0)
@kit.throttle(gate, key="{key}")
def step(self: Task[Any, Any], value: Any, key: str, more: Any = 0, then: float = 0.0) -> Any:
    """Adds, and closes the gate for the next one of its key."""
    note(key, f"{value} {generation(self)}")
    if then:
        gate.pause(key, then)
    return value + more


@kit.task
@kit.throttle(gate, key="{key}", priority=lambda priority: priority)
def ranked(value: int, key: str, priority: int) -> int:
    note(key, value)
    return value


@kit.task
@kit.throttle(gate, key="{key}", wait="20s")
def patient(value: int, key: str) -> int:
    note(key, f"{value} 0")
    return value


@kit.task(bind=True)
@kit.throttle(gate, key="{key}")
def total(self: Task[Any, Any], values: list[int], key: str) -> int:
    note(key, f"total {generation(self)}")
    return sum(values)


@kit.task(bind=True, max_retries=2)
@kit.throttle(gate, key="{key}")
def again(self: Task[Any, Any], key: str) -> list[Any]:
    """Fails twice, each time with the gate closed behind it."""
    note(key, f"{self.request.retries} {generation(self)}")
    if self.request.retries < 2:
        gate.pause(key, 60)
        raise self.retry(countdown=0)
    return [self.request.retries, self.request.get("mine")]


@kit.task(bind=True)
@kit.throttle(gate, key="{key}")
def replaced(self: Task[Any, Any], value: int, key: str) -> Any:
    note(key, f"first {generation(self)}")
    gate.pause(key, 60)
    return self.replace(step.s(value, key, more=1))


@kit.task(bind=True)
@kit.throttle(gate, key="{key}")
def fails(self: Task[Any, Any], key: str) -> NoReturn:
    note(key, f"fails {generation(self)}")
    raise ValueError("no")


@kit.task(bind=True)
@kit.throttle(gate, key="{key}")
def overruns(self: Task[Any, Any], key: str) -> None:
    note(key, f"begins {generation(self)}")
    time.sleep(20)


@kit.task(bind=True, track_started=True)
@kit.throttle(gate, key="{key}")
def tracked(self: Task[Any, Any], key: str) -> str:
    note(key, f"began {generation(self)}")
    return str(self.AsyncResult(self.request.id).state)


@app.task(bind=True)
def told(self: Task[Any, Any], *args: Any, key: str) -> None:
    """A callback, or an errback: these are called with other arguments."""
    note(f"{key} told", repr(args))


@app.task
def joined(values: list[int]) -> int:
    return sum(values)
