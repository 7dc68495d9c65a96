"""The nodes of this suite: each broker, and a worker of each pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestSetup, CeleryTestWorker

from tests.nodes.matrix import Matrix

POOLS = ("prefork", "threads", "gevent", "solo")
# A node takes seconds to start, and no clock decides its tests.
BROKERS = ("redis", pytest.param("rabbitmq", marks=[pytest.mark.heavy, pytest.mark.timeless]))
_matrices = pytest.StashKey[dict[tuple[str, str], Matrix]]()


@pytest.fixture(scope="session")
def celery_project() -> str:
    return "tests.nodes.app"


@pytest.fixture(scope="session", params=BROKERS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def celery_broker(request: pytest.FixtureRequest, broker_kind: str, require: Callable[..., None]) -> CeleryTestBroker:
    require("valkey")
    if broker_kind == "rabbitmq":
        require("rabbitmq")
    return request.getfixturevalue(f"celery_{broker_kind}_broker")


@pytest.fixture
def celery_backend(celery_redis_backend: CeleryTestBackend) -> CeleryTestBackend:
    return celery_redis_backend


@pytest.fixture
def celery_worker(celery_setup_worker: CeleryTestWorker) -> CeleryTestWorker:
    return celery_setup_worker


@pytest.fixture
def default_worker_command(default_worker_command: list[str], pool: str) -> list[str]:
    return [*default_worker_command, "--pool", pool, "--concurrency", "4"]


@pytest.fixture
def left(celery_setup: CeleryTestSetup) -> Callable[[], dict[str, int]]:
    """`left()`: the messages that are still in the queue, and those that the worker holds; waits for there to be none.

    A worker acknowledges after the result is there: gevent's as late as two seconds.
    """

    def count() -> dict[str, int]:
        found = {"queued": queued(celery_setup.app), "held": held(celery_setup.app)}
        if celery_setup.broker.config()["url"].startswith("redis"):
            with celery_setup.broker.container.client as redis:
                found["unacknowledged"] = redis.hlen("unacked")
        return found

    def wait() -> dict[str, int]:
        until = time.monotonic() + 20
        while any(found := count().values()) and time.monotonic() < until:
            threading.Event().wait(0.05)
        return dict(zip(count(), found, strict=True))

    return wait


def queued(app: Celery, queue: str = "celery") -> int:
    with app.connection_for_write() as link:
        try:
            return int(link.default_channel.queue_declare(queue, passive=True).message_count)
        except link.channel_errors:
            return 0  # Redis forgets a queue that is empty


def held(app: Celery) -> int:
    """What the worker says that it has to do, running or not; 1 if it says nothing."""
    ask: Any = app.control.inspect(timeout=5, limit=1)
    answers = [ask.active(), ask.reserved(), ask.scheduled()]
    return sum(len(tasks) for answer in answers for tasks in (answer or {"": [""]}).values())


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_matrices] = {}


@pytest.fixture
def matrix(request: pytest.FixtureRequest, broker_kind: str, pool: str) -> Matrix:
    """All cells of the canvas matrix on this broker and in this pool, run once."""
    known = request.config.stash[_matrices]
    if (broker_kind, pool) not in known:
        setup = request.getfixturevalue("celery_setup")
        url = setup.backend.config()["host_url"]
        known[broker_kind, pool] = Matrix(url, request.getfixturevalue("left"))
    return known[broker_kind, pool]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A cell that failed, and runs again because the machine stalled, runs on a new matrix."""
    report: Any = yield
    if report.failed and "matrix" in getattr(item, "fixturenames", ()):
        item.config.stash[_matrices].clear()
    return report
