"""A warmup's share of a limit: never more than that, and nothing while live callers use it all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from workerkit import WorkerKit
from workerkit.api.limiter import Limiter
from workerkit.api.warmup import Outcome, Warmup
from workerkit.core.rates import parse_rate
from workerkit.errors import DefinitionError
from workerkit.limits.usage import RateUsage, Usage
from workerkit.testing.servers import RunningServer
from workerkit.warming.budget import share_of, shared, spare


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
    shop = Shop(kit, "50/h", "100%")
    assert all(shop.limiter.try_acquire().allowed for _ in range(45))
    assert shop.warmup.run() == Outcome(left=100)
    assert shop.computed == []
    shop.limiter.reset()
    assert shop.warmup.run() == Outcome(warmed=45, left=55)  # a tenth is always left to live callers


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


def left(*rates: tuple[int, int], holders: int = 0, concurrency: int | None = None, paused: float = 0.0) -> Usage:
    """A key of which so much of each limit remains."""
    made = (RateUsage("", limit, rest, float(rest < limit), 0, 1.0, None, 0.0) for limit, rest in rates)
    return Usage(tuple(made), holders, concurrency, paused, False)


def test_what_live_callers_leave_over() -> None:
    for enough in (
        left((50, 6)),
        left((5, 2)),
        left((1, 1)),  # else nothing would ever be warmed
        left((50, 50), concurrency=1),
        left((50, 50), concurrency=2),
    ):
        assert spare(enough, (1,), (50,))
    for short in (
        left((50, 5)),
        left((5, 1)),
        left((1, 0)),
        left((50, 50), concurrency=2, holders=1),
        left((50, 50), paused=0.1),
    ):
        assert not spare(short, (1,), (50,))
    assert spare(left((50, 10)), (5,), (50,))
    assert not spare(left((50, 9)), (5,), (50,))
    assert not spare(left((50, 50), (50, 5)), (1, 1), (50, 50))
    assert spare(left((50, 2)), (1,), (10,))  # a tenth of what it admits at once
    assert not spare(left((50, 1)), (1,), (10,))


def test_what_costs_nearly_all_waits_until_nobody_has_used_any() -> None:
    assert spare(left((50, 50)), (46,), (50,))
    assert spare(left((50, 50)), (50,), (50,))
    assert not spare(left((50, 49)), (46,), (50,))
    assert not spare(left((40, 40)), (46,), (50,))  # an API's answers have brought it down
    held = RateUsage("", 50, 48, 0.0, 2, 1.0, None, 0.0)
    assert not spare(Usage((held,), 0, None, 0.0, False), (46,), (50,))


def of(share: str, *rates: str, cost: int = 1) -> list[str]:
    return shared([parse_rate(rate) for rate in rates], share_of(share, "w"), [cost] * len(rates), f"w: budget {share}")


def test_a_share_is_exact_and_one_at_least() -> None:
    assert of("10%", "5/h", "50/d") == ["1/h", "5/d"]
    assert all(of(f"{percent}%", "100/h") == [f"{percent}/h"] for percent in range(1, 101))
    assert of("12.5%", "1000 tokens/m") == ["125 tokens/m"]


def test_a_share_that_no_call_fits() -> None:
    assert of("25%", "20/h", cost=5) == ["5/h"]
    with pytest.raises(DefinitionError, match='w: budget 20% makes 4/h of 20/h, but one call costs 5: write "25%"'):
        of("20%", "20/h", cost=5)


def test_it_is_told_where_it_is_declared(kit: WorkerKit) -> None:
    @kit.memoize("1h")
    @kit.throttle(kit.limiter("api", "20/h"), cost=5)
    def price(item: str) -> str:
        return item

    with pytest.raises(DefinitionError, match="warmup w: budget 20% makes 4/h of 20/h, but one call costs 5"):
        kit.warmup(price, every="2h", args=["a", "b"], budget="20%", name="w")
    assert list(kit.warmups) == []


def test_a_cost_of_the_whole_limit_is_warmed_when_nobody_uses_it(kit: WorkerKit) -> None:
    @kit.memoize("1h")
    @kit.throttle(kit.limiter("api", "10/h"), cost=10)
    def price(item: str) -> str:
        return item

    assert kit.warmup(price, every="2h", args=["a", "b"], budget="100%").run() == Outcome(warmed=1, left=1)


def test_a_limit_that_spaces_its_calls(kit: WorkerKit) -> None:
    shop = Shop(kit, "100/h", "100%", algorithm="gcra")
    assert shop.warmup.run() == Outcome(warmed=9, left=91)  # it admits ten at once


def test_each_warmup_and_key_has_its_share_and_costs_count(kit: WorkerKit) -> None:
    computed = []

    @kit.memoize("1h")
    @kit.throttle(kit.limiter("api", "50/h"), key="{shop}", cost=2)
    def price(shop: str, item: int) -> int:
        computed.append(shop)
        return item

    kit.warmup(price, every="2h", args=[("a", 1), ("b", 1), ("b", 2), ("b", 3)], budget="8%", name="one").run()
    assert computed == ["a", "b", "b"]
    kit.warmup(price, every="2h", args=[("b", 3), ("b", 4), ("b", 5)], budget="8%", name="another").run()
    assert computed == ["a", "b", "b", "b", "b"]


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

    @kit.memoize("1h")
    @kit.throttle(kit.limiter("slots", concurrency=2))
    def slow(item: str) -> str:
        return item

    with pytest.raises(DefinitionError, match=r"put @kit.throttle\(limiter\) under"):
        kit.warmup(slow, every="1m", args=["a"], budget="20%")
