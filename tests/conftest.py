"""Private servers for every test that asks for one; a missing server skips on a laptop and fails where it must be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from workerkit.testing.servers import KINDS, missing, start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workerkit.testing.servers import RunningServer

# An example that takes long on a busy machine is no failure.
hypothesis.settings.register_profile("workerkit", deadline=None)
hypothesis.settings.load_profile("workerkit")

_SERVER_FIXTURES = {"redis_server", "redis_url", "fresh_server", "server_kind", "other_server", "private_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder and fixtures, and skip the heavy ones unless they are asked for."""
    heavy = pytest.mark.skip(reason="heavy: runs with WORKERKIT_HEAVY=1 (scripts/test --heavy)")
    for item in items:
        if item.path.parent.name in {"server", "worker", "faults"}:
            item.add_marker(item.path.parent.name)
        if not _SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if item.get_closest_marker("heavy") and os.environ.get("WORKERKIT_HEAVY") != "1":
            item.add_marker(heavy)


def require(kind: str, *, tls: bool = False) -> None:
    """Skip the test when this kind of server cannot be started here; fail it under WORKERKIT_REQUIRE_SERVERS=1."""
    if reason := missing(kind, tls=tls):
        # a build without TLS is no gap that an installation could close
        if os.environ.get("WORKERKIT_REQUIRE_SERVERS") == "1" and "without TLS" not in reason:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session", name="require")
def _require() -> Callable[..., None]:
    """`require(kind, tls=False)`, for tests that start servers themselves."""
    return require


@pytest.fixture
def private_server() -> Iterator[Callable[..., RunningServer]]:
    """`private_server(kind="valkey", tcp=..., tls=..., args=...)`: start a server that ends with the test."""
    started: list[RunningServer] = []

    def start(
        kind: str = "valkey", *, tcp: bool = False, tls: bool = False, args: tuple[str, ...] = ()
    ) -> RunningServer:
        require(kind, tls=tls)
        started.append(start_server(kind, tcp=tcp, tls=tls, args=args))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RunningServer]:
    """One Valkey for the whole session (each xdist worker has its own); not to be killed or reconfigured."""
    require("valkey")
    with start_server("valkey") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RunningServer) -> str:
    """The session's server, emptied for this test."""
    redis_server.cli("FLUSHALL")
    redis_server.cli("SCRIPT", "FLUSH")
    return redis_server.url


@pytest.fixture
def fresh_server(private_server: Callable[..., RunningServer]) -> RunningServer:
    """A Valkey of the test's own, to kill, freeze and reconfigure."""
    return private_server()


@pytest.fixture(params=KINDS)
def server_kind(request: pytest.FixtureRequest) -> str:
    """Runs the test once for every kind of server."""
    require(request.param)
    return str(request.param)


@pytest.fixture
def other_server(server_kind: str, private_server: Callable[..., RunningServer]) -> RunningServer:
    """A fresh server of every kind in turn."""
    return private_server(server_kind)
