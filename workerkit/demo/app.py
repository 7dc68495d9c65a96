"""The demo's Celery project: what a user of workerkit writes, and a few lines that leave evidence.

Broker and result backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND, the kit's settings from WORKERKIT_*,
the API's address from DEMO_API_URL; DEMO_EVIDENCE names the file that `workerkit.demo.evidence` fills.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from celery import Celery, signals
from pydantic import BaseModel

from workerkit import Job, WorkerKit
from workerkit.demo.evidence import Evidence
from workerkit.demo.load import PAGE, hottest, read_rows

if TYPE_CHECKING:
    from workerkit.core.events import Event

API_URL = os.environ.get("DEMO_API_URL", "http://127.0.0.1:8050")
evidence = Evidence(os.environ.get("DEMO_EVIDENCE"))


def keep_event(event: Event) -> None:
    evidence.add("event", name=event.name, **asdict(event))


app = Celery("workerkit.demo.app")
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/2"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/3"),
    workerkit_redis_url=os.environ.get("WORKERKIT_REDIS_URL", "redis://127.0.0.1:6379/1"),
    workerkit_sleep_under="20ms",  # a task that must wait for longer gives its process to others
    result_extended=True,  # the result then says how many retries it took
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)
kit = WorkerKit(app, hooks=[keep_event] if "DEMO_EVIDENCE" in os.environ else None)
# The API's real limit. The margin covers by how much the time from a yes to the API's door differs between two calls.
directory = kit.limiter("directory", "50/s", concurrency=5, margin="100ms")


class Import(BaseModel):
    """The state of an import: rows done, and the process that is at it."""

    rows: int = 0
    pid: int = 0


@kit.task
@kit.memoize("10s")
@kit.throttle(directory)
def lookup(name: str) -> str:
    """Ask the API for a person: at most once for all, never over its limit."""
    return fetch(name)


@kit.task(acks_late=True, reject_on_worker_lost=True)
@kit.job(Import)
def import_rows(job: Job[Import], path: str, total: int) -> int:
    """Import a file; a killed import goes on behind the last saved row."""
    job.update(pid=os.getpid())
    rows = Path(path)
    for row in job.each(lambda after: read_rows(rows, after), cursor=int, total=total):
        if row % PAGE == 0:
            with directory.slot(wait="30s"):
                fetch(f"page-{row // PAGE}")
        evidence.add("row", row=row, attempt=job.attempt)
        job.add(rows=1)
    return job.data.rows


kit.warmup(lookup, every="5s", args=hottest(40))


def fetch(name: str) -> str:
    """The API's answer; a refusal is an error, and fails the task."""
    with urlopen(f"{API_URL}/lookup/{name}", timeout=10) as reply:  # noqa: S310 - the demo's own address
        value: str = json.load(reply)["value"]
    return value


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    evidence.add("ready", pid=os.getpid())


@signals.worker_process_init.connect
def _forked(**_: Any) -> None:
    evidence.add("child", pid=os.getpid())


@signals.task_prerun.connect
def _begins(task: Any, **_: Any) -> None:
    """How long the kit's calls take in this very process, where and when the lookup is about to make its own."""
    if "DEMO_EVIDENCE" in os.environ and task.name == lookup.name:
        evidence.add("calls", ms=measured())


@signals.task_postrun.connect
def _executed(task_id: str, task: Any, state: str, **_: Any) -> None:
    """One line for each execution."""
    evidence.add("run", id=task_id, task=task.name, state=state, retries=task.request.retries, pid=os.getpid())


def measured() -> list[float]:
    """Milliseconds that a cached value's read and a limiter's script take: two of the kit's calls, one a store."""
    began = time.perf_counter()
    kit.cache.get("probe")
    read = time.perf_counter()
    directory.peek()
    return [(read - began) * 1e3, (time.perf_counter() - read) * 1e3]
