"""Pages among 100,000 jobs, by owner and status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from workerkit.api.engine import Engine
from workerkit.api.jobs import Jobs
from workerkit.api.settings import load
from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks
from workerkit.core.flow import Batch, Flow
from workerkit.jobs import policy
from workerkit.jobs.index import DAY_MS, Entry, Index, entry_of
from workerkit.jobs.policy import About, Place, Write
from workerkit.jobs.record import Shape, Status

if TYPE_CHECKING:
    from workerkit.testing.servers import RunningServer

pytestmark = pytest.mark.heavy

JOBS, OWNERS, TAGS, LOT = 100_000, 10, 7, 500
STATUSES: tuple[Status, ...] = ("SUCCESS", "SUCCESS", "FAILURE", "RUNNING", "RETRY")
GOAL_MS = 5.0


class Import(BaseModel):
    rows: int = 0
    name: str = ""


COPIES = """
for i = 1, #KEYS do
  redis.call('RESTORE', KEYS[i], ARGV[1], ARGV[2])
  redis.call('HSET', KEYS[i], 'created', ARGV[i + 2])
end
"""


class Store:
    """Makes jobs as attempts and the index make them: one of each kind, then copies of its record."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run = engine.runner.run
        self.index = Index(engine.keys("j"))
        self.kinds: dict[tuple[int, int, int], tuple[Entry, bytes]] = {}

    def kind(self, number: int) -> tuple[Entry, bytes]:
        """The entry and the record of a job such as this one."""
        which = number % OWNERS, number % TAGS, number // OWNERS % len(STATUSES)
        if which not in self.kinds:
            where = policy.place(self.engine.keys("j"), "first of its kind")
            about = About("shop.import_rows", f"owner {which[0]}", (f"tag {which[1]}",))
            self.kinds[which] = self.run(self._first(where, about, STATUSES[which[2]]))
        return self.kinds[which]

    def _first(self, where: Place, about: About, status: Status) -> Flow[tuple[Entry, bytes]]:
        life = policy.terms("1d", "30d", None, None)
        record = yield from policy.begin(where, "t" * 22, Shape(Import), life, about)
        write = Write({"done": 5, "total": 10}, status=None if status == "RUNNING" else status)
        yield from policy.write(where, record.get("fence", int), life.ttl_ms, write)
        data: bytes = yield from Call("dump", "guard", as_is, args=("DUMP", where.key))
        yield from Call("delete", "guard", as_is, args=("DEL", *where.keys))
        return entry_of(where.job_id, record)._replace(status=status), data

    def fill(self, first: int) -> None:
        """A lot of jobs, created a millisecond after each other."""
        entries, copies = [], []
        for number in range(first, first + LOT):
            entry, data = self.kind(number)
            where, created = policy.place(self.engine.keys("j"), f"job-{number}"), entry.created_ms - JOBS + number
            entries.append((entry._replace(job_id=where.job_id, created_ms=created), DAY_MS))
            words = ("EVAL", COPIES, 1, where.key, DAY_MS, data, created * 1000)
            copies.append(Call("copy", "guard", as_is, args=words))
        self.run(iter(Batch(*copies)))
        self.run(self.index._write(entries))


def test_a_page_among_100_000_jobs(fresh_server: RunningServer) -> None:
    engine = Engine(lambda: load({"redis_url": fresh_server.url}), Hooks())
    jobs = Jobs(engine)
    began = time.perf_counter()
    store = Store(engine)
    for first in range(0, JOBS, LOT):
        store.fill(first)
    print(f"\n{JOBS} jobs in {time.perf_counter() - began:.0f} s")
    fresh_server.cli("CONFIG", "RESETSTAT")
    for asked in (
        {"owner": "owner 3", "status": "SUCCESS"},
        {"owner": "owner 3"},
        {"owner": "owner 3", "tag": "tag 2"},
        {},
    ):
        times, seen = [], []
        for _ in range(12 if "status" in asked else 1):
            after, walked = "", []
            while True:
                start = time.perf_counter()
                page = jobs.list(**asked, after=after)
                times.append((time.perf_counter() - start) * 1000)
                walked += [job.id for job in page.jobs]
                after = page.next
                if not after or len(walked) >= 40_000:
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
