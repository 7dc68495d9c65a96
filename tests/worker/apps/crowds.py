"""Throttled tasks that come in crowds: of two tenants, and as the headers of one chord."""

from __future__ import annotations

from typing import Any

from celery import Task
from setup import app, kit, note

RATE = 20  # starts a second
shared = kit.limiter("shared", f"{RATE}/s", algorithm="gcra", burst=2, name_keys=True)
apart = kit.limiter("apart", f"{RATE}/s", algorithm="gcra", burst=2, name_keys=True)
heads = kit.limiter("heads", "200/s", margin="20ms")
app.conf.worker_prefetch_multiplier = 1


@kit.task(max_retries=0, ignore_result=True)
@kit.throttle(shared, fairness_key="{tenant}")
def together(tenant: str, n: int) -> None:
    note(tenant, n)


@kit.task(max_retries=0, ignore_result=True)
@kit.throttle(apart, key="{tenant}")
def alone(tenant: str, n: int) -> None:
    note(tenant, n)


@kit.task(bind=True, max_retries=0)
@kit.throttle(heads)
def head(self: Task[Any, Any], n: int) -> int:
    note("heads", f"{n} {self.request.retries}")
    return n


@app.task
def total(values: list[int]) -> int:
    note("total", len(values))
    return sum(values)
