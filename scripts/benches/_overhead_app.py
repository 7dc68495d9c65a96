"""The Celery app of the overhead rows: the same tasks with the kit, and without."""

from __future__ import annotations

import gc
import os
from typing import Any

from celery import Celery, signals

URL = os.environ.get("WORKERKIT_BENCH_URL", "redis://127.0.0.1:1/0").removesuffix("/0")

app = Celery("_overhead_app", broker=f"{URL}/1", backend=f"{URL}/2")
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)


if os.environ.get("WORKERKIT_BENCH_FREEZE"):

    @signals.worker_init.connect
    def freeze(**_: Any) -> None:
        gc.collect()
        gc.freeze()


def profile(user_id: int) -> dict[str, Any]:
    return {"id": user_id, "name": "Ada Lovelace"}


def send(user_id: int) -> int:
    return user_id


def load(user_id: int) -> int:
    return user_id


if os.environ.get("WORKERKIT_BENCH_KIT"):
    from pydantic import BaseModel

    from workerkit import Job, WorkerKit

    class Rows(BaseModel):
        rows: int = 0

    app.conf.workerkit_redis_url = f"{URL}/0"
    kit = WorkerKit(app)

    def job_load(job: Job[Rows], user_id: int) -> int:
        job.add(rows=1)
        return user_id

    profile = kit.task(name="profile")(kit.memoize("1h")(profile))
    send = kit.task(name="send")(kit.throttle(kit.limiter("api", "100000/s"))(send))
    load = kit.task(name="load")(kit.job(Rows)(job_load))
else:
    profile, send, load = (app.task(name=fn.__name__)(fn) for fn in (profile, send, load))

TASKS = (profile, send, load)
