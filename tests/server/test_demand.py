"""What a fleet asks for, on a real server whose clock the test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.server.job_rig import World
from tests.server.limits_model import runner_on
from workerkit.core.keys import Keys
from workerkit.warming.demand import CAP, HALF_LIFE_MS, LIFE_MS, Demand, Taken

HALF = HALF_LIFE_MS / 1000
NAME = "wk:h:{f:all}:"


class Fleet:
    """Processes that count calls of one function."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = self.another()

    def another(self) -> Demand:
        return Demand(Keys("wk", "h"), "f", lambda args, kwargs: repr(args).encode())

    def ask(self, *calls: int, process: Demand | None = None) -> None:
        it = process or self.process
        for call in calls:
            it.note(str(call), (call,), {})
        self.world.run(it.add(it.take()))

    def top(self, most: int = 10) -> list[Any]:
        found: list[Any] = self.world.run(self.process.top(most))
        return found


@pytest.fixture
def fleet(redis_url: str) -> Iterator[Fleet]:
    with runner_on(redis_url) as runner:
        yield Fleet(World(runner))


def test_all_processes_count_together(fleet: Fleet) -> None:
    fleet.ask(1, 1, 2)
    fleet.ask(2, 2, 3, process=fleet.another())
    assert [(part, call) for part, _, call in fleet.top()] == [("2", b"(2,)"), ("1", b"(1,)"), ("3", b"(3,)")]
    assert [part for part, _, _ in fleet.top(1)] == ["2"]
    fleet.ask(2)  # whose arguments are not sent again
    assert fleet.top(1)[0].call == b"(2,)"


def test_nothing_is_known_at_first(fleet: Fleet) -> None:
    assert fleet.top() == []


def test_counts_fade_by_half_in_each_half_life(fleet: Fleet) -> None:
    fleet.ask(*[1] * 80)
    rate = fleet.top()[0].rate
    score = fleet.world.command("ZSCORE", NAME + "d", "1")
    fleet.world.wait(HALF)
    assert fleet.top()[0].rate == pytest.approx(rate / 2)
    fleet.ask(*[2] * 60)
    assert fleet.world.command("ZSCORE", NAME + "d", "1") == score  # nothing was done to the others
    assert [part for part, _, _ in fleet.top()] == ["2", "1"]
    fleet.world.wait(2 * HALF)
    assert [each.rate for each in fleet.top()] == pytest.approx([rate * 60 / 80 / 4, rate / 8])


def test_a_steady_rate_is_known_as_such(fleet: Fleet) -> None:
    for _ in range(600):
        fleet.ask(*[1] * 30)
        fleet.world.wait(10)
    assert fleet.top()[0].rate == pytest.approx(3.0, rel=0.05)


def test_weights_never_grow_too_large(fleet: Fleet) -> None:
    """Months without a pause: what counts is only how old things are to each other."""
    for _ in range(8):
        fleet.ask(*[1] * 10)
        fleet.world.wait(HALF)
        fleet.ask(2)
        fleet.world.wait(200 * HALF)
        fleet.world.command("PERSIST", NAME + "d")
        fleet.world.command("PERSIST", NAME + "a")
        fleet.world.command("PEXPIRE", NAME + "d", LIFE_MS)
        fleet.world.command("PEXPIRE", NAME + "a", LIFE_MS)
        score = float(fleet.world.command("ZSCORE", NAME + "d", "1"))
        assert 0 < score < 1e250
    fleet.ask(*[1] * 10)
    assert fleet.top()[0].rate == pytest.approx(10 * 0.693147 / HALF, rel=0.01)


def test_the_fleet_keeps_so_many(fleet: Fleet) -> None:
    many = [Taken(str(number), 1 + number, b"x") for number in range(CAP + 50)]
    for start in range(0, len(many), 500):
        kept = fleet.world.run(fleet.process.add(many[start : start + 500]))
        assert kept == min(start + 500, CAP)
    parts = {each.part for each in fleet.top(CAP + 50)}
    assert len(parts) == CAP
    assert parts == {str(number) for number in range(50, CAP + 50)}
    assert fleet.world.command("HLEN", NAME + "a") == CAP + 1


def test_what_has_lost_its_arguments_is_left_out(fleet: Fleet) -> None:
    fleet.ask(1, 2, 2)
    fleet.world.command("HDEL", NAME + "a", "2")
    assert [part for part, _, _ in fleet.top()] == ["1"]


def test_the_calls_are_evicted(fleet: Fleet) -> None:
    fleet.ask(1)
    fleet.world.wait(10 * HALF)
    fleet.ask(1)  # which weighs 1,024 times as much as the first
    fleet.world.command("DEL", NAME + "a")
    fleet.ask(1, 2, 2, process=fleet.another())
    assert [each.part for each in fleet.top()] == ["2", "1"]


def test_the_counts_are_evicted(fleet: Fleet) -> None:
    fleet.ask(1, 2, 3)
    fleet.world.command("DEL", NAME + "d")
    fleet.ask(4)
    assert fleet.world.command("HLEN", NAME + "a") == 2  # else arguments that have no count would never go
    assert [each.part for each in fleet.top()] == ["4"]


def test_nothing_is_without_a_ttl_and_what_nobody_asks_for_goes(fleet: Fleet) -> None:
    fleet.ask(1)
    assert all(0 < fleet.world.command("PTTL", NAME + kind) <= LIFE_MS for kind in "da")
    fleet.world.wait(LIFE_MS / 1000)
    assert fleet.world.command("KEYS", "wk:*") == []


def test_the_hundred_most_popular_of_ten_thousand(fleet: Fleet) -> None:
    """Zipf(1.0), by four processes; the true hundred are those that were really asked for most."""
    chance, truth = Random(3), Counter[str]()
    weights = [1 / rank for rank in range(1, 10_001)]
    processes = [fleet.another() for _ in range(4)]
    for _ in range(40):
        for process in processes:
            calls = chance.choices(range(10_000), weights, k=2000)
            truth.update(map(str, calls))
            fleet.ask(*calls, process=process)
    top = {each.part for each in fleet.top(100)}
    assert len(top & {part for part, _ in truth.most_common(100)}) >= 95
