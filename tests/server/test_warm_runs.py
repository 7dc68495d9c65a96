"""Runs that go from message to message: what travels, what stays, and who drops them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from workerkit import WorkerKit
from workerkit.api import warmer
from workerkit.api.host import NoHost
from workerkit.core.events import Event, WarmTick
from workerkit.errors import DefinitionError
from workerkit.warming.run import Outcome


class Sent(NamedTuple):
    namespace: str
    name: str
    message: list[Any]
    wait: float
    queue: str | None


class Mail(NoHost):
    """A host with workers, whose messages stay here."""

    can_queue = True

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def warm(self, namespace: str, name: str, message: list[Any], wait: float, queue: str | None) -> None:
        self.sent.append(Sent(namespace, name, json.loads(json.dumps(message)), wait, queue))

    def deliver(self, kit: WorkerKit) -> None:
        sent = self.sent.pop(0)
        kit.warmups[sent.name].go_on(sent.message)


@pytest.fixture
def mail() -> Mail:
    return Mail()


@pytest.fixture
def kit(redis_url: str, mail: Mail) -> Iterator[WorkerKit]:
    with WorkerKit(url=redis_url) as kit:
        kit.engine.host = mail
        yield kit


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is worked on for no time at all: one call each."""
    monkeypatch.setattr(warmer, "SLICE", -1.0)


def test_a_run_goes_on_until_all_is_done(kit: WorkerKit, mail: Mail, hurried: None) -> None:
    calls = []

    @kit.memoize("1h")
    def price(item: str, vat: bool = False) -> str:
        calls.append((item, vat))
        if item == "bad":
            raise LookupError(item)
        return item

    price("fresh")
    warmup = kit.warmup(price, every="10m", args=["fresh", "a", ("b", True), "bad", "c"], before="1m", queue="slow")
    assert warmup.send()
    assert warmup.run() is None  # it is under way already, in a message
    planned = [pick.arguments for pick in warmup.plan().picks]
    assert [each.queue for each in mail.sent] == ["slow"]
    calls.clear()
    deliveries = 0
    while mail.sent:
        assert warmup.status().running is not None
        again = mail.sent[0].message
        mail.deliver(kit)
        warmup.go_on(again)  # delivered twice, it does nothing
        deliveries += 1
    assert deliveries == 4
    # What was planned, in its order.
    assert calls == [("a", False), ("b", True), ("bad", False), ("c", False)]
    assert [args[0] for args, _ in planned] == ["a", "b", "bad", "c"]
    assert warmup.status().last == Outcome(warmed=3, fresh=1, failed=1)
    assert warmup.status().running is None


def test_the_message_of_a_run_that_was_taken_over_is_dropped(kit: WorkerKit, mail: Mail, hurried: None) -> None:
    calls = []

    @kit.memoize("1h")
    def price(item: str) -> str:
        calls.append(item)
        return item

    warmup = kit.warmup(price, every="10m", args=["a", "b"], before="1m")
    assert warmup.send_due()
    mail.deliver(kit)
    with kit.client() as client:
        (held,) = client.keys("*warmup*:run")
        client.delete(held)  # its worker was away for too long
    assert warmup.send_due()
    late, newer = mail.sent
    warmup.go_on(late.message)
    assert calls == ["a"]
    warmup.go_on(newer.message)
    assert calls == ["a", "b"]
    assert warmup.status().runs == 1


def test_a_message_that_is_late_is_sent_again_and_done_once(kit: WorkerKit, mail: Mail) -> None:
    calls = []

    @kit.memoize("1h")
    def price(item: str) -> str:
        calls.append(item)
        return item

    warmup = kit.warmup(price, every="1h", args=["a"], before="1m")
    assert warmup.send_due()
    assert not warmup.send_due()
    assert len(mail.sent) == 1
    with kit.client() as client:
        (state,) = client.keys("*warmup*:state")
        client.hincrby(state, "queued", -16_000)  # for so long its message has been on its way
    assert not warmup.send_due()
    first, again = mail.sent
    assert again.message[0] == first.message[0]
    warmup.go_on(first.message)
    warmup.go_on(again.message)
    assert calls == ["a"]
    assert (warmup.status().runs, warmup.status().overlaps) == (1, 0)


