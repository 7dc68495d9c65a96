"""Throttled tasks."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Task, shared_task
from setup import app, kit, note

fast = kit.limiter("fast", "50/s", margin="20ms")
slow = kit.limiter("slow", "5/2s", margin="20ms")
single = kit.limiter("single", concurrency=1)


@kit.task(max_retries=0)
@kit.throttle(fast)
def call(n: int) -> int:
    note("calls", n)
    return n


@kit.task(bind=True, max_retries=0)
@kit.throttle(slow)
def bound(self: Task[Any, Any], n: int) -> list[Any]:
    note("bound", n)
    return [n, self.request.retries, self.request.delivery_info["routing_key"], self.request.get("mine")]


@app.task
@kit.memoize("1m")
@kit.throttle(slow, key="{account}")
def balance(account: str, n: int) -> int:
    note("balance", n)
    return n


@shared_task
@kit.throttle(single)
def alone(n: int) -> int:
    note("enter", n)
    time.sleep(0.05)
    note("leave", n)
    return n


@kit.task
@kit.throttle(slow)
async def awaited(n: int) -> int:
    note("awaited", n)
    return n


@kit.task
@kit.throttle(fast)
def dies_once(n: int) -> int:
    if kit.cache.get(f"died{n}") is None:
        kit.cache.set(f"died{n}", True, ttl=60)
        os.kill(os.getpid(), signal.SIGKILL)
    note("survived", n)
    return n


@app.task
def add(numbers: list[int]) -> int:
    return sum(numbers)
