"""What memoize, throttle and job promise, in every pool: with a worker that dies, a broker that goes, a full limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.canvas import xmap
from celery.exceptions import SoftTimeLimitExceeded

from tests.nodes import app as project
from workerkit import WorkerKit
from workerkit.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_celery import CeleryTestSetup

SOON = 30.0  # seconds


@pytest.fixture
def kit(celery_setup: CeleryTestSetup) -> Iterator[WorkerKit]:
    """On the Redis of the worker's kit."""
    with WorkerKit(url=celery_setup.backend.config()["host_url"], timeout=10) as kit:
        yield kit


def test_a_hit_outlives_the_worker_that_was_killed_and_started_again(celery_setup: CeleryTestSetup) -> None:
    before, computed_by = (task.get(timeout=SOON) for task in (project.place.delay(), project.origin.delay("x")))
    assert before == computed_by
    celery_setup.worker.kill()
    assert celery_setup.worker.container.status == "exited"
    again, hit = project.place.delay(), project.origin.delay("x")
    celery_setup.worker.restart()
    assert again.get(timeout=SOON) != before
    assert hit.get(timeout=SOON) == before


def test_a_parked_task_says_so_and_comes_back(
    celery_setup: CeleryTestSetup, kit: WorkerKit, eventually: Callable[..., None]
) -> None:
    gate = kit.limiter("doors", "1000/s", concurrency=1, name_keys=True)
    gate.pause("shut", 60)
    result = project.behind.delay("shut")
    eventually(lambda: kit.waitlist.count() == 1)
    assert result.state == "THROTTLED"
    assert project.behind.delay("other").get(timeout=SOON) == "other"
    gate.reset("shut")
    project.drain.delay()
    assert result.get(timeout=SOON) == "shut"
    assert kit.waitlist.count() == 0


def test_what_a_map_got_before_it_was_refused_is_kept(
    celery_setup: CeleryTestSetup, left: Callable[[], dict[str, int]]
) -> None:
    """Its calls have no message that could be parked; those that were let in need not be made again."""
    items = [["refused", value] for value in range(3)]
    refused = xmap(project.scarce.s(), items, app=project.app)
    for _ in range(2):
        with pytest.raises(RateLimited):
            refused.apply_async().get(timeout=SOON)
    kept = xmap(project.scarce.s(), items[:2], app=project.app)
    assert kept.apply_async().get(timeout=SOON) == items[:2]
    calls = project.Api(celery_setup.backend.config()["host_url"]).calls("refused")
    assert [call.value for call in calls] == [0, 1]
    assert not any(left().values())


@pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
def test_a_soft_time_limit_gives_the_slot_back(celery_setup: CeleryTestSetup) -> None:
    """Prefork alone has one."""
    with pytest.raises(SoftTimeLimitExceeded):
        project.endless.delay("slot").get(timeout=SOON)
    assert project.behind.delay("slot").get(timeout=SOON) == "slot"


def test_a_worker_goes_on_after_its_broker_was_restarted(celery_setup: CeleryTestSetup) -> None:
    worker = project.place.delay().get(timeout=SOON)
    celery_setup.broker.restart()
    assert celery_setup.broker.ready()
    assert [result.get(timeout=SOON) for result in [project.place.delay() for _ in range(3)]] == [worker] * 3
