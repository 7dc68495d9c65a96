"""Tasks whose metrics all processes of a worker count together; the worker's main process serves them."""

from __future__ import annotations

import os
from typing import Any

from celery import signals
from pydantic import BaseModel
from setup import app, kit

from workerkit import Job
from workerkit.telemetry.prometheus import instrument

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    instrument(kit)  # in the worker, not in the test that loads this module
app.conf.worker_max_tasks_per_child = 4
app.conf.worker_prefetch_multiplier = 1


class Rows(BaseModel):
    rows: int = 0


@signals.worker_ready.connect
def serve(**_: Any) -> None:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_http_server(int(os.environ["METRICS_PORT"]), "127.0.0.1", registry)


@kit.task
@kit.memoize("1h")
@kit.job(Rows)
def work(job: Job[Rows], number: int) -> int:
    return os.getpid()
