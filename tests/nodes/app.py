"""The app of the canvas matrix: one step, in every layer, that asks an API; the API counts."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple
from uuid import uuid4

from celery import Celery
from pydantic import BaseModel
from redis import Redis

from workerkit import Job, WorkerKit
from workerkit.celery.host import AWAITED

LIMIT = 2  # calls of one cell ...
WINDOW = 0.3  # ... in any so many seconds

app = Celery("nodes")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_transport_options={"visibility_timeout": 3600},
)
kit = WorkerKit(app, timeout=10, pool_timeout=10)  # a machine that stalls is no fault of a server's
gate = kit.limiter("api", f"{LIMIT}/{round(WINDOW * 1000)}ms", concurrency=1)
Call = list[Any]  # the cell's name and a value: what map and starmap hand on is one argument


class Step(BaseModel):
    value: int = 0


def cell(call: Call) -> str:
    """The cell of a call, or of the calls that a chord's body gets."""
    return str(cell(call[0]) if isinstance(call[0], list) else call[0])


class Asked(NamedTuple):
    """One call of the API: when, how many were there at once, and who asked, for Celery."""

    at: float
    inside: int
    value: int
    task_id: str | None
    root: str | None
    parent: str | None


class Api:
    """What a limit protects: it notes who called, when, and how many were there at once."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, decode_responses=True)

    def ask(self, name: str, value: int) -> None:
        request = _request()
        inside = self.redis.incr(f"inside {name}")
        seconds, micros = self.redis.time()
        ids = (request.id, request.root_id, request.parent_id) if request else (None, None, None)
        note = Asked(seconds + micros / 1e6, inside, value, *ids)
        self.redis.rpush(f"calls {name}", json.dumps(note))
        self.redis.decr(f"inside {name}")

    def calls(self, name: str) -> list[Asked]:
        """In the order of their time."""
        return sorted(Asked(*json.loads(note)) for note in self.redis.lrange(f"calls {name}", 0, -1))


def _request() -> Any:
    """The worker's; None in a coroutine that another task's function calls, where Celery has lost sight of it."""
    awaited = AWAITED.get()
    if awaited is None:
        return app.current_worker_task.request
    return awaited.current and awaited.current.request


def work(call: Call, add: int) -> Call:
    name = cell(call)
    value = sum(each[1] for each in call) if isinstance(call[0], list) else call[1]
    Api(os.environ["WORKERKIT_REDIS_URL"]).ask(name, value)
    return [name, value + add]


memoized = kit.memoize("1h")
throttled = kit.throttle(gate, key=cell, wait="60s")
recorded = kit.job(Step, owner=cell)


@app.task
def plain(call: Call, add: int = 0) -> Call:
    return work(call, add)


@app.task
@memoized
def memoize(call: Call, add: int = 0) -> Call:
    return work(call, add)


@app.task
@throttled
def throttle(call: Call, add: int = 0) -> Call:
    return work(call, add)


@app.task
@recorded
def job(job: Job[Step], call: Call, add: int = 0) -> Call:
    found = work(call, add)
    job.update(value=found[1])
    return found


@app.task
@memoized
@throttled
@recorded
def stacked(job: Job[Step], call: Call, add: int = 0) -> Call:
    found = work(call, add)
    job.update(value=found[1])
    return found


@kit.task
@throttled
@recorded
async def coroutine(job: Job[Step], call: Call, add: int = 0) -> Call:
    found = work(call, add)
    await job.aio.update(value=found[1])
    return found


doors = kit.limiter("doors", "1000/s", concurrency=1, name_keys=True)


BORN = str(uuid4())  # of this very worker, wherever it runs


@app.task
def place() -> str:
    return BORN


@app.task
@memoized
def origin(name: str) -> str:
    return BORN


@app.task
@kit.throttle(doors, key="{key}")
def behind(key: str) -> str:
    return key


@app.task
def drain() -> int:
    return kit.waitlist.drain("doors")


@app.task(soft_time_limit=1)
@kit.throttle(doors, key="{key}")
def endless(key: str) -> None:
    time.sleep(60)


@app.task
@memoized
@kit.throttle(kit.limiter("scarce", "2/h"), key=cell)
def scarce(call: Call) -> Call:
    return work(call, 0)
