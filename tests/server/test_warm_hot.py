"""Warmups by demand and by cron line, their plans and what is known of them, on a real server."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from workerkit import WorkerKit
from workerkit.api.flusher import INTERVAL
from workerkit.api.warmup import Outcome
from workerkit.core.events import Event, WarmTick
from workerkit.errors import DefinitionError
from workerkit.testing.servers import RunningServer


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def kit(redis_url: str, redis_server: RunningServer, events: list[Event]) -> Iterator[WorkerKit]:
    redis_server.cli("FLUSHALL")
    with WorkerKit(url=redis_url, hooks=[events.append]) as kit:
        yield kit


class Prices:
    """A memoized function that says what it computed."""

    def __init__(self, kit: WorkerKit, ttl: str = "1h", **options: Any) -> None:
        self.computed: list[Any] = []

        @kit.memoize(ttl, **options)
        def price(item: str, day: date | None = None, *, currency: str = "EUR") -> str:
            self.computed.append(item)
            return f"{item} {currency}"

        self.price = price


@pytest.mark.parametrize("l1", [False, True])
def test_what_is_asked_for_most_is_kept_warm(
    kit: WorkerKit, redis_server: RunningServer, l1: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is slow to compute is worth more, and on a busy machine that would be any of them.
    monkeypatch.setattr("workerkit.cache.lead.time", SimpleNamespace(monotonic=itertools.count().__next__))
    it = Prices(kit, l1=l1)
    warmup = kit.warmup(it.price, every="2h", hot=2)
    for item, times in (("a", 1), ("b", 5), ("c", 3)):
        for _ in range(times):
            it.price(item, currency="USD")
    kit.engine.flusher.flush()
    it.computed.clear()
    assert [pick.arguments for pick in warmup.plan().picks] == [
        (("b",), {"currency": "USD"}),
        (("c",), {"currency": "USD"}),
    ]
    assert warmup.run() == Outcome(warmed=2)
    assert it.computed == ["b", "c"]
    assert all(redis_server.cli("PTTL", key) != -1 for key in list(redis_server.cli("KEYS", "wk:*")))  # type: ignore[call-overload]  # text


def test_another_process_warms_what_this_one_is_asked_for(kit: WorkerKit, redis_url: str) -> None:
    it = Prices(kit)
    kit.warmup(it.price, every="2h", hot=2)
    it.price("a")
    kit.engine.flusher.flush()
    with WorkerKit(url=redis_url, hooks=[]) as other:
        there = Prices(other)
        assert other.warmup(there.price, every="2h", hot=2).run() == Outcome(warmed=1)
        assert there.computed == ["a"]


READER = """
import sys, time
from workerkit import WorkerKit

kit = WorkerKit(url=sys.argv[1], hooks=[])

@kit.memoize("1h")
def price(item):
    return item

