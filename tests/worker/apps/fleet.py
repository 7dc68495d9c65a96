"""A thousand throttled tasks, and others on the same queue; the API that they call keeps the time."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Task
from celery.signals import task_prerun
from redis import Redis
from setup import SOCKET, app, kit

api = Redis(unix_socket_path=SOCKET, db=3, decode_responses=True)
SAMPLED = os.environ.get("TEST_ALGORITHM", "window")
limiter = kit.limiter(
    "api", "100/s", algorithm="gcra" if SAMPLED == "gcra" else "window", margin="15ms" if SAMPLED == "window" else None
)


@kit.task(bind=True, max_retries=0)
@kit.throttle(limiter)
def call(self: Task[Any, Any], n: int) -> int:
    seconds, micros = api.time()
    api.rpush("starts", f"{seconds + micros / 1e6:.6f}")
    api.hincrby("retries", str(self.request.retries))
    return n


@app.task(ignore_result=True)
def beside(sent: float) -> None:
    """Not throttled."""
    api.rpush("delays", f"{sent} {time.time() - sent}")


@task_prerun.connect
def delivered(task_id: str = "", task: Any = None, **_: Any) -> None:
    if task.name == call.name:
        api.hincrby("deliveries", task_id)
