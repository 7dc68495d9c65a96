"""The nodes of this suite: each broker, and a worker of each pool."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestSetup
from pytest_docker_tools import build

from tests.nodes.matrix import Matrix
from tests.worker.conftest import eventually

__all__ = ["eventually"]  # a fixture

ROOT = Path(__file__).parents[2]
POOLS = ("prefork", "threads", "gevent", "solo")
# A node takes seconds to start, and no clock decides its tests.
BROKERS = ("redis", pytest.param("rabbitmq", marks=[pytest.mark.heavy, pytest.mark.timeless]))
_matrices = pytest.StashKey[dict[tuple[str, str], Matrix]]()

if os.environ.get("WORKERKIT_NODES") == "docker":
    celery_base_worker_image = build(path=str(ROOT), dockerfile="tests/nodes/Dockerfile", tag="workerkit/nodes:test")


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
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """A cell that failed, and runs again because the machine stalled, runs on a new matrix."""
    report: Any = yield
    where = getattr(item, "callspec", None) and item.callspec.params  # type: ignore[attr-defined]  # a Function's
    if where and {"broker_kind", "pool"} <= where.keys():
        report.user_properties.append(("node", (where["broker_kind"], where["pool"])))
    if report.failed and "matrix" in getattr(item, "fixturenames", ()):
        item.config.stash[_matrices].clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many of the tests above passed and failed, by broker and pool."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            node = dict(getattr(report, "user_properties", ())).get("node")
            if node and (report.when == "call" or outcome != "passed"):
                counts[(*node, "passed" if outcome == "passed" else "failed")] += 1
    if not counts:
        return
    terminalreporter.section("the Celery suite: counts by broker and pool")
    terminalreporter.write_line(f"{'':10}" + "".join(f"{pool:>20}" for pool in POOLS))
    for broker in dict.fromkeys(broker for broker, _, _ in sorted(counts, reverse=True)):
        cells = (f"{counts[broker, pool, 'passed']} passed, {counts[broker, pool, 'failed']} failed" for pool in POOLS)
        terminalreporter.write_line(f"{broker:10}" + "".join(f"{cell:>20}" for cell in cells))