kit.warmup(price, every="2h", hot=2, name="price")
for _ in range(2):
    for _ in range(500):
        price("a")
    print("read", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.real
def test_a_process_that_is_killed_takes_no_more_with_it_than_was_not_sent_yet(kit: WorkerKit, redis_url: str) -> None:
    assert INTERVAL == 1.0

    def counted() -> float:
        with kit.client() as client:
            return sum(
                score for key in client.keys("*:all}:d") for _, score in client.zrange(key, 0, -1, withscores=True)
            )

    with subprocess.Popen(
        [sys.executable, "-c", READER, redis_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        try:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdout.readline()
            until = time.monotonic() + 20
            while counted() < 500 and time.monotonic() < until:
                time.sleep(0.01)
            reader.stdin.write("go on\n")
            reader.stdin.flush()
            reader.stdout.readline()
        finally:
            reader.kill()
    assert counted() >= 500


def test_what_is_warmed_is_not_asked_for_by_that(kit: WorkerKit) -> None:
    it = Prices(kit)
    warmup = kit.warmup(it.price, every="2h", args=["a"], hot=5)
    warmup.run()
    it.price("b")
    kit.engine.flusher.flush()
    assert [asked.part for asked in kit.engine.runner.call(kit.warmups.demands.of(it.price.memo.function).top(5))] == [
        it.price.memo.key("b")
    ]


def test_what_is_both_declared_and_asked_for_is_warmed_once(kit: WorkerKit) -> None:
    it = Prices(kit)
    warmup = kit.warmup(it.price, every="2h", args=["a"], hot=5)
    it.price("a")
    it.price(item="a")
    kit.engine.flusher.flush()
    assert [pick.arguments for pick in warmup.plan().picks] == [(("a",), {})]


def test_calls_that_cannot_come_back_are_not_stored(kit: WorkerKit, redis_server: RunningServer) -> None:
    it = Prices(kit)
    warmup = kit.warmup(it.price, every="2h", hot=9)
    it.price("a", date(2026, 1, 1))
    it.price("x" * 2000)
    it.price("b")
    kit.engine.flusher.flush()
    assert [pick.arguments for pick in warmup.plan().picks] == [(("b",), {})]


def test_ignored_arguments_are_not_stored(kit: WorkerKit, redis_server: RunningServer) -> None:
    @kit.memoize("1h", ignore=["token"])
    def price(item: str, token: str = "") -> str:
        return item

    warmup = kit.warmup(price, every="2h", hot=9)
    price("a", "hunter2")
    price("b", token="hunter2")
    price("c")
    kit.engine.flusher.flush()
    assert [pick.arguments for pick in warmup.plan().picks] == [(("c",), {})]
    for key in redis_server.cli("KEYS", "*"):  # type: ignore[union-attr]  # keys are texts
        assert "hunter2" not in str(redis_server.cli("DUMP", key))


def test_a_plan_says_what_is_left_alone(kit: WorkerKit) -> None:
    it = Prices(kit)
    warmup = kit.warmup(it.price, every="1m", args=["a", "b"], before="10m")
    it.price("a")
    found = warmup.plan()
    assert [pick.arguments for pick in found.picks] == [(("b",), {})]
    ((arguments, reason),) = found.skips
    assert arguments == (("a",), {})
    assert reason.startswith("fresh for 59m") or reason == "fresh for 1h"
    assert it.computed == ["a"]


def test_how_a_warmup_stands(kit: WorkerKit, events: list[Event]) -> None:
    it = Prices(kit, "10h")
    warmup = kit.warmup(it.price, every="2h", args=["a", "b"])
    new = warmup.status()
    assert (new.name, new.schedule, new.runs, new.last, new.ended) == (warmup.name, "every 2h", 0, None, None)
    assert warmup.run_due() == Outcome(warmed=2)
    done = warmup.status()
    assert (done.runs, done.last, done.running, done.missed, done.overlaps) == (1, Outcome(warmed=2), None, 0, 0)
    assert done.ended is not None
    assert abs(done.ended - time.time()) < 60
    assert 0 < done.next - time.time() <= 7200
    assert warmup.pause()
    assert warmup.status().paused
    assert warmup.run() == Outcome(fresh=2)
    assert warmup.resume()
    assert [run["fresh"] for run in warmup.history()] == [2, 0]
    assert [event.detail for event in events if isinstance(event, WarmTick)] == [
        "warmed=2 fresh=0 failed=0 left=0",
        "warmed=0 fresh=2 failed=0 left=0",
    ]


def test_a_callable_that_raises_is_a_failed_run_with_its_reason(kit: WorkerKit) -> None:
    def broken() -> list[str]:
        raise RuntimeError("no list today")

    it = Prices(kit)
    warmup = kit.warmup(it.price, every="2h", args=broken)
    other = kit.warmup(it.price, every="2h", args=["a"], name="other")
    kit.warmups.run_due()
    assert warmup.status().reason == "RuntimeError: no list today"
    assert warmup.status().runs == 1
    assert other.status().last == Outcome(warmed=1)


def test_a_million_calls_are_refused(kit: WorkerKit) -> None:
    it = Prices(kit)
    with pytest.raises(DefinitionError, match="more than 100,000 calls"):
        kit.warmup(it.price, every="1h", args=map(str, range(1_000_000)))
    warmup = kit.warmup(it.price, every="1h", args=lambda: map(str, range(1_000_000)))
    kit.warmups.run_due()
    assert "more than 100,000 calls" in warmup.status().reason
    assert it.computed == []


def test_a_cron_line_is_first_run_when_it_is_next_due(kit: WorkerKit) -> None:
    it = Prices(kit)
    warmup = kit.warmup(it.price, cron="0 6 29 2 *", args=["a"])
    assert warmup.run_due() is None
    assert warmup.run_due() is None
    assert it.computed == []
    assert warmup.status().next > time.time()
    at_once = kit.warmup(it.price, cron="0 6 29 2 *", args=["a"], on_start=True, name="at once")
    assert at_once.run_due() == Outcome(warmed=1)
    assert at_once.run_due() is None


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing due": ({"args": ["a"]}, 'give either every="5m" or cron='),
    "both": ({"every": "1m", "cron": "0 6 * * *", "args": ["a"]}, "give either"),
    "too often": ({"every": "500ms", "args": ["a"]}, "every 500ms is too often; 1s at least"),
    "no duration": ({"every": "soon", "args": ["a"]}, "is no duration"),
    "no cron line": ({"cron": "at noon", "args": ["a"]}, "is no cron line"),
    "a minute of 61": ({"cron": "61 * * * *", "args": ["a"]}, "is no cron line .*61"),
    "the 30th of February": ({"cron": "0 0 30 2 *", "args": ["a"]}, "is no cron line .*(never occurs|no day has)"),
    "nothing to warm": ({"every": "1m"}, r"give args=\[\.\.\.\], or hot=500"),
    "a text": ({"every": "1m", "args": "abc"}, r"write args=\['abc'\]"),
    "arguments that do not fit": ({"every": "1m", "args": [("a", None, "EUR")]}, "do not fit the function"),
    "a negative hot": ({"every": "1m", "hot": -1}, "hot must be an int"),
    "a hot that is no number": ({"every": "1m", "hot": "all"}, "hot must be an int"),
    "an unknown policy": ({"every": "1m", "args": ["a"], "missed": "never"}, "missed must be one of skip, once, all"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_told_where_it_is_declared(kit: WorkerKit, wrong: str) -> None:
    given, problem = WRONG[wrong]
    with pytest.raises(DefinitionError, match=problem):
        kit.warmup(Prices(kit).price, **given)
    assert list(kit.warmups) == []


def test_functions_whose_demand_cannot_be_recorded(kit: WorkerKit) -> None:
    @kit.memoize("1h")
    def login(user: str, password: str) -> str:
        return user

    @kit.memoize("1h", ignore=["session"])
    def page(user: str, session: str) -> str:
        return user

    class Shop:
        @kit.memoize("1h", key="{item}")
        def price(self, item: str) -> str:
            return item

    for fn, problem in (
        (login, "password looks like a secret"),
        (page, "cannot be called without session"),
        (Shop.price, "what `self` of"),
    ):
        with pytest.raises(DefinitionError, match=problem):
            kit.warmup(fn, every="1m", hot=5)
    with pytest.raises(DefinitionError, match="is not memoized"):
        kit.warmup(print, every="1m", hot=5)  # type: ignore[arg-type]  # that is the test


def test_names_are_the_warmups_own(kit: WorkerKit) -> None:
    it = Prices(kit)
    warmup = kit.warmup(it.price, every="1m", args=["a"])
    with pytest.raises(DefinitionError, match="another name="):
        kit.warmup(it.price, every="1m", args=["b"])
    assert kit.warmups[warmup.name] is warmup
    with pytest.raises(DefinitionError, match="there is no warmup 'x'; there are: "):
        kit.warmups["x"]
