"""The waitlist's scripts on a real server: generations, publications, turns, and tickets that only an entry removes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from workerkit import WorkerKit
from workerkit.core.lua import Script
from workerkit.testing.servers import RunningServer
from workerkit.waitlist import waitlist as module
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Waitlist

CLOCK = "local now_us = tonumber(redis.call('GET', 'test:now'))\n"


class List:
    """A waitlist on a clock of the test's own."""

    def __init__(self, kit: WorkerKit, server: RunningServer) -> None:
        self.calls = Waitlist(kit.engine.keys("w"))
        self._run = kit.engine.runner.call
        self._server = server
        self.at(1000.0)

    def at(self, seconds: float) -> None:
        self._server.cli("SET", "test:now", int(seconds * 1e6))

    def enter(self, ticket: Ticket) -> bool:
        return self._run(self.calls.enter(ticket))

    def park(self, ticket: Ticket, wait: float = 1.0, interval: float = 0.1, clock: str = "api:k") -> float:
        return self._run(self.calls.park(ticket, clock, wait=wait, interval_us=int(interval * 1e6))) / 1e6

    def claim(self, most: int = 100) -> list[Ticket]:
        return [Ticket.load(data) for _, data in self._run(self.calls.claim(most)).tickets]

    def wait(self) -> float | None:
        return self._run(self.calls.claim(0)).wait

    def count(self) -> int:
        return self._run(self.calls.count())


@pytest.fixture
def waitlist(redis_url: str, redis_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[List]:
    for name in ("enter", "park", "claim"):
        # The clock, and no deadline: the test's clock is not the one that deadlines are in.
        replace = {"now": CLOCK, "not_after": "-- include: now\n"}
        monkeypatch.setattr(module, f"_{name.upper()}", Script("workerkit.waitlist", name, replace=replace))
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        yield List(kit, redis_server)


def ticket(name: str = "id", **headers: Any) -> Ticket:
    return Ticket(
        task="t",
        body=b"[]",
        content_type="application/json",
        content_encoding="utf-8",
        headers={"id": name, "retries": 0, **headers},
        properties={},
        exchange="",
        routing_key="celery",
    )


def test_a_task_goes_through_its_generations(waitlist: List) -> None:
    first = ticket()
    assert waitlist.enter(first)
    assert waitlist.park(first, wait=2.0) == 1002.0
    assert waitlist.claim() == []
    assert waitlist.wait() == 2.0
    waitlist.at(1002.0)
    (back,) = waitlist.claim()
    assert back == first.next()
    assert waitlist.enter(back.published_as("p1"))
    assert waitlist.count() == 0


def test_an_older_generation_is_dropped(waitlist: List) -> None:
    first = ticket()
    waitlist.enter(first)
    waitlist.park(first)
    assert not waitlist.enter(first)  # redelivered: its worker died between parking and acknowledging
    assert waitlist.count() == 1  # and its drop took no ticket along


def test_of_two_publications_one_goes_on_and_its_redelivery_too(waitlist: List) -> None:
    waitlist.enter(ticket())
    waitlist.park(ticket())
    back = ticket().next()
    assert waitlist.enter(back.published_as("p1"))
    assert not waitlist.enter(back.published_as("p2"))
    assert waitlist.enter(back.published_as("p1"))


def test_a_claimed_ticket_comes_again_until_it_has_entered(waitlist: List) -> None:
    waitlist.park(ticket(), wait=0.0)
    assert len(waitlist.claim()) == 1
    assert waitlist.claim() == []
    assert waitlist.wait() == 30.0
    waitlist.at(1030.0)  # whoever claimed it was killed before publishing
    (again,) = waitlist.claim()
    assert waitlist.enter(again.published_as("p2"))
    waitlist.at(2000.0)
    assert waitlist.claim() == []


def test_turns_of_one_key_are_spread_and_those_of_another_are_not_behind_them(waitlist: List) -> None:
    due = [waitlist.park(ticket(f"a{n}"), wait=1.0, interval=0.25) for n in range(4)]
    assert due == [1001.0, 1001.25, 1001.5, 1001.75]
    assert waitlist.park(ticket("b"), wait=1.0, clock="api:other") == 1001.0
    waitlist.at(1100.0)
    assert waitlist.park(ticket("c"), wait=1.0) == 1101.0  # a virtual clock that fell behind does not go on from there


def test_parking_twice_is_parking_once(waitlist: List) -> None:
    waitlist.enter(ticket())
    assert waitlist.park(ticket()) == waitlist.park(ticket()) == 1001.0
    assert waitlist.park(ticket("other")) == 1001.1  # the repetition took no turn
    assert waitlist.count() == 2


def test_a_retry_is_another_execution(waitlist: List) -> None:
    waitlist.enter(ticket())
    waitlist.park(ticket())
    assert waitlist.enter(ticket(retries=1))
    assert waitlist.count() == 1


def test_claims_are_in_order_and_bounded(waitlist: List) -> None:
    for n, wait in enumerate([3.0, 1.0, 2.0]):
        waitlist.park(ticket(str(n)), wait=wait, clock=str(n))
    waitlist.at(1010.0)
    assert [found.headers["id"] for found in waitlist.claim(2)] == ["1", "2"]
    assert [found.headers["id"] for found in waitlist.claim(2)] == ["0"]


def test_every_key_has_a_ttl_and_one_slot(waitlist: List, redis_server: RunningServer) -> None:
    waitlist.enter(ticket("x"))
    waitlist.park(ticket())
    waitlist.claim()
    keys = [key for key in redis_server.cli("KEYS", "*") if key != "test:now"]  # type: ignore[attr-defined]  # a list
    assert len(keys) == 5
    for key in keys:
        assert key.startswith("wk:w:{waitlist:all}:")
        assert redis_server.cli("PTTL", key) > 0  # type: ignore[operator]  # an integer
