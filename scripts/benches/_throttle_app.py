"""The Celery app of the bench `throttle`: one limit, and four ways to keep it, each as a task of its own.

What they did is counted outside of them, in Redis: every start as the called API sees it, by one clock; every delivery.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from _throttle import MARGIN
from celery import Celery, Task
from celery.signals import task_prerun, worker_process_init
from redis import Redis

from workerkit import WorkerKit
from workerkit.errors import RateLimited

URL = os.environ["WORKERKIT_BENCH_URL"].removesuffix("/0")

app = Celery("_throttle_app", broker=f"{URL}/1", backend=f"{URL}/2")
app.conf.update(
    workerkit_redis_url=f"{URL}/0", worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
)
kit = WorkerKit(app)
limiter = kit.limiter("api", os.environ["WORKERKIT_BENCH_RATE"], margin=MARGIN)
seen = Redis.from_url(f"{URL}/3", decode_responses=True)
_start = seen.register_script("local now = redis.call('TIME') redis.call('RPUSH', KEYS[1], now[1] * 1000000 + now[2])")


@worker_process_init.connect
def connect(**_: Any) -> None:
    """A fleet that has been at work has its connections."""
    limiter.try_acquire("first")
    _start(keys=["firsts"])


@task_prerun.connect
def delivered(task: Task[Any, Any], args: Sequence[int], **_: Any) -> None:
    seen.rpush("deliveries", f"{args[0]} {task.request.retries}")


def call_api(n: int) -> int:
    _start(keys=["starts"])
    return answer(n)


def answer(n: int) -> int:
    """What task `n` must come to."""
    return 2 * n + 1


@kit.task(max_retries=0)
@kit.throttle(limiter)
def throttled(n: int) -> int:
    return call_api(n)


@app.task(bind=True, max_retries=None)
def retried(self: Task[Any, Any], n: int) -> int:
    decision = limiter.try_acquire()
    if not decision.allowed:
        raise self.retry(countdown=decision.retry_after)
    return call_api(n)


@app.task(autoretry_for=(RateLimited,), retry_backoff=True, retry_jitter=True)
def backed_off(n: int) -> int:
    return _call_or_raise(n)


@app.task(autoretry_for=(RateLimited,), retry_backoff=True, retry_jitter=True, max_retries=None)
def backed_off_for_ever(n: int) -> int:
    return _call_or_raise(n)


def _call_or_raise(n: int) -> int:
    if not limiter.try_acquire().allowed:
        raise RateLimited
    return call_api(n)
