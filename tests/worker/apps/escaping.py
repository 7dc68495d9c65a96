"""Tasks that a RateLimited escapes from: out of a slot and a transport, with and without a limit of their own."""

from __future__ import annotations

from typing import Any

import httpx
from celery import Task
from pydantic import BaseModel
from received import generation
from setup import app, kit, note

from workerkit import Job
from workerkit.http.httpx import AioRateLimitedTransport, RateLimitedTransport

__all__ = ["app"]  # where Celery's command finds it

gate = kit.limiter("gate", "1000/s", name_keys=True)
outer = kit.limiter("outer", "1000/s", concurrency=5)


def inside(task: Any, key: str) -> list[int]:
    note(key, "asks")
    with gate.slot(key):
        return [task.request.retries, min(1, generation(task))]


@kit.task(bind=True, max_retries=0)
@kit.throttle(outer)
def limited(self: Task[Any, Any], key: str) -> list[int]:
    return inside(self, key)


@kit.task(bind=True, max_retries=0)
@kit.throttle()
def bare(self: Task[Any, Any], key: str) -> list[int]:
    return inside(self, key)


@kit.task(bind=True, max_retries=3, autoretry_for=(Exception,), retry_backoff=False, default_retry_delay=0)
@kit.throttle()
def retried(self: Task[Any, Any], key: str) -> list[int]:
    return inside(self, key)


@kit.task(bind=True, max_retries=0, autoretry_for=(Exception,))
@kit.throttle(outer)
def sends(self: Task[Any, Any], key: str) -> list[int]:
    note(key, "asks")
    answers = httpx.MockTransport(lambda _: httpx.Response(200))
    with httpx.Client(transport=RateLimitedTransport(gate, answers, key=key, wait=None)) as client:
        client.get("http://upstream.test/")
    return [self.request.retries, min(1, generation(self))]


@kit.task(max_retries=0)
@kit.throttle()
async def awaits(key: str) -> str:
    note(key, "asks")
    async with gate.aio.slot(key):
        return "in"


@kit.task(max_retries=0, autoretry_for=(Exception,))
@kit.throttle(outer)
async def awaits_sending(key: str) -> int:
    note(key, "asks")
    answers = httpx.MockTransport(lambda _: httpx.Response(200))
    async with httpx.AsyncClient(transport=AioRateLimitedTransport(gate, answers, key=key, wait=None)) as client:
        return (await client.get("http://upstream.test/")).status_code


class Progress(BaseModel):
    begun: int = 0


@kit.task(bind=True, max_retries=0)
@kit.throttle()
@kit.job(Progress)
def recorded(self: Task[Any, Any], job: Job[Progress], key: str) -> list[int]:
    job.add(begun=1)
    return inside(self, key)


@kit.task(bind=True, max_retries=0)
@kit.memoize("1m")
@kit.throttle()
def memoized(self: Task[Any, Any], key: str) -> str:
    inside(self, key)
    note(key, "computed")
    return key


@kit.task(max_retries=0)
@kit.throttle(gate, key="{key}")
def calls(key: str, others: list[str]) -> list[str]:
    """Calls its own function for the others, and another task's."""
    note(key, "asks")
    return [key, *(each for other in others for each in calls(other, [])), *(bare(other)[:0] for other in others)]
