"""Warmups through beat, and jobs."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from celery import Task
from pydantic import BaseModel
from setup import app, kit, note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workerkit import Job

limiter = kit.limiter("rates", "20/s")


@kit.task
@kit.memoize("3s")
@kit.throttle(limiter)
def rate(pair: str) -> str:
    note("rate", pair)
    return pair.lower()


kit.warmup(rate, every="1s", args=["EUR", "USD", ("GBP",)], before="2s")


class Import(BaseModel):
    rows: int = 0


def read(total: int, after: int | None) -> Iterator[int]:
    yield from range(1 if after is None else after + 1, total + 1)


@kit.task(acks_late=True, reject_on_worker_lost=True)
@kit.job(Import, owner="{account}")
def import_rows(job: Job[Import], account: str, total: int, die_at: int) -> int:
    note("attempt", job.attempt)
    rows: Iterable[int] = job.each(lambda after: read(total, after), cursor=lambda row: row, total=total)
    for row in rows:
        note("row", row)
        job.add(rows=1)
        if row == die_at and job.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return job.data.rows


@app.task
@kit.job(Import)
def failing(job: Job[Import]) -> None:
    raise LookupError("upstream")


@app.task
@kit.job(Import)
def cancelled(job: Job[Import]) -> None:
    kit.jobs.cancel(job.id)
    job.check()
    note("went-on", 1)


@app.task(bind=True, autoretry_for=(LookupError,), retry_backoff=False, default_retry_delay=0, max_retries=2)
@kit.job(Import)
def retried(self: Task[Any, Any], job: Job[Import]) -> int:
    note("status", kit.jobs.get(job.id, Import).status)  # type: ignore[union-attr]  # it has begun
    job.add(rows=1)
    if job.attempt < 3:
        raise LookupError("upstream")
    return job.data.rows