def test_a_worker_that_knows_no_such_warmup_says_so(redis_url: str) -> None:
    events: list[Event] = []
    with WorkerKit(url=redis_url, hooks=[events.append]) as kit:
        kit.warmups.go_on("new", [])
    assert events == [WarmTick("new", "failed", "this worker knows no such warmup")]


def test_calls_that_no_message_can_hold_are_done_in_one_go(kit: WorkerKit, mail: Mail, hurried: None) -> None:
    calls = []

    @kit.memoize("1h")
    def price(pair: tuple[str, str]) -> str:
        calls.append(pair)
        return pair[0]

    warmup = kit.warmup(price, every="10m", args=[(("a", "b"),), (("c", "d"),)])
    assert warmup.send()
    mail.deliver(kit)
    assert not mail.sent
    assert calls == [("a", "b"), ("c", "d")]
    assert warmup.status().last == Outcome(warmed=2)


def test_what_the_limit_keeps_is_done_later_and_left_where_the_next_run_is_near(kit: WorkerKit, mail: Mail) -> None:
    @kit.memoize("1h")
    @kit.throttle(kit.limiter("api", "2/h"))
    def price(item: str) -> str:
        return item

    daily = kit.warmup(price, every="365d", args=["a", "b", "c"], name="yearly")
    assert daily.send()
    mail.deliver(kit)
    (sent,) = mail.sent
    assert sent.wait == warmer.LONGEST_WAIT
    assert daily.status().last is None  # under way still
    often = kit.warmup(price, every="1m", args=["a", "b", "c"], before="1m", name="often")
    assert often.send()
    mail.sent.reverse()
    mail.deliver(kit)
    assert often.status().last == Outcome(fresh=2, left=1)


def test_a_plan_knows_what_the_limit_makes_of_it(kit: WorkerKit) -> None:
    @kit.memoize("1h")
    @kit.throttle(kit.limiter("api", "10/s"), key="{shop}")
    def price(shop: str, item: int) -> int:
        return item

    calls = [("one", n) for n in range(9)] + [("two", n) for n in range(5)]
    warmup = kit.warmup(price, every="1h", args=calls, budget="20%")
    found = warmup.plan()
    assert len(found.picks) == 14
    assert found.seconds == 4.0  # nine of one key, two a second
    assert found.share == "20% of api: 2/s"


def test_coroutine_functions_are_warmed(kit: WorkerKit, redis_url: str) -> None:
    calls = []

    @kit.memoize("1h")
    async def price(item: str) -> str:
        await asyncio.sleep(0)
        calls.append(item)
        return item

    warmup = kit.warmup(price, every="10m", args=["a", "b"], before="1m")
    assert warmup.run() == Outcome(warmed=2)
    assert warmup.run() == Outcome(fresh=2)
    assert calls == ["a", "b"]


def test_without_an_app_nobody_can_be_sent_a_run(redis_url: str) -> None:
    with WorkerKit(url=redis_url) as kit:

        @kit.memoize("1h")
        def price(item: str) -> str:
            return item

        warmup = kit.warmup(price, every="10m", args=["a"])
        with pytest.raises(DefinitionError, match="there are no workers to run it"):
            warmup.send()
        assert warmup.run() == Outcome(warmed=1)  # nothing was claimed


def test_history_says_when_a_run_ended_and_how_long_it_took(kit: WorkerKit) -> None:
    @kit.memoize("1h")
    def price(item: str) -> str:
        return item

    warmup = kit.warmup(price, every="10m", args=["a"], before="1m")
    began = time.time()
    warmup.run()
    warmup.run_due()
    due, by_hand = warmup.history()
    assert by_hand["tick"] is None
    assert due["tick"] % 600 == 0
    assert warmup.history(1) == [due]
    assert warmup.history(0) == []
    assert (by_hand["warmed"], due["warmed"], due["fresh"]) == (1, 0, 1)
    assert began - 1 < by_hand["at"] <= due["at"] < time.time() + 1
    assert by_hand["seconds"] >= 0
