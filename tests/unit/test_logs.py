"""Events as lines of structlog: names, levels and fields, and nothing that nobody asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from workerkit.core import events
from workerkit.core.events import Event, JobAttempt, StoreDown, TaskParked
from workerkit.telemetry.logs import log

KINDS = [
    each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event) and each is not Event
]
VALUES: dict[str, Any] = {"float": 1.5, "bool": True, "tuple[str, ...]": ("retry-after",)}


@pytest.fixture
def _configured() -> Iterator[None]:
    structlog.configure()
    yield
    structlog.reset_defaults()


def made(kind: type[Event]) -> Event:
    return kind(**{each.name: VALUES.get(str(each.type), f"a {each.name}") for each in dataclasses.fields(kind)})


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_event_is_a_line_with_its_name_level_and_fields(kind: type[Event]) -> None:
    with capture_logs() as lines:
        log(made(kind))
    assert lines == [{"event": f"workerkit.{kind.name}", "log_level": kind.level, **dataclasses.asdict(made(kind))}]


def test_what_every_task_tells_is_not_printed_where_nobody_configured_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    log(JobAttempt("shop.load", "began"))
    log(TaskParked("shop.send", "api", 1.0))
    assert capsys.readouterr().out == ""
    log(StoreDown("cache", "no answer"))
    assert "workerkit.store.down" in capsys.readouterr().out


def test_troubles_are_warnings() -> None:
    troubles = {kind.name for kind in KINDS if kind.level == "warning"}
    assert {"store.down", "background.trouble", "throttle.ticket", "throttle.quarantine"} <= troubles
    assert {kind.name for kind in KINDS if kind.level == "debug"} == {"throttle.parked", "job.attempt"}
