"""Gathers the facts, all at once and before a deadline, and has every check judge them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, TypeVar

from celery import Celery

from workerkit.api.kit import WorkerKit
from workerkit.doctor import (
    acks,
    application,
    clients,
    clock,
    durability,
    memory,
    reach,
    servers,
    settings,
    timing,
    visibility,
)
from workerkit.doctor.facts import Facts, ServerFacts
from workerkit.doctor.finding import SEVERITIES, Finding
from workerkit.doctor.places import Place, places
from workerkit.errors import StoreError
from workerkit.telemetry.runs import Runs

SUBJECTS = (reach, memory, durability, clients, clock, visibility, acks, timing, settings)
KINDS = tuple(kind for subject in SUBJECTS for kind in subject.KINDS)
TIMEOUT = 0.8  # seconds
_SILENT = "no answer in time"

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """What was found, the worst first; `facts` it is found by."""

    findings: tuple[Finding, ...]
    facts: Facts

    @property
    def unreachable(self) -> bool:
        """Whether a server could not be looked at, so that this is not the whole of it."""
        return bool(self.facts.app.broker_trouble) or any(server.trouble for server in self.facts.servers)


def examine(
    kit: WorkerKit, app: Celery, *, timeout: float = TIMEOUT, processes: int = 0, ignore: Collection[str] = ()
) -> Report:
    """Look at a kit's servers and its app for `timeout` seconds at most, and judge them.

    `processes` are those of workers that are going to run, for who looks before they do; findings whose id is in
    `ignore` are left out. Nothing is written. A server that is down is a finding, no error.

    Raises DefinitionError for settings that cannot be read.
    """
    deadline = time.monotonic() + timeout
    there = places(kit, app)
    looks = [(place, _begin(servers.look, place, deadline)) for place in there]
    longest = _begin(_longest, kit, timeout)
    broker = _begin(application.reach, app) if not any("broker" in place.roles for place in there) else None
    found = application.look(kit, app, _until(longest, deadline, {}))
    if broker is not None:
        found = replace(found, broker_trouble=_until(broker, deadline, _SILENT))
    asked = [_until(look, deadline, _silent(place)) for place, look in looks]
    facts = Facts(found, tuple(asked), processes)
    return Report(judge(facts, ignore), facts)


def judge(facts: Facts, ignore: Collection[str] = ()) -> tuple[Finding, ...]:
    """What the checks find in `facts`, the worst first."""
    findings = [finding for subject in SUBJECTS for finding in subject.check(facts) if finding.id not in ignore]
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _longest(kit: WorkerKit, timeout: float) -> dict[str, float]:
    try:
        return kit.engine.runner.call(Runs(kit.engine.keys("t")).read(), timeout)
    except StoreError:
        return {}  # the look at the server says why


def _silent(place: Place) -> ServerFacts:
    return ServerFacts(place.address.shown, place.roles, trouble=_SILENT)


def _begin(act: Callable[..., T], *args: Any) -> Future[T]:
    """Run it in a thread that nobody has to wait for: looking up a name has no deadline of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act(*args))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, name="workerkit-doctor", daemon=True).start()
    return future


def _until(future: Future[T], deadline: float, otherwise: T) -> T:
    try:
        return future.result(max(0.0, deadline - time.monotonic()) + 0.05)  # who keeps the deadline says more
    except TimeoutError:
        return otherwise
