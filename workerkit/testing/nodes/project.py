"""The app under test: a project's own, by its name for `celery -A`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app.utils import find_app
from kombu import pools
from pytest_celery import CeleryTestSetup, CeleryTestWorker, CeleryWorkerContainer

_CONTENT = {
    "app_module": "app_module",
    "utils_module": "utils_module",
    "worker_tasks": "tasks",
    "worker_signals": "signals",
    "worker_app": "app",
}


@pytest.fixture(scope="session")
def celery_project() -> str | None:
    """What stands behind `celery -A` for the app under test; None for pytest-celery's own app with its test tasks."""
    return None


@pytest.fixture
def celery_worker(celery_setup_worker: CeleryTestWorker) -> CeleryTestWorker:
    """The one kind of worker there is. Not by name at run time, as in pytest-celery: what it is made of may then have
    parameters, such as a pool."""
    return celery_setup_worker


@pytest.fixture
def default_worker_command(
    default_worker_container_cls: type[CeleryWorkerContainer], celery_project: str | None
) -> list[str]:
    command: list[str] = default_worker_container_cls.command()
    if celery_project is not None and "-A" in command:
        command[command.index("-A") + 1] = celery_project
    return command


@pytest.fixture
def default_worker_env(
    default_worker_container_cls: type[CeleryWorkerContainer], celery_worker_cluster_config: dict[str, Any]
) -> dict[str, str]:
    """As pytest-celery's; a kit's Redis is the result backend, as long as nobody names another."""
    return _with_kit(default_worker_container_cls.initial_env(celery_worker_cluster_config))


@pytest.fixture
def default_worker_initial_content(
    request: pytest.FixtureRequest,
    default_worker_container_cls: type[CeleryWorkerContainer],
    celery_project: str | None,
) -> dict[str, bytes]:
    """As pytest-celery's; none for a project, which is imported from where it is."""
    if celery_project is not None:
        return {}
    given = {name: request.getfixturevalue(f"default_worker_{fixture}") for name, fixture in _CONTENT.items()}
    content: dict[str, bytes] = default_worker_container_cls.initial_content(**given)
    return content


@pytest.fixture
def celery_setup_app(
    celery_project: str | None,
    celery_setup_cls: type[CeleryTestSetup],
    celery_setup_config: dict[str, Any],
    celery_setup_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Celery]:
    """The test's side: the project's own app, or a new one, with the nodes as broker and backend."""
    for name, value in _with_kit({
        "CELERY_BROKER_URL": celery_setup_config.get("broker_url", ""),
        "CELERY_RESULT_BACKEND": celery_setup_config.get("result_backend", ""),
    }).items():  # fmt: skip
        monkeypatch.setenv(name, value)
    if celery_project is None:
        app: Any = celery_setup_cls.create_setup_app(celery_setup_config, celery_setup_name)
    else:
        app = find_app(celery_project)
        celery_setup_cls.update_app_config(app)
        _forget_servers(app)
    yield app
    pools.reset()  # of this process: no other test shall get a connection that a broker's end has broken
    _forget_servers(app)


def _forget_servers(app: Any) -> None:
    """Have it ask anew where its broker and backend are, as a process that was forked from this one would."""
    app._after_fork()  # noqa: SLF001 - Celery has no public way, nor for the next two
    app._local, app._backend_cache = threading.local(), None  # noqa: SLF001 - see above


def _with_kit(environment: dict[str, str]) -> dict[str, str]:
    backend = environment.get("CELERY_RESULT_BACKEND", "").split(";")[0]
    if backend.startswith(("redis://", "rediss://")):
        environment.setdefault("WORKERKIT_REDIS_URL", backend)
    return environment
