"""pytest-celery's containers as processes: these fixtures stand in for the ones that ask Docker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_celery import (
    CeleryTestContainer,
    CeleryTestWorker,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
)

from workerkit.testing.nodes.process import Process
from workerkit.testing.nodes.servers import RabbitMQProcess, RedisProcess
from workerkit.testing.nodes.shared import Shared
from workerkit.testing.nodes.worker import WorkerNode, WorkerProcess
from workerkit.testing.rabbitmq import missing_rabbitmq
from workerkit.testing.servers import missing

_SHARED = pytest.StashKey[Shared]()
Lend = Callable[..., Any]  # of each kind of process its own


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    shared = item.session.stash.get(_SHARED, None)
    if shared is not None:
        shared.end_others()


@pytest.fixture
def fresh_nodes() -> None:
    """A test that asks for it gets nodes of its own, which nobody has used before and which end with it."""


@pytest.fixture(scope="session")
def _shared_nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = request.session.stash[_SHARED] = Shared(tmp_path_factory.mktemp("nodes"))
    yield shared
    del request.session.stash[_SHARED]
    shared.end()


@pytest.fixture
def _lend(request: pytest.FixtureRequest, _shared_nodes: Shared) -> Iterator[Lend]:
    """`_lend(kind, container class, name, arguments)`: a node until the end of the test."""
    fresh = "fresh_nodes" in request.fixturenames
    lent: list[Process] = []

    def lend(kind: type[Process], container: type[CeleryTestContainer], name: str, *arguments: Any) -> Process:
        cls: Any = kind.under(container)
        node: Process = _shared_nodes.lend((cls, name, repr(arguments)), lambda: cls(name, *arguments), fresh=fresh)
        lent.append(node)
        return node

    yield lend
    for node in reversed(lent):
        _shared_nodes.take_back(node, fresh=fresh)


@pytest.fixture
def default_redis_broker(
    _lend: Lend, default_redis_broker_cls: type[RedisContainer], default_redis_broker_command: list[str]
) -> Any:
    return _redis(_lend, default_redis_broker_cls, "redis-broker", default_redis_broker_command)


@pytest.fixture
def default_redis_backend(
    _lend: Lend, default_redis_backend_cls: type[RedisContainer], default_redis_backend_command: list[str]
) -> Any:
    return _redis(_lend, default_redis_backend_cls, "redis-backend", default_redis_backend_command)


@pytest.fixture
def default_rabbitmq_broker(_lend: Lend, default_rabbitmq_broker_cls: type[RabbitMQContainer]) -> Any:
    _skip_for(missing_rabbitmq())
    return _lend(RabbitMQProcess, default_rabbitmq_broker_cls, "rabbitmq-broker")


@pytest.fixture
def default_worker_container(
    _lend: Lend,
    _shared_nodes: Shared,
    default_worker_container_cls: type[CeleryWorkerContainer],
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
) -> Any:
    return _lend(
        WorkerProcess,
        default_worker_container_cls,
        "worker",
        default_worker_command,
        default_worker_env,
        default_worker_initial_content,
        _shared_nodes.folder,
    )


@pytest.fixture
def default_worker_cls() -> type[CeleryTestWorker]:
    return WorkerNode


def _redis(lend: Lend, container: type[RedisContainer], name: str, command: list[str]) -> Any:
    _skip_for(missing("valkey"))
    return lend(RedisProcess, container, name, command)


def _skip_for(reason: str) -> None:
    if reason:
        pytest.skip(reason)
