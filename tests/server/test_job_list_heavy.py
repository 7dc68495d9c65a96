"""Pages of 100 among 100,000 jobs, by owner and status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from workerkit.api.engine import Engine
from workerkit.api.jobs import Jobs
from workerkit.api.settings import load
from workerkit.core.events import Hooks
from workerkit.core.flow import Batch, Flow
from workerkit.jobs import policy
from workerkit.jobs.index import Index, entry_of
from workerkit.jobs.policy import About, Write
from workerkit.jobs.record import Shape, Status

if TYPE_CHECKING:
    from workerkit.testing.servers import RunningServer

pytestmark = pytest.mark.heavy

JOBS, OWNERS, LOT = 100_000, 10, 500
STATUSES: tuple[Status, ...] = ("SUCCESS", "SUCCESS", "FAILURE", "RUNNING", "RETRY")
GOAL_MS = 5.0


class Import(BaseModel):
    rows: int = 0
    name: str = ""


def make(engine: Engine, first: int) -> Flow[None]:
    """A lot of jobs, as attempts make and end them, and as they tell the index; only all at once."""
    index, life, shape = Index(engine.keys("j")), policy.terms("1d", "30d", None, None), Shape(Import)
    numbers = range(first, first + LOT)
    places = [policy.place(engine.keys("j"), f"job-{number}") for number in numbers]
    abouts = [About("shop.import_rows", f"owner {number % OWNERS}", (f"tag {number % 7}",)) for number in numbers]
    records = yield from Batch(
        *(policy.begin(where, "t" * 22, shape, life, about) for where, about in zip(places, abouts, strict=True))
    )
    entries = []
    for number, where, record in zip(numbers, places, records, strict=True):
        status = STATUSES[number // OWNERS % len(STATUSES)]
        entries.append((entry_of(where.job_id, record)._replace(status=status), where))
    yield from Batch(
        *(
            policy.write(where, entry.fence, life.ttl_ms, Write({"done": 5, "total": 10}, status=entry.status))
            for entry, where in entries
            if entry.status != "RUNNING"
        )
    )
    yield from index._write([(entry, life.ttl_ms) for entry, _ in entries])


def test_a_page_of_100_among_100_000_jobs(fresh_server: RunningServer) -> None:
    engine = Engine(lambda: load({"redis_url": fresh_server.url}), Hooks())
    jobs = Jobs(engine)
    began = time.perf_counter()
    for first in range(0, JOBS, LOT):
        engine.runner.run(make(engine, first))
    print(f"\n{JOBS} jobs in {time.perf_counter() - began:.0f} s")
    fresh_server.cli("CONFIG", "RESETSTAT")
    for asked in (
        {"owner": "owner 3", "status": "SUCCESS"},
        {"owner": "owner 3"},
        {"owner": "owner 3", "tag": "tag 2"},
        {},
    ):
        times, seen = [], []
        for _ in range(3 if "status" in asked else 1):
            after, walked = "", []
            while True:
                start = time.perf_counter()
                page = jobs.list(**asked, after=after)
                times.append((time.perf_counter() - start) * 1000)
                walked += [job.id for job in page.jobs]
                after = page.next
                if not after or len(times) >= 400:
                    break
            seen = walked
        times.sort()
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        print(f"{asked}: {len(times)} pages of {len(seen)} jobs; p50 {p50:.2f}, p99 {p99:.2f}, most {times[-1]:.2f} ms")
        assert len(seen) == len(set(seen))
        if "status" in asked:
            assert len(seen) == JOBS // OWNERS * 2 // 5
            assert p99 <= GOAL_MS
    stats = fresh_server.cli("INFO", "commandstats")
    assert "cmdstat_scan" not in str(stats)
    engine.close()
