"""Warmups on a real server: each tick once, what is fresh left alone, the limit respected, one failure not the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from workerkit import WorkerKit
from workerkit.core.events import Event, WarmTick


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def kit(redis_url: str, events: list[Event]) -> Iterator[WorkerKit]:
    with WorkerKit(url=redis_url, hooks=[events.append]) as kit:
        yield kit


def test_fresh_entries_are_left_alone(kit: WorkerKit, events: list[Event]) -> None:
    calls = []

    @kit.memoize("10h")
    def rate(pair: str) -> str:
        calls.append(pair)
        return pair

    # Hours, so that no tick is likely to come between two lines.
    warmup = kit.warmup(rate, every="2h", args=["EUR", ("USD",)])
    assert warmup.run_due() == (2, 0, 0, 0)
    assert warmup.run_due() is None
    assert warmup.run() == (0, 2, 0, 0)
    early = kit.warmup(rate, every="20h", args=lambda: iter(["EUR"]), name="early")
    assert early.run() == (1, 0, 0, 0)  # it would expire before the next tick
    assert calls == ["EUR", "USD", "EUR"]
    assert rate("EUR") == "EUR"
    assert len(calls) == 3
    assert any(isinstance(event, WarmTick) for event in events)


def test_ten_processes_worth_of_tickers_run_a_tick_once(kit: WorkerKit) -> None:
    ready = threading.Barrier(10)

    @kit.memoize("1m")
    def rate(pair: str) -> str:
        return pair

    warmup = kit.warmup(rate, every="1h", args=["EUR"])

    def tick(_: int) -> Any:
        ready.wait(10)
        return warmup.run_due()

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(tick, range(10)))
    assert [outcome for outcome in outcomes if outcome is not None] == [(1, 0, 0, 0)]


def test_one_failure_leaves_the_rest_and_is_reported(kit: WorkerKit, events: list[Event]) -> None:
    @kit.memoize("10m")
    def rate(pair: str) -> str:
        if pair == "BAD":
            raise LookupError(pair)
        return pair

    def broken() -> list[str]:
        raise RuntimeError("no list today")

    warmup = kit.warmup(rate, every="1m", args=["EUR", "BAD", "USD"])
    kit.warmup(rate, every="1m", args=broken, name="broken")
    assert warmup.run() == (2, 0, 1, 0)
    kit.warmups.run_due()
    outcomes = {event.warmup: event.detail for event in events if isinstance(event, WarmTick)}
    assert "no list today" in outcomes["broken"]
    assert outcomes[warmup.name].startswith("warmed=0 fresh=2")


def test_the_rest_is_left_when_the_limit_is_used_up(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "2/m")

    @kit.memoize("1m")
    @kit.throttle(limiter)
    def rate(pair: str) -> str:
        return pair

    warmup = kit.warmup(rate, every="1m", args=["A", "B", "C", "D"])
    assert warmup.run() == (2, 0, 0, 2)
