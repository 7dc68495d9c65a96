"""P5 and P6: a server that is down gets no more traffic than one that is up, and serves again within a second."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

import pytest

from tests.rig import Rig, aio_outcome, at_once, command, get, outcome, until
from workerkit.core.breaker import LONGEST_PAUSE
from workerkit.core.events import StoreDown, StoreUp
from workerkit.errors import StoreUnavailable
from workerkit.io.aiolink import AioLink
from workerkit.io.link import Link
from workerkit.testing.proxy import FaultProxy

CALLERS = 20
EVERY = 0.02  # seconds between two calls of one caller


@dataclass
class Load:
    """Callers that go on and on; `served` has the time of every caller's last success."""

    rig: Rig
    served: dict[int, float] = field(default_factory=dict)
    calls: int = 0
    errors: set[type] = field(default_factory=set)
    over: bool = False

    def note(self, caller, answer):
        self.calls += 1
        if isinstance(answer, Exception):
            self.errors.add(type(answer))
        else:
            self.served[caller] = time.monotonic()

    def all_served_since(self, moment):
        return len(self.served) == CALLERS and min(self.served.values()) > moment

    def thread(self, caller):
        while not self.over:
            self.note(caller, outcome(lambda: self.rig.runner.call(get("key"))))
            time.sleep(EVERY)

    async def coroutine(self, caller):
        while not self.over:
            self.note(caller, await aio_outcome(self.rig.aio.call(get("key"))))
            await asyncio.sleep(EVERY)

    async def all_coroutines(self):
        async with asyncio.timeout(30):
            await asyncio.gather(*map(self.coroutine, range(CALLERS)))

    def start(self, side):
        """The callers in threads, or as coroutines of one event loop in a thread of its own."""
        if side == "sync":
            threads = [threading.Thread(target=self.thread, args=[caller]) for caller in range(CALLERS)]
        else:
            threads = [threading.Thread(target=asyncio.run, args=[self.all_coroutines()])]
        for thread in threads:
            thread.start()
        return threads


@pytest.mark.parametrize("side", ["sync", "aio"])
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_server_that_is_back_serves_everybody_within_a_second(fresh_server, fault, side):
    rig = Rig(fresh_server.url, timeout=0.5)
    load = Load(rig)
    threads = load.start(side)
    try:
        until(lambda: load.all_served_since(0))
        fresh_server.kill() if fault == "killed" else fresh_server.freeze()
        until(lambda: rig.server.breaker._pause == LONGEST_PAUSE)  # it has been down for as long as makes a difference
        fresh_server.restart() if fault == "killed" else fresh_server.thaw()
        back = time.monotonic()
        until(lambda: load.all_served_since(back))
        took = time.monotonic() - back
        told = [type(event) for event in rig.events if isinstance(event, (StoreDown, StoreUp))]
        print(f"{fault}, {side}: all {CALLERS} callers served {took:.2f} s after it was back; {rig.events}")
        assert took < 1.0
        # At a thaw a call that was on its way is answered while others have just run out of time: up, down, up.
        rounds = 1 if fault == "killed" else max(1, len(told) // 2)
        assert told == [StoreDown, StoreUp] * rounds
        assert load.errors == {StoreUnavailable}
    finally:
        load.over = True
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("side", ["sync", "aio"])
@pytest.mark.parametrize("fault", ["refuse", "reset", "black_hole"])
def test_a_server_that_is_down_gets_less_traffic_than_one_that_is_up(fresh_server, monkeypatch, fault, side):
    attempts = 0

    def counting(open_link):
        def counted(*arguments):
            nonlocal attempts
            attempts += 1
            return open_link(*arguments)

        return counted

    monkeypatch.setattr(Link, "open", counting(Link.open))
    monkeypatch.setattr(AioLink, "open", counting(AioLink.open))
    with FaultProxy(fresh_server.url) as proxy:
        load = Load(Rig(proxy.url, timeout=0.3))
        threads = load.start(side)
        try:
            until(lambda: load.all_served_since(0))
            until(lambda calls=load.calls: load.calls >= calls + 250)  # at their pace, with all connections open
            traffic, calls = proxy.requests, load.calls
            until(lambda: load.calls >= calls + 250)
            normal = (proxy.requests - traffic) / (load.calls - calls)
            getattr(proxy, fault)()
            traffic, calls, attempts = proxy.requests, load.calls, 0
            until(lambda: load.calls >= calls + 250)
            down = (attempts + proxy.requests - traffic) / (load.calls - calls)
            print(f"{fault}, {side}: {normal:.2f} requests a call while up, {down:.2f} with connections while down")
            assert down <= 1.1 * normal
        finally:
            load.over = True
            proxy.normal()
            for thread in threads:
                thread.join()


def test_an_open_breaker_answers_at_once_and_names_the_server(fresh_server):
    rig = Rig(fresh_server.url, timeout=0.5)
    fresh_server.kill()
    answers = [outcome(lambda: rig.runner.call(get("key"))) for _ in range(20)]
    began = time.monotonic()
    answers += at_once([lambda: rig.runner.call(get("key"))] * 50)
    took = time.monotonic() - began
    print(f"50 calls in {took * 1000:.0f} ms: {answers[-1]}")
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert str(fresh_server.socket) in str(answers[0])
    assert str(fresh_server.socket) in str(answers[-1])
    assert sum(isinstance(event, StoreDown) for event in rig.events) == 1


def test_an_error_reply_does_not_open_the_breaker(fresh_server):
    rig = Rig(fresh_server.url)
    rig.runner.call(command("SET", "text", "value"))
    for _ in range(10):
        assert "not an integer" in str(outcome(lambda: rig.runner.call(command("INCR", "text"))))
    assert rig.events == []
    assert rig.runner.call(command("PING")) == b"PONG"


def test_the_async_side_outlives_its_loops_without_leaking_connections(fresh_server):
    """asyncio.run a task, as a Celery worker might do: every loop's connections end with it."""
    rig = Rig(fresh_server.url)

    async def story():
        return await asyncio.gather(*[rig.aio.call(get("key")) for _ in range(3)])

    def connections():
        return fresh_server.cli("CLIENT", "LIST").count("name=workerkit:redis:")

    most = 0
    for _ in range(30):
        assert asyncio.run(story()) == [None] * 3
        most = max(most, connections())
    until(lambda: connections() == 0)
    print(f"30 loops, {most} connections at most, {len(rig.aio._loops)} loops remembered")
    assert most <= 6
    assert len(rig.aio._loops) <= 1


def test_a_loop_that_was_closed_without_ceremony_is_forgotten_by_the_next(fresh_server):
    rig = Rig(fresh_server.url)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(rig.aio.call(get("key")))
        loop.close()
    assert len(rig.aio._loops) == 1
