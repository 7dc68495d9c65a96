"""Attempts of a job: fences, ends and cancels, with no server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.job_rig import Import, engine, jobs, numbers, record
from workerkit.api.job import Job
from workerkit.api.jobs import Jobs
from workerkit.api.recording import job
from workerkit.errors import (
    JobCancelled,
    JobFenced,
    JobFinished,
    JobMissing,
)

__all__ = ["engine", "jobs"]  # fixtures


def test_an_older_attempt_is_fenced(engine: Any, jobs: Jobs) -> None:
    old, new = jobs.begin("j", Import), jobs.begin("j", Import)
    assert new.fence == old.fence + 1
    before = dict(record(engine))
    for act in (lambda: old.update(name="x"), lambda: old.add(rows=1), old.heartbeat, old.check, old.finish):
        with pytest.raises(JobFenced):
            act()
    assert record(engine) == before


def test_an_end_is_final(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    job.fail(ValueError("no"))
    for act in (lambda: job.update(name="x"), job.check, job.finish):
        with pytest.raises(JobFinished):
            act()
    with pytest.raises(JobFinished, match="FAILURE"):
        jobs.begin("j", Import)
    assert jobs.begin("j", Import, retry=True).attempt == 2


def test_success_and_cancellation_are_final_for_retries_too(jobs: Jobs) -> None:
    jobs.begin("s", Import).finish()
    with pytest.raises(JobFinished, match="SUCCESS"):
        jobs.begin("s", Import, retry=True)

    def work() -> None:
        with jobs.begin("c", Import) as job:
            jobs.cancel("c")
            job.check()

    with pytest.raises(JobCancelled):
        work()
    with pytest.raises(JobFinished, match="CANCELLED"):
        jobs.begin("c", Import, retry=True)


def test_an_expired_record_stays_away(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    engine.store.records.clear()
    for act in (lambda: job.add(rows=1), job.check, job.finish):
        with pytest.raises(JobMissing):
            act()
    assert engine.store.records == {}


def test_a_cancelled_job_is_told_by_its_next_write(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    assert jobs.cancel("j") is True
    with pytest.raises(JobCancelled):
        job.add(rows=1)
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.status, found.cancelling) == (1, "RUNNING", True)
    assert job.data.rows == 1


def test_the_heartbeat_tells_a_loop_to_stop(engine: Any, jobs: Jobs) -> None:
    seen = []

    def work() -> None:
        with jobs.begin("j", Import) as job:
            for item in job.each(numbers(9), cursor=lambda item: item):
                seen.append(item)
                job.add(rows=1)
                if item == 3:
                    jobs.cancel("j")
                    (beat,) = engine.ticker.acts
                    beat()

    with pytest.raises(JobCancelled):
        work()
    found = jobs.get("j", Import)
    assert found is not None
    assert seen == [0, 1, 2, 3]
    assert (found.status, found.data.rows) == ("CANCELLED", 4)
    assert engine.ticker.acts == []


def test_a_cancel_that_is_met_in_a_loop_keeps_what_was_handled(engine: Any, jobs: Jobs) -> None:
    @job(engine, Import)
    def work(job: Job[Import]) -> None:
        items = job.each(numbers(9), cursor=lambda item: item)
        for item in items:
            job.add(rows=1)
            if item == 3:
                jobs.cancel(job.id)
            job.check()

    with pytest.raises(JobCancelled):  # the traceback keeps `items`, so it is still open when the job ends
        work()
    kept = record(engine)
    assert (kept["status"], kept[":rows"], kept["done"], kept["cursor"]) == ("CANCELLED", "3", "3", "2")


def test_a_refused_loop_asks_only_once(engine: Any, jobs: Jobs) -> None:
    old = jobs.begin("j", Import)
    jobs.begin("j", Import)
    engine.store.sent.clear()
    with pytest.raises(JobFenced):
        list(old.each(numbers(9), cursor=lambda item: item, every=3, within=3600))
    assert engine.store.sent == ["job.write"]


def test_a_block_does_not_end_what_has_ended(jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        job.fail(ValueError("mine"))
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.error) == ("FAILURE", ("ValueError", "mine"))


def test_an_error_is_not_replaced_when_redis_is_down(engine: Any, jobs: Jobs) -> None:
    def work() -> None:
        with jobs.begin("j", Import):
            engine.store.trouble = ["down"] * 9
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        work()
    assert "could not be closed" in caught.value.__notes__[0]


def test_a_long_or_unprintable_error_is_kept_short(jobs: Jobs) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    jobs.begin("a", Import).fail(ValueError("x" * 5000))
    jobs.begin("b", Import).fail(Odd())
    found = [jobs.get(name, Import) for name in "ab"]
    assert [len(each.error.message) for each in found if each and each.error] == [1000, 0]
