"""Who goes first in a line: priorities strictly, then every group by its share, then whoever came first.

Start-time fair queueing promises that of two groups which both always wait, neither gets more than one turn of each
ahead of the other (Goyal, Vin, Cheng 1996, theorem 1). It is checked against what was served, not against the tags.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.waitlist_rig import World, names, ticket, world_on
from workerkit.waitlist.line import Place


@pytest.fixture(scope="module")
def server(redis_server: Any) -> Iterator[World]:
    with world_on(redis_server.url) as world:
        yield world


class Served:
    """One line, from which one at a time is let go."""

    def __init__(self, world: World) -> None:
        world.client.flushdb()
        self.world = World(world.client)
        self.numbers = itertools.count()
        self.waiting: dict[str, tuple[int, str, int]] = {}  # priority, group, step
        self.turns: list[tuple[int, str, int]] = []

    def park(self, group: str = "", *, priority: int = 0, weight: float = 1.0, cost: int = 1) -> str:
        name = f"{group}{next(self.numbers)}"
        place = Place(priority=priority, group=group, weight=weight, cost=cost)
        self.world.park(ticket(name), wait=0.0, priority=priority, group=group, weight=weight, cost=cost)
        self.waiting[name] = priority, group, place.step
        return name

    def claim(self) -> str:
        """The next one is let go, and begins."""
        (found,) = self.world.claim(room=1, paced=False, most=1)
        self.world.enter(found.published_as("p"))
        self.turns.append(self.waiting.pop(found.task_id))
        return found.task_id

    def backlog(self, group: str) -> int:
        return sum(each == group for _, each, _ in self.waiting.values())


WEIGHTS = st.sampled_from([0.1, 0.5, 1, 1, 2, 3.7, 10, 1000])


@settings(max_examples=40, deadline=None, print_blob=True)
@given(weights=st.lists(WEIGHTS, min_size=2, max_size=5), seed=st.integers(0, 2**32), dear=st.integers(1, 9))
def test_groups_that_always_wait_share_by_weight_within_one_turn_each(
    server: World, weights: list[float], seed: int, dear: int
) -> None:
    chance, line = random.Random(seed), Served(server)
    groups = {chr(ord("a") + n): weight for n, weight in enumerate(weights)}

    def arrive() -> None:
        group = chance.choice(list(groups))
        line.park(group, weight=groups[group], cost=chance.randint(1, dear))

    for _ in range(chance.randint(0, 30)):
        arrive()
    for group, weight in groups.items():  # late, some of them
        line.park(group, weight=weight, cost=chance.randint(1, dear))
    line.turns.clear()
    for _ in range(60):
        for group, weight in groups.items():
            while line.backlog(group) < 2:
                line.park(group, weight=weight, cost=chance.randint(1, dear))
        if chance.random() < 0.2:
            arrive()
        line.claim()
    for one, other in itertools.combinations(groups, 2):
        check_shares(line.turns, one, other)


def check_shares(turns: list[tuple[int, str, int]], one: str, other: str) -> None:
    """In no stretch of these turns one group got more than a turn of each ahead of the other."""
    ahead = [0, *itertools.accumulate(step * ((group == one) - (group == other)) for _, group, step in turns)]
    largest = sum(max((step for _, group, step in turns if group == each), default=0) for each in (one, other))
    assert max(ahead) - min(ahead) <= largest


def test_the_check_sees_an_unfair_share() -> None:
    check_shares([(0, "a", 5), (0, "b", 5), (0, "b", 5), (0, "a", 5)], "a", "b")
    with pytest.raises(AssertionError):
        check_shares([(0, "a", 5), (0, "b", 5), (0, "b", 5), (0, "b", 5)], "a", "b")


@pytest.mark.parametrize("backlog", [200, pytest.param(2000, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("others", [1, 4])
def test_a_small_group_that_comes_late_is_served_within_its_share(server: World, backlog: int, others: int) -> None:
    line = Served(server)
    for _ in range(backlog // others):
        for group in "bcde"[:others]:
            line.park(group)
    for _ in range(50):
        line.claim()
    small = [line.park("small") for _ in range(20)]
    order = [line.claim() for _ in range(20 * (others + 1) + others)]
    for n, name in enumerate(small):
        assert order.index(name) <= (n + 1) * (others + 1) + others - 1
    assert [name for name in order if name in small] == small


def test_who_was_idle_has_saved_nothing(server: World) -> None:
    line = Served(server)
    line.park("idle")
    line.claim()
    for _ in range(100):
        line.park("busy")
    for _ in range(50):
        line.claim()
    for _ in range(20):
        line.park("idle")
    order = [line.claim()[:4] for _ in range(40)]
    assert all(19 <= order.count(group) <= 21 for group in ("idle", "busy"))
    assert all(order[n : n + 3].count("idle") <= 2 for n in range(38))


def test_who_was_greedy_pays_only_while_it_waits(server: World) -> None:
    """What a group got while nobody else waited is not held against it."""
    line = Served(server)
    for _ in range(50):
        line.park("greedy")
        line.claim()
    for _ in range(10):
        line.park("greedy")
        line.park("new")
    order = [line.claim()[:3] for _ in range(20)]
    assert all(2 <= order[n : n + 5].count("new") <= 3 for n in range(15))


@settings(max_examples=30, deadline=None, print_blob=True)
@given(
    steps=st.lists(
        st.none() | st.tuples(st.integers(0, 9), st.sampled_from("abc"), WEIGHTS, st.sampled_from([1, 7, 10**6])),
        max_size=60,
    )
)
def test_priorities_are_strict_and_each_group_keeps_its_order(server: World, steps: list[Any]) -> None:
    line = Served(server)
    for step in (*steps, *[None] * len(steps)):
        if step is not None:
            priority, group, weight, cost = step
            line.park(group, priority=priority, weight=weight, cost=cost)
        elif line.waiting:
            waiting = list(line.waiting.items())
            highest = max(priority for _, (priority, _, _) in waiting)
            name = line.claim()
            priority, group, _ = dict(waiting)[name]
            assert priority == highest
            assert name == next(each for each, (p, g, _) in waiting if (p, g) == (priority, group))


def test_no_weight_or_cost_is_so_extreme_that_it_passes_a_priority(server: World) -> None:
    line = Served(server)
    for _ in range(3):
        line.park("a", priority=5, weight=1e-300, cost=2**53)
        line.park("b", priority=5)
        line.park("c", priority=4)
    order = [line.claim()[0] for _ in range(9)]
    assert sorted(order[:2]) == ["a", "b"]  # whose turns begin at once
    assert order[2:] == ["b", "b", "a", "a", "c", "c", "c"]


# Who comes back


def test_a_denied_task_goes_before_all_who_were_behind_it(server: World) -> None:
    line = Served(server)
    for _ in range(10):
        line.park("a")
    first = line.world.claim(room=3, paced=False)
    for each in reversed(first):
        line.world.enter(each.published_as("p"))
        line.world.park(each.published_as("p"), wait=0.0, group="a")
    line.park("a")
    assert [line.claim() for _ in range(5)] == [*names(first), "a3", "a4"]


def test_a_task_that_returns_late_takes_nobody_back_with_it(server: World) -> None:
    """Its place is its own: new groups begin where the line has come to, not where it was."""
    line = Served(server)
    for _ in range(40):
        line.park("a")
    (late,) = line.world.claim(room=1, paced=False)
    line.world.wait(60.0)  # it lay in a queue
    for _ in range(20):
        line.claim()
    line.world.enter(late.published_as("p"))
    line.world.park(late.published_as("p"), wait=0.0, group="a")
    assert line.claim() == late.task_id
    for _ in range(10):
        line.park("b")
    order = [line.claim()[0] for _ in range(20)]
    assert all(order[n : n + 4].count("a") >= 1 for n in range(16)), order


def test_a_denied_task_costs_its_group_one_turn_only(server: World) -> None:
    line = Served(server)
    for _ in range(20):
        line.park("a")
        line.park("b")
    for _ in range(5):
        (denied,) = line.world.claim(room=1, paced=False)
        line.world.enter(denied.published_as("p"))
        line.world.park(denied.published_as("p"), wait=0.0, group=denied.task_id[0])
    order = [line.claim()[0] for _ in range(40)]
    assert all(abs(order[:n].count("a") - order[:n].count("b")) <= 2 for n in range(41))
