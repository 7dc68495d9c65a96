"""Jobs whose workers are stopped, killed and asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from redis import Redis
from setup import BROKER, DIRECTORY, SOCKET, app, kit, note

from workerkit.errors import JobFenced
from workerkit.testing.drill import zombie_point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workerkit import Job

VISIBLE = 2  # seconds until Redis as a broker delivers again what a worker has not acknowledged
BEAT = 0.5  # seconds
BATCH = 100

app.conf.update(
    worker_prefetch_multiplier=1,
    broker_heartbeat=2,  # RabbitMQ gives up a frozen worker after two of them
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
if BROKER.startswith("redis"):
    # Who is frozen or killed may hold the mutex, and nothing is restored for as long.
    app.conf.broker_transport_options = {
        "visibility_timeout": VISIBLE,
        "unacked_restore_interval": 0.5,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 1,
    }
late = kit.task(acks_late=True, reject_on_worker_lost=True)
shelf = Redis(unix_socket_path=SOCKET, db=3)


class Import(BaseModel):
    rows: int = 0
    by: int = 0


def numbers(upto: int) -> Any:
    return lambda after: range(1 if after is None else after + 1, upto + 1)


def until_open(gate: str) -> Iterator[int]:
    """A number now and then, until the test makes this file."""
    until = time.monotonic() + 60
    while not (DIRECTORY / gate).exists() and time.monotonic() < until:
        time.sleep(0.005)
        yield 1


def work(job: Job[Import], gate: str) -> int:
    job.add(rows=1)
    job.update(by=job.attempt)
    job.progress(job.attempt, 9, "works")
    note("begun", job.attempt)
    zombie_point(job)
    for _ in until_open(gate):
        pass
    return job.data.rows


@late
@kit.job(Import, heartbeat="1h")
def quiet(job: Job[Import], gate: str) -> int:
    """While nobody writes, no heartbeat changes the record either."""
    return work(job, gate)


@late
@kit.job(Import, heartbeat=BEAT)
def beating(job: Job[Import], gate: str) -> int:
    return work(job, gate)


@late
@kit.job(Import, heartbeat=BEAT)
def looping(job: Job[Import], upto: int, stop_at: int) -> int:
    rows: Iterable[int] = job.each(numbers(upto), cursor=lambda row: row, every=BATCH)
    try:
        for row in rows:
            note(f"rows-{job.attempt}", row)
            job.add(rows=1)
            if row == stop_at:
                zombie_point()
    except JobFenced:
        note("fenced", job.attempt)
        raise
    return job.data.rows


@kit.task
@kit.job(Import, heartbeat=BEAT)
def endless(job: Job[Import], gate: str) -> None:
    """Saves nothing: only heartbeats tell of it, and only they can tell it anything."""
    note("endless", os.getpid())
    for _ in job.each(lambda _: until_open(gate), cursor=lambda tick: tick, every=10**9, within="1h"):
        job.add(rows=1)


def kill_soon(order: bytes) -> None:
    """End this child, or all of its worker, a random moment later: wherever the import has got to by then."""
    victim, _, delay = order.decode().partition(" ")
    kill = os.kill if victim == "child" else os.killpg
    target = os.getpid() if victim == "child" else os.getpgrp()
    threading.Timer(float(delay), kill, (target, signal.SIGKILL)).start()


@late
@kit.job(Import, heartbeat=BEAT, max_crashes=None)
def import_rows(job: Job[Import], total: int) -> int:
    killed = False
    for row in job.each(numbers(total), cursor=lambda row: row, total=total, every=BATCH):
        handled = shelf.rpush("rows", f"{job.attempt} {row}")
        job.add(rows=1)
        next_kill = shelf.lindex("kills-at", 0)
        if next_kill is not None and handled >= int(next_kill) and not killed:
            shelf.lpop("kills-at")
            kill_soon(shelf.lpop("orders"))
            killed = True  # one for each attempt
    return job.data.rows
