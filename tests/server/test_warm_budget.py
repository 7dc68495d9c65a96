"""A warmup's share of a limit: never more than that, and nothing while live callers use it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from workerkit import WorkerKit
from workerkit.api.limiter import Limiter
from workerkit.api.warmup import Outcome, Warmup
from workerkit.errors import DefinitionError
from workerkit.testing.servers import RunningServer


@pytest.fixture
def kit(redis_url: str, redis_server: RunningServer) -> Iterator[WorkerKit]:
    redis_server.cli("FLUSHALL")
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        yield kit


class Shop:
    """A throttled function, and a warmup of a hundred calls of it."""

    def __init__(self, kit: WorkerKit, rate: str, budget: str | None, **options: Any) -> None:
        self.limiter: Limiter = kit.limiter("api", rate, **options)
        self.computed: list[str] = []

        @kit.memoize("1h")
        @kit.throttle(self.limiter)
        def price(item: str) -> str:
            self.computed.append(item)
            return item

        self.price = price
        self.warmup: Warmup = kit.warmup(price, every="2h", args=[str(n) for n in range(100)], budget=budget)


def test_no_more_than_its_share_in_any_period(kit: WorkerKit) -> None:
    shop = Shop(kit, "50/h", "20%")
    assert shop.warmup.run() == Outcome(warmed=10, left=90)
    assert shop.warmup.run() == Outcome(left=100)
    assert len(shop.computed) == 10
    assert shop.limiter.usage().rates[0].remaining == 40


def test_nothing_while_live_callers_use_it_all(kit: WorkerKit) -> None:
    shop = Shop(kit, "50/s", "100%")
    stop = threading.Event()

    def live() -> None:
        while not stop.is_set():
            decision = shop.limiter.try_acquire()
            if not decision.allowed:
                stop.wait(min(decision.retry_after, 0.01))

    callers = [threading.Thread(target=live) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        while shop.limiter.usage().rates[0].remaining > 4:
            time.sleep(0.001)
        assert shop.warmup.run() == Outcome(left=100)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert shop.computed == []
    while shop.limiter.usage().rates[0].remaining < 50:
        time.sleep(0.001)
    found = shop.warmup.run()
    assert found is not None
    assert found.warmed >= 45  # a tenth is always left to live callers


def test_nothing_while_tasks_are_parked_for_it(kit: WorkerKit) -> None:
    shop = Shop(kit, "50/h", "100%")
    line = kit.engine.waitlist.of_line(f"api:{shop.limiter.part('')}")[1]
    with kit.client() as client:
        client.zadd(line, {"a task": 1})
    assert shop.warmup.run() == Outcome(left=100)
    assert shop.computed == []


def test_nothing_while_the_limit_is_paused(kit: WorkerKit) -> None:
    shop = Shop(kit, "50/h", "100%")
    shop.limiter.pause("", 60)
    assert shop.warmup.run() == Outcome(left=100)


def test_a_cap_leaves_one_place_to_live_callers(kit: WorkerKit) -> None:
    shop = Shop(kit, "50/h", "100%", concurrency=2)
    with shop.limiter.slot():
        assert shop.warmup.run() == Outcome(left=100)
    found = shop.warmup.run()
    assert found is not None
    assert found.warmed > 0


@pytest.mark.parametrize("wrong", ["120%", "0%", "20", "a fifth", 0.2, "-5%"])
def test_a_share_is_a_share(kit: WorkerKit, wrong: Any) -> None:
    with pytest.raises(DefinitionError, match='budget must be a share of the limit, as "20%"'):
        Shop(kit, "50/h", wrong)


def test_a_share_of_nothing(kit: WorkerKit) -> None:
    @kit.memoize("1h")
    def price(item: str) -> str:
        return item

    with pytest.raises(DefinitionError, match=r"put @kit.throttle\(limiter\) under"):
        kit.warmup(price, every="1m", args=["a"], budget="20%")
