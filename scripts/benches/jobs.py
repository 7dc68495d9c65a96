"""Job records beside Celery's own states: one write, one item of a loop, one look from outside; and a page of many."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from typing import Any

from _hits import both_places
from _pairs import Loop, took
from _place import placed
from _rows import Case, Row, Run, Skip
from celery import Celery
from celery.result import AsyncResult
from pydantic import BaseModel

from workerkit import Job, WorkerKit

GOAL = {"ratio": 0.6}
JOBS, OWNERS, PAGE = 100_000, 10, 50


class Import(BaseModel):
    rows: int = 0
    name: str = ""


def _times(act: Callable[[], object]) -> Loop:
    def loop(calls: int) -> None:
        for _ in itertools.repeat(None, calls):
            act()

    return loop


@contextlib.contextmanager
def _job(run: Run) -> Iterator[tuple[WorkerKit, Job[Import]]]:
    with WorkerKit(url=run.url) as kit:
        yield kit, kit.jobs.begin("bench", Import, ttl="1d")


@contextlib.contextmanager
def _task(run: Run) -> Iterator[Any]:
    """A task of Celery with its result backend on the same server."""
    app = Celery("bench", broker="memory://", backend=run.url)

    @app.task(name="import")
    def task() -> None: ...

    yield task
    app.close()


def _update_state(task: Any) -> Callable[[], None]:
    return lambda: task.update_state(
        task_id="bench", state="PROGRESS", meta={"done": 5, "total": 9, "rows": 5, "name": "a"}
    )


def _write(name: str, act: Callable[[Job[Import]], object], **goal: Any) -> Case:
    def rows(run: Run) -> Iterator[Row]:
        with _job(run) as (_, job), _task(run) as task:
            mine, theirs = _times(lambda: act(job)), _times(_update_state(task))
            yield from both_places(run, name, "Celery update_state", mine, theirs, **goal)

    return Case(name, "Celery update_state", rows)


def _item(run: Run) -> Iterator[Row]:
    """Every item counted and its cursor kept; the peer says so after each, and could not go on from there."""
    with _job(run) as (_, job), _task(run) as task:

        def loop(calls: int) -> None:
            for _ in job.each(lambda _: range(calls), cursor=lambda row: row):
                job.add(rows=1)

        yield from both_places(
            run, "jobs.each.item", "Celery update_state", loop, _times(_update_state(task)), goal=None, pinned_goal=None
        )


def _read(run: Run) -> Iterator[Row]:
    with _job(run) as (kit, job), _task(run) as task:
        job.update(rows=5, name="a")
        job.progress(5, 9)
        _update_state(task)()

        def mine() -> None:
            found = kit.jobs.get("bench", Import)
            if found is None or found.data.rows != 5:
                raise ValueError(f"the record is {found!r}")

        def theirs() -> None:
            found = AsyncResult("bench", app=task.app).info
            if found["rows"] != 5:
                raise ValueError(f"the state is {found!r}")

        loops = (_times(mine), _times(theirs))
        yield from both_places(run, "jobs.read", "Celery AsyncResult.info", *loops, goal=None, pinned_goal=None)


def _whole(run: Run) -> Iterator[Row]:
    """A record's whole life, which is also listed, beside a task's STARTED and SUCCESS."""
    numbers = itertools.count()
    with _job(run) as (kit, _), _task(run) as task:

        def theirs() -> None:
            task_id = f"task-{next(numbers)}"
            task.update_state(task_id=task_id, state="STARTED", meta={"pid": 1})
            task.backend.mark_as_done(task_id, None)

        def mine() -> None:
            kit.jobs.begin(f"job-{next(numbers)}", Import, owner="me").finish()

        loops = (_times(mine), _times(theirs))
        yield from both_places(run, "jobs.begin.finish", "Celery STARTED, SUCCESS", *loops, goal=None, pinned_goal=None)


def _list(run: Run) -> Iterator[Row]:
    """All pages of one owner's jobs of one status, among many; the peer is the first page of a tenth as many."""
    if run.quick:
        raise Skip("needs a store that takes a minute to fill; leave out --quick")
    with WorkerKit(url=run.url) as kit:
        found = []
        for many in (JOBS // 10, JOBS):
            run.server.cli("FLUSHALL")
            for number in range(many):
                job = kit.jobs.begin(f"job-{number}", Import, owner=f"owner-{number % OWNERS}", ttl="1d")
                if number % 2:
                    job.finish()
            with placed(run.server.pid, pinned=False):
                found.append(_pages(kit, min(run.rounds * 20, many // OWNERS // PAGE)))
        small, large = found
        yield Row(
            "jobs.list", "ms", median(large), median(small), f"the same among {JOBS // 10:,}",
            median(large) / median(small), min(large), max(large), len(large),
            goal={"p99": 5}, extra={"p99": quantiles(large, n=100, method="inclusive")[98]},
        )  # fmt: skip


def _pages(kit: WorkerKit, most: int) -> list[float]:
    """Milliseconds for each page."""
    times: list[float] = []
    for owner in itertools.cycle(range(OWNERS)):
        after = ""
        while True:
            took_ms, page = _timed(kit, f"owner-{owner}", after)
            times.append(took_ms)
            after = page.next
            if not after:
                break
        if len(times) >= most:
            return times
    raise AssertionError


def _timed(kit: WorkerKit, owner: str, after: str) -> tuple[float, Any]:
    pages: list[Any] = []
    once = took(lambda _: pages.append(kit.jobs.list(owner=owner, status="SUCCESS", after=after, most=PAGE)), 1)
    return once.wall * 1000, pages[0]


CASES = (
    _write("jobs.write.progress", lambda job: job.progress(5, 9), goal=GOAL, pinned_goal=GOAL),
    _write("jobs.write.update", lambda job: job.update(name="a"), goal=GOAL, pinned_goal=GOAL),
    _write("jobs.write.add", lambda job: job.add(rows=1), goal=GOAL, pinned_goal=GOAL),
    _write("jobs.write.heartbeat", lambda job: job.heartbeat(), goal=GOAL, pinned_goal=GOAL),
    Case("jobs.each.item", "Celery update_state", _item),
    Case("jobs.read", "Celery AsyncResult.info", _read),
    Case("jobs.begin.finish", "Celery STARTED, SUCCESS", _whole),
    Case("jobs.list", f"{JOBS:,} jobs", _list),
)
