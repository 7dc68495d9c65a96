"""Private servers for every test that asks for one, and patience with slow machines.

A missing server skips on a laptop and fails where it must be. A test that fails in a run in which its process was
stalled says nothing of the product: it runs again, and the summary tells of it. One that fails without a stall, or in
every run, has failed.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest
from _pytest.runner import runtestprotocol  # what pytest_runtest_protocol runs; there is no public name for it
from click.testing import CliRunner

from tests.stalls import STALL, Stalls
from workerkit.testing.rabbitmq import missing_rabbitmq
from workerkit.testing.servers import KINDS, missing, start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workerkit.testing.servers import RunningServer

# An example that takes long on a busy machine is no failure.
hypothesis.settings.register_profile("workerkit", deadline=None)
hypothesis.settings.load_profile("workerkit")

pytest_plugins = ["workerkit.testing.nodes"]

if "mix_stderr" in inspect.signature(CliRunner).parameters:
    # Before 8.2 click mixes what a command prints with its errors unless told not to; later versions never do.
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell has it for what it starts in the background. Commands that the tests start would ignore Ctrl+C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SERVER_FIXTURES = {
    "main_kind",
    "redis_server",
    "redis_url",
    "fresh_server",
    "server_kind",
    "other_server",
    "private_server",
}

# The kind that tests run on where they name none, and the only one of tests that run on each in turn.
CHOSEN = os.environ.get("WORKERKIT_TEST_SERVER", "")
MAIN_KIND = CHOSEN or next(iter(KINDS))

RUNS = 4  # of one test, where each but the last was stalled
_stalls = pytest.StashKey[Stalls]()
_again = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_again] = []
    config.stash[_stalls] = Stalls()
    config.stash[_stalls].start()


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run the test; again when it fails in a run in which this process was stalled."""
    stalls, again = item.config.stash[_stalls], item.config.stash[_again]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    left = RUNS
    while True:
        left -= 1
        stalls.longest = 0.0
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not left or not any(report.failed for report in reports) or (stall := stalls.since()) < STALL:
            break
        again.append(f"{item.nodeid}: failed in a run that was stalled for {stall:.2f} s, and ran again")
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip the test that asks Redis 6.2 at which moment a key expires: only tests ask so, and only Redis 7 can say."""
    try:
        yield
    except Exception as error:
        if CHOSEN == "redis-6.2" and "unknown command `PEXPIRETIME`" in str(error):
            pytest.skip("Redis 6.2 has no PEXPIRETIME")
        raise


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[_again]:
        terminalreporter.write_line(line, yellow=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder and fixtures, and skip the heavy ones unless they are asked for."""
    heavy = pytest.mark.skip(reason="heavy: runs with WORKERKIT_HEAVY=1 (scripts/test --heavy)")
    for item in items:
        if item.path.parent.name in {"server", "worker", "faults"}:
            item.add_marker(item.path.parent.name)
        if item.path.parent.name == "nodes":
            item.add_marker("worker")
        if not _SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if item.get_closest_marker("heavy") and os.environ.get("WORKERKIT_HEAVY") != "1":
            item.add_marker(heavy)


def pytest_collection_finish() -> None:
    """What thousands of tests are made of is there to the end: no collection of garbage need look through it again."""
    gc.collect()
    gc.freeze()


def require(kind: str, *, tls: bool = False) -> None:
    """Skip the test when this kind of server cannot be started here; fail it under WORKERKIT_REQUIRE_SERVERS=1."""
    if reason := missing_rabbitmq() if kind == "rabbitmq" else missing(kind, tls=tls):
        # a build without TLS is no gap that an installation could close
        if os.environ.get("WORKERKIT_REQUIRE_SERVERS") == "1" and "without TLS" not in reason:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="module", autouse=True)
def patience(request: pytest.FixtureRequest) -> Iterator[None]:
    """A kit's calls may take long where nothing else is said: a machine that stalls for a second is no fault."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in {"server", "faults"}:
            patch.setenv("WORKERKIT_TIMEOUT", "10")
            patch.setenv("WORKERKIT_POOL_TIMEOUT", "10")
        yield


@pytest.fixture(scope="session", name="require")
def _require() -> Callable[..., None]:
    """`require(kind, tls=False)`, for tests that start servers themselves."""
    return require


@pytest.fixture
def private_server() -> Iterator[Callable[..., RunningServer]]:
    """`private_server(kind=..., tcp=..., tls=..., args=...)`: start a server that ends with the test."""
    started: list[RunningServer] = []

    def start(
        kind: str = MAIN_KIND, *, tcp: bool = False, tls: bool = False, args: tuple[str, ...] = ()
    ) -> RunningServer:
        require(kind, tls=tls)
        started.append(start_server(kind, tcp=tcp, tls=tls, args=args))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def main_kind() -> str:
    """The kind of server for tests that start one themselves: a Valkey, or what WORKERKIT_TEST_SERVER says."""
    require(MAIN_KIND)
    return MAIN_KIND


@pytest.fixture(scope="session")
def redis_server(main_kind: str) -> Iterator[RunningServer]:
    """One server for the whole session (each xdist worker has its own); not to be killed or reconfigured."""
    with start_server(main_kind) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RunningServer) -> str:
    """The session's server, emptied for this test."""
    redis_server.cli("FLUSHALL")
    redis_server.cli("SCRIPT", "FLUSH")
    return redis_server.url


@pytest.fixture
def fresh_server(private_server: Callable[..., RunningServer]) -> RunningServer:
    """A server of the test's own, to kill, freeze and reconfigure."""
    return private_server()


@pytest.fixture(params=[CHOSEN] if CHOSEN else KINDS)
def server_kind(request: pytest.FixtureRequest) -> str:
    """Runs the test once for every kind of server."""
    require(request.param)
    return str(request.param)


@pytest.fixture
def other_server(server_kind: str, private_server: Callable[..., RunningServer]) -> RunningServer:
    """A fresh server of every kind in turn."""
    return private_server(server_kind)
