"""What calls to a store cost from this process, measured for a few seconds."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, NamedTuple

from pydantic import BaseModel

from workerkit.api.kit import WorkerKit
from workerkit.core.call import Store
from workerkit.core.sweep import sweep

LIFE = "1m"  # of what is written: it goes at the end, and without one soon after


class Figure(NamedTuple):
    """One kind of call, one after the other: how many, milliseconds of the median and of the slowest hundredth, and how
    many fit into a second."""

    name: str
    calls: int
    p50: float
    p99: float
    per_second: float


class _Work(BaseModel):
    rows: int = 0


def run(settings: dict[str, Any], seconds: float) -> list[Figure]:
    """Measure the store of these settings for about `seconds`, in a namespace of its own, which is empty afterwards.

    Raises StoreError when Redis cannot be used.
    """
    namespace = f"wkbench-{secrets.token_hex(4)}"
    kit = WorkerKit(**{**settings, "namespace": namespace}, hooks=[])
    try:
        kit.ping()  # raises before there is anything to clean up
        try:
            steps = list(_steps(kit))
            return [_measured(name, call, seconds / len(steps)) for name, call in steps]
        finally:
            _clean(kit)
    finally:
        kit.close()


def _clean(kit: WorkerKit) -> None:
    kit.engine.flusher.flush()
    stores: tuple[Store, ...] = ("cache", "guard")
    for store in stores:
        kit.engine.runner.run(sweep(store, f"{kit.settings.namespace}:"))


def _steps(kit: WorkerKit) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "PING", kit.ping
    kit.cache.set("value", "x" * 100, ttl=LIFE)
    yield "cached value", lambda: kit.cache.get("value")

    @kit.memoize(LIFE, early=0)
    def answer(number: int) -> int:
        return number

    answer(42)
    yield "memoized hit", lambda: answer(42)
    limiter = kit.limiter("bench", "1000000/s")
    yield "limiter decision", limiter.try_acquire
    job = kit.jobs.begin("bench", _Work, ttl=LIFE, max_age=LIFE)
    yield "fenced job write", lambda: job.add(rows=1)


def _measured(name: str, call: Callable[[], object], seconds: float) -> Figure:
    call()  # the script is there, and the connection
    took: list[float] = []
    began = now = time.perf_counter()
    while now - began < seconds or not took:
        call()
        before, now = now, time.perf_counter()
        took.append(now - before)
    took.sort()
    p50, p99 = (took[ceil(len(took) * share) - 1] * 1000 for share in (0.5, 0.99))
    return Figure(name, len(took), p50, p99, len(took) / (now - began))
