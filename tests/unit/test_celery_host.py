"""What a host tells a result backend on the way, and what becomes of the task when the backend is down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from workerkit.celery import host
from workerkit.celery.checks import TRACK_STARTED
from workerkit.celery.host import CeleryHost, Current

Told = Callable[[CeleryHost], None]
TELLING: list[Told] = [CeleryHost.started, lambda it: it.throttled(2.0)]


class Backend:
    """Fails as it is told to."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.stored: list[str] = []

    def store_result(self, task_id: str, result: Any, state: str, request: Any) -> None:
        if self.error is not None:
            raise self.error
        self.stored.append(state)


def running(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> tuple[CeleryHost, Backend]:
    backend = Backend(error)
    task = SimpleNamespace(backend=backend, ignore_result=False, **{TRACK_STARTED: True})
    request = SimpleNamespace(id="t", hostname="h", ignore_result=None)
    monkeypatch.setattr(host, "current", lambda: Current(task, request))
    return CeleryHost(Celery("shop"), lambda coroutine: None), backend


def test_states_on_the_way_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    it, backend = running(monkeypatch, None)
    for tell in TELLING:
        tell(it)
    assert backend.stored == ["STARTED", "THROTTLED"]


@pytest.mark.parametrize("tell", TELLING)
def test_a_backend_that_is_down_fails_no_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tell: Told
) -> None:
    it, _ = running(monkeypatch, ConnectionError("redis://:hunter2@localhost"))
    monkeypatch.setattr(host, "_LOG", logging.getLogger("host"))  # a worker in this process may have silenced Celery's
    caplog.set_level("WARNING", "host")
    tell(it)
    assert "its backend cannot be told: ConnectionError" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("tell", TELLING)
def test_a_soft_time_limit_is_no_trouble_of_the_backends(monkeypatch: pytest.MonkeyPatch, tell: Told) -> None:
    it, _ = running(monkeypatch, SoftTimeLimitExceeded())
    with pytest.raises(SoftTimeLimitExceeded):
        tell(it)
