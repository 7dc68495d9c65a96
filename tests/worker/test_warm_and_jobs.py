"""Warming through beat and job records, in real workers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import TaskRevokedError

from tests.worker.conftest import Broker
from workerkit.testing.servers import start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory, main_kind: str) -> Iterator[tuple[Any, Broker]]:
    """The app of the tests of jobs, and the broker with the worker that serves them all."""
    with start_server(main_kind) as server, pytest.MonkeyPatch.context() as patch:
        broker = Broker(server, tmp_path_factory.mktemp("jobs"), patch)
        app = broker.load("warmed")
        try:
            broker.worker("warmed", concurrency=2)
            yield app, broker
        finally:
            app.kit.close()
            broker.stop()


def test_two_beats_warm_each_tick_once_and_callers_never_compute(broker: Any, eventually: Callable[..., None]) -> None:
    app = broker.load("warmed")
    broker.worker("warmed", concurrency=3)
    broker.beat("warmed")
    broker.beat("warmed")
    eventually(lambda: len(broker.notes("rate")) >= 3)
    eventually(lambda: app.rate.memo.peek("GBP") == "gbp")
    for _ in range(50):
        assert app.rate.delay("EUR").get(timeout=10) == "eur"
    calls = [text for _, text in broker.notes("rate")]
    # Every computation was a warmer's: each of the three was computed by the same ticks.
    assert set(calls) == {"EUR", "USD", "GBP"}
    spread = max(calls.count(pair) for pair in calls) - min(calls.count(pair) for pair in calls)
    assert spread <= 1
    # Fresh for 3 s and warmed 2 s ahead of that: with two beats as with one, once a second and pair at most.
    times = sorted(time for time, text in broker.notes("rate") if text == "EUR")
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(times)), times
    assert app.rate.memo.stats().misses == 0


def test_import_killed_in_the_middle_resumes_and_counts_right(crew: tuple[Any, Broker]) -> None:
    app, broker = crew
    for name in ("row", "attempt"):  # what a run of this test left that was stalled
        (broker.directory / name).unlink(missing_ok=True)
    result = app.import_rows.delay("acct", 700, 350)
    assert result.get(timeout=60) == 700
    rows = [int(text) for _, text in broker.notes("row")]
    assert set(rows) == set(range(1, 701))
    assert len(rows) - 700 <= 100  # one batch at most again
    assert [text for _, text in broker.notes("attempt")] == ["1", "2"]
    view = app.kit.jobs.get(result.id, app.Import)
    assert view.status == "SUCCESS"
    assert view.data.rows == 700
    assert view.owner == "acct"
    assert view.attempt == 2


def test_failure_and_cancel_end_the_record(crew: tuple[Any, Broker]) -> None:
    app, broker = crew
    failed = app.failing.delay()
    with pytest.raises(LookupError):
        failed.get(timeout=20)
    view = app.kit.jobs.get(failed.id, app.Import)
    assert view.status == "FAILURE"
    assert "upstream" in str(view.error)
    stopped = app.cancelled.delay()
    with pytest.raises(TaskRevokedError):
        stopped.get(timeout=20)
    assert app.kit.jobs.get(stopped.id, app.Import).status == "CANCELLED"
    assert broker.notes("went-on") == []


def test_retries_are_attempts_of_one_job(crew: tuple[Any, Broker]) -> None:
    app, _ = crew
    result = app.retried.delay()
    assert result.get(timeout=40) == 3
    view = app.kit.jobs.get(result.id, app.Import)
    assert (view.status, view.attempt, view.data.rows) == ("SUCCESS", 3, 3)
