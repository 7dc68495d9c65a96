"""The demo's Celery project: what a user of workerkit writes, and a few lines that leave evidence.

Broker and result backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND, the kit's settings from WORKERKIT_*,
the API's address from DEMO_API_URL; DEMO_EVIDENCE names the file that `workerkit.demo.evidence` fills. For a command
line beside a demo that runs, DEMO_HOME names its folder, where all of these are written down.
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
from workerkit.demo.load import PAGE, REPORTS_PER_SECOND, hottest, read_rows
from workerkit.demo.load import report as named
from workerkit.errors import StoreError
from workerkit.testing.drill import zombie_point

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerkit.core.events import Event

WHERE = "where.json"


def _where() -> Mapping[str, str]:
    home = os.environ.get("DEMO_HOME")
    return {**os.environ, **json.loads(Path(home, WHERE).read_text())} if home else os.environ


where = _where()
API_URL = where.get("DEMO_API_URL", "http://127.0.0.1:8050")
evidence = Evidence(os.environ.get("DEMO_EVIDENCE"))


def keep_event(event: Event) -> None:
    evidence.add("event", name=event.name, **asdict(event))


app = Celery("workerkit.demo.app")
app.conf.update(
    broker_url=where.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/2"),
    result_backend=where.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/3"),
    workerkit_redis_url=where.get("WORKERKIT_REDIS_URL", "redis://127.0.0.1:6379/1"),
    workerkit_sleep_under="20ms",  # a task that must wait for longer gives its process to others
    result_extended=True,  # the result then says how many retries it took
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)
kit = WorkerKit(app, hooks=[keep_event] if "DEMO_EVIDENCE" in os.environ else None)
# The API's real limit. The margin covers by how much the time from a yes to the API's door differs between two calls.
directory = kit.limiter("directory", "50/s", concurrency=5, margin="100ms")
reports = kit.limiter("reports", f"{REPORTS_PER_SECOND}/s")


AGAIN = {"countdown": 1, "max_retries": 30}  # without its record a job cannot go on; with it, where it was


class Import(BaseModel):
    """The state of an import: rows done, and the process that is at it."""

    rows: int = 0
    pid: int = 0


@kit.task
@kit.memoize("10s", stale="30s")
@kit.throttle(directory)
def lookup(name: str) -> str:
    """Ask the API for a person: at most once for all, never over its limit."""
    return fetch(name)


@kit.task
@kit.throttle(reports, fairness_key="{tenant}")
def report(tenant: str, number: int) -> str:
    """Ask the API for a tenant's report; tenants take turns, whatever their backlogs."""
    with directory.slot(wait="30s"):
        return fetch(named(tenant, number))


@kit.task(acks_late=True, reject_on_worker_lost=True, autoretry_for=[StoreError], retry_kwargs=AGAIN)
@kit.job(Import)
def import_rows(job: Job[Import], path: str, total: int) -> int:
    """Import a file; an import that was killed, or lost its Redis, goes on behind the last saved row."""
    job.update(pid=os.getpid())
    rows = Path(path)
    for row in job.each(lambda after: read_rows(rows, after), cursor=int, total=total):
        if row % PAGE == 0:
            with directory.slot(wait="30s"):
                fetch(f"page-{row // PAGE}")
        evidence.add("row", row=row, attempt=job.attempt)
        job.add(rows=1)
    return job.data.rows


@kit.task(acks_late=True, reject_on_worker_lost=True)
@kit.job(Import)
def audit(job: Job[Import]) -> int:
    """Count to one. The first attempt is frozen on its way, replaced, and woken up: it must not count."""
    zombie_point(job)
    job.add(rows=1)
    return job.data.rows


kit.warmup(lookup, every="5s", args=hottest(40), budget="20%", on_start=True)


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
    evidence.add("child", pid=os.getpid(), worker=os.getppid())


@signals.task_prerun.connect
def _begins(task: Any, **_: Any) -> None:
    """How long the kit's calls take in this very process, where and when a task is about to make its own."""
    if "DEMO_EVIDENCE" in os.environ and task.name in {lookup.name, report.name}:
        evidence.add("calls", at=time.monotonic(), ms=measured())


@signals.task_postrun.connect
def _executed(task_id: str, task: Any, state: str, **_: Any) -> None:
    """One line for each execution."""
    evidence.add("run", id=task_id, task=task.name, state=state, retries=task.request.retries, pid=os.getpid())


def measured() -> list[float]:
    """Milliseconds that a cached value's read and a limiter's script take, a call a store; nothing without Redis."""
    began = time.perf_counter()
    try:
        kit.cache.get("probe")
        read = time.perf_counter()
        directory.peek()
    except StoreError:
        return []
    return [(read - began) * 1e3, (time.perf_counter() - read) * 1e3]
