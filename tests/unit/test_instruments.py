"""Which event and which count goes into which counter; every name, label and value is one that the table knows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from workerkit.cache.ledger import CacheStats, Ledger
from workerkit.core import events
from workerkit.core.events import Event, JobAttempt, TaskParked
from workerkit.limits.tally import LimitStats
from workerkit.telemetry.instruments import INSTRUMENTS, Amount, of_cache, of_event, of_limiter

KINDS = [
    each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event) and each is not Event
]
TABLE = {each.name: each for each in INSTRUMENTS}
VALUES: dict[str, Any] = {"float": 1.5, "bool": True, "tuple[str, ...]": ("retry-after",)}
# What may hold anything: an error's text is for the log.
FREE = {"reason", "error", "detail", "ignored", "pause", "wait", "kept", "refused"}


def made(kind: type[Event]) -> Event:
    return kind(**{each.name: VALUES.get(str(each.type), f"a {each.name}") for each in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_event_is_counted_under_names_alone(kind: type[Event]) -> None:
    amounts = list(of_event(made(kind)))
    assert amounts
    named = {f"a {field.name}" for field in dataclasses.fields(kind) if field.name not in FREE}
    for amount in amounts:
        assert len(amount.labels) == len(TABLE[amount.name].labels)
        assert set(amount.labels) == named, "labels are all names that the event has, and nothing else"


def test_an_attempt_is_counted_when_it_begins_and_when_it_ends() -> None:
    assert list(of_event(JobAttempt("t", "began"))) == [Amount("job_attempts_started", ("t",))]
    assert list(of_event(JobAttempt("t", "failure"))) == [Amount("job_attempts_ended", ("t", "failure"))]


def test_a_parked_task_adds_its_wait() -> None:
    assert list(of_event(TaskParked("t", "api", 2.5))) == [
        Amount("throttle_parked", ("t", "api")),
        Amount("throttle_parked_wait", ("t", "api"), 2.5),
    ]


def test_the_outcomes_of_calls_are_all_calls_and_each_count_has_its_counter() -> None:
    stats = CacheStats(*range(1, 11))
    amounts = list(of_cache("f", stats._asdict()))
    assert sum(each.amount for each in amounts if each.name == "cache_calls") == stats.calls
    assert {each.name for each in amounts} <= TABLE.keys()
    assert len(amounts) == len(stats)
    (saved,) = of_cache("f", {"saved_us": 2_500_000})
    assert saved == Amount("cache_saved", ("f",), 2.5)
    names = {name for name in Ledger.__slots__ if name in {*CacheStats._fields, "saved_us"}}
    assert all(each.name in TABLE for name in names for each in of_cache("f", {name: 1}))


def test_decisions_are_counted_by_outcome() -> None:
    assert list(of_limiter("api", LimitStats(1, 2, 3))) == [
        Amount("limiter_decisions", ("api", outcome), count)
        for outcome, count in (("admitted", 1), ("refused", 2), ("unseen", 3))
    ]
