"""What the tests of the cache, and of limiters, on a server share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cache_rig import Coroutines, Threads
from tests.server.limit_rig import make_engine
from workerkit import WorkerKit
from workerkit.api.jobs import Jobs
from workerkit.testing.proxy import FaultProxy


@pytest.fixture(params=[Threads, Coroutines])
def callers(request: pytest.FixtureRequest, kit: WorkerKit) -> Iterator[Threads | Coroutines]:
    """Who calls: threads, or tasks of an event loop; `kit` is the test's own."""
    made = request.param()
    yield made
    made.close(kit)


@pytest.fixture
def engine(redis_url):
    engine = make_engine(redis_url)
    yield engine
    engine.close()


@pytest.fixture
def jobs(engine):
    return Jobs(engine)


@pytest.fixture
def proxied(redis_url):
    """A proxy before the server, and an engine behind it."""
    with FaultProxy(redis_url) as proxy:
        engine = make_engine(proxy.url)
        yield proxy, engine
        proxy.normal()
        engine.close()
