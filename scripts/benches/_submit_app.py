"""The Celery app of the submit row, for the worker and for this process: one task memoized, one not."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from workerkit import WorkerKit

URL = os.environ["WORKERKIT_BENCH_URL"].removesuffix("/0")
PAYLOAD = {"id": 7, "name": "Ada Lovelace", "plan": "pro", "balance": 1234.5}

app = Celery("_submit_app", broker=f"{URL}/1", backend=f"{URL}/2")
app.conf.update(
    workerkit_redis_url=f"{URL}/0", worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
)
kit = WorkerKit(app)


@app.task
def plain(user_id: int) -> dict[str, Any]:
    return PAYLOAD


@kit.task
@kit.memoize("1h")
def memoized(user_id: int) -> dict[str, Any]:
    return PAYLOAD
