"""The loop of a job that is resumed, with no server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.job_rig import Import, engine, jobs, make_engine, numbers, record
from workerkit.api.jobs import Jobs
from workerkit.errors import (
    CodecError,
    JobFinished,
    OutcomeUnknown,
    StoreUnavailable,
)

__all__ = ["engine", "jobs"]  # fixtures


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("crash", range(9))
def test_a_resumed_loop_loses_nothing_and_counts_once(jobs: Jobs, crash: int, every: int) -> None:
    handled: list[int] = []
    job = jobs.begin("j", Import)
    dead = job.each(numbers(8), cursor=lambda item: item, every=every, within=3600)
    for _ in range(crash):
        item = next(dead, None)
        if item is not None:
            handled.append(item)
            job.add(rows=1, ratio=0.5)
    # Killed here: the generator never hears of it.
    again = jobs.begin("j", Import)
    for item in again.each(numbers(8), cursor=lambda item: item, every=every, within=3600):
        handled.append(item)
        again.add(rows=1, ratio=0.5)
    again.finish()
    found = jobs.get("j", Import)
    assert found is not None
    assert set(handled) == set(range(8))
    assert len(handled) - 8 <= min(every, crash)
    assert (found.data.rows, found.data.ratio, found.progress.done) == (8, 4.0, 8)
    dead.close()
    assert jobs.get("j", Import) == replace(found, heartbeat=ANY)


@given(
    st.lists(st.sampled_from(["", "", "lost after", "lost before", "down"]), max_size=12),
    st.integers(1, 4),
    st.lists(st.integers(0, 9), max_size=4),
)
def test_counters_are_exact_whatever_is_lost(troubles: list[str], every: int, failures: list[int]) -> None:
    engine = make_engine()
    jobs = Jobs(engine)
    handled: list[int] = []

    def attempt() -> None:
        with jobs.begin("j", Import, retry=True) as job:
            fail_at = failures.pop() if failures else None
            engine.store.trouble = troubles[:]
            troubles.clear()
            for item in job.each(numbers(10), cursor=lambda item: item, every=every, within=3600):
                job.add(rows=1)
                handled.append(item)
                if item == fail_at:
                    raise KeyError(item)

    for _ in range(8):
        try:
            attempt()
            break
        except (KeyError, OutcomeUnknown, StoreUnavailable):
            engine.store.trouble.clear()
        except JobFinished:  # the attempt before has ended it, and only the answer was lost
            break
    engine.store.trouble.clear()
    found = jobs.get("j", Import)
    assert found is not None
    assert found.status == "SUCCESS"
    assert set(handled) == set(range(10))
    assert (found.data.rows, found.progress.done) == (10, 10)


def test_an_item_that_fails_is_not_counted_and_comes_again(jobs: Jobs) -> None:
    def work() -> None:
        with jobs.begin("j", Import) as job:
            for item in job.each(numbers(5), cursor=lambda item: item):
                job.add(rows=1)
                if item == 3:
                    raise KeyError(item)

    with pytest.raises(KeyError):
        work()
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.error, found.data.rows) == ("FAILURE", ("KeyError", "3"), 3)
    again = jobs.begin("j", Import, retry=True)
    assert list(again.each(numbers(5), cursor=lambda item: item)) == [3, 4]


def test_an_error_of_the_source_is_kept_and_the_rest_saved(jobs: Jobs) -> None:
    def source(cursor: int | None) -> Any:
        yield from range(3)
        raise LookupError("gone")

    job = jobs.begin("j", Import)

    def work() -> None:
        for _ in job.each(source, cursor=lambda item: item):
            job.add(rows=1)

    with pytest.raises(LookupError):
        work()
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.progress.done) == (3, 3)


def test_an_async_loop_saves_the_rest_too(engine: Any, jobs: Jobs) -> None:
    async def source(cursor: int | None) -> Any:
        for item in range(3):
            yield item
        raise LookupError("gone")

    async def main() -> None:
        job = await jobs.aio.begin("j", Import)
        async for _ in job.aio.each(source, cursor=lambda item: item):
            await job.aio.add(rows=1)

    with pytest.raises(LookupError):
        asyncio.run(main())
    assert (record(engine)[":rows"], record(engine)["cursor"]) == ("3", "2")


def test_a_loop_left_by_break_keeps_what_was_counted(jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            if item == 4:
                break
        job.add(ratio=1.0)
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.data.ratio) == (5, 1.0)


def test_what_could_not_be_saved_on_leaving_the_loop_goes_with_the_end(engine: Any, jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            if item == 4:
                engine.store.trouble = ["down"]
                break
    assert (record(engine)[":rows"], record(engine)["cursor"], record(engine)["batch"]) == ("5", "3", "2")


def test_a_second_loop_goes_on_where_the_first_was_left(engine: Any, jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            if item == 4:
                engine.store.trouble = ["down"]
                break
        seen = []
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            seen.append(item)
    assert seen == [4, 5, 6, 7, 8]
    assert record(engine)[":rows"] == "9"


def test_a_loop_that_outlives_its_attempt_writes_nothing(engine: Any, jobs: Jobs) -> None:
    loops = []

    def work() -> None:
        with jobs.begin("j", Import) as job:
            loops.append(job.each(numbers(9), cursor=lambda item: item))
            next(loops[0])
            next(loops[0])
            raise KeyError

    with pytest.raises(KeyError):
        work()
    engine.store.sent.clear()
    loops[0].close()
    assert engine.store.sent == []
    assert record(engine)["cursor"] == "0"


def test_counting_in_a_loop_costs_no_round_trip(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    engine.store.sent.clear()
    for _ in job.each(numbers(1000), cursor=lambda item: item, every=100, within=3600):
        job.add(rows=1)
    assert engine.store.sent == ["job.write"] * 10


def test_a_batch_is_saved_when_its_time_has_come(engine: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("workerkit.jobs.attempt.time", SimpleNamespace(monotonic=lambda: now))
    job = jobs.begin("j", Import)
    cursors = []
    for _ in job.each(numbers(6), cursor=lambda item: item, within=1.0):
        cursors.append(record(engine).get("cursor"))
        now += 0.5
    assert cursors == [None, None, "1", "1", "3", "3"]
    assert record(engine)["cursor"] == "5"


def test_a_sum_past_what_can_be_counted_ends_the_job(engine: Any, jobs: Jobs) -> None:
    store = engine.store
    refuse = store._write
    store._write = lambda key, words: b"COUNTER:rows" if words[3] != "0" else refuse(key, words)

    def work() -> None:
        with jobs.begin("j", Import) as job:
            for _ in job.each(numbers(2), cursor=lambda item: item):
                job.add(rows=1)

    with pytest.raises(CodecError, match="rows"):
        work()
    assert record(engine)["status"] == "FAILURE"
