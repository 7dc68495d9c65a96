"""What the tests of the cache, and of limiters, on a server share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cache_rig import Coroutines, Threads
from tests.memory_rig import AtMemory, at_memory
from tests.server.limit_rig import make_engine
from workerkit import WorkerKit
from workerkit.api.jobs import Jobs
from workerkit.testing.proxy import FaultProxy
from workerkit.testing.servers import RunningServer

# Modules whose tests run on the memory too; tests that are `real`, or cut the wire, need their server.
ON_MEMORY = {
    *("test_bad_entries", "test_cache_early", "test_cache_guarantees", "test_cache_invalidation"),
    *("test_cache_windows", "test_job_data", "test_job_list", "test_job_poison", "test_job_progress"),
    *("test_job_watch", "test_jobs", "test_l1", "test_limit_slots", "test_limit_tally", "test_limits", "test_memoize"),
    *("test_parked", "test_sessions", "test_ticks", "test_waitlist", "test_waitlist_entered", "test_waitlist_keys"),
    *("test_warm_runs", "test_warm_steady", "test_warmup"),
}
AT_LENGTH = {  # the same, of which only the heavy run has the time
    *("test_cache_machine", "test_exact_property", "test_fixed_property", "test_gcra_property"),
    *("test_learning_property", "test_settlement_property", "test_waitlist_fairness"),
    *("test_demand", "test_waitlist_room", "test_warm_budget", "test_warm_hot", "test_window_property"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    if "redis_server" not in metafunc.fixturenames or module not in ON_MEMORY | AT_LENGTH:
        return
    if metafunc.definition.get_closest_marker("real") or "proxied" in metafunc.fixturenames:
        return
    marks = [pytest.mark.heavy] if module in AT_LENGTH else []
    marks += [pytest.mark.timeless] if module in AT_LENGTH and not module.startswith("test_warm") else []
    metafunc.parametrize(
        "redis_server", ["server", pytest.param("memory", marks=marks)], indirect=True, scope="session"
    )


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest, redis_server: RunningServer) -> Iterator[RunningServer | AtMemory]:
    """The session's server, or the memory in its place."""
    if getattr(request, "param", "server") == "server":
        yield redis_server
        return
    with at_memory() as memory:
        yield memory


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
