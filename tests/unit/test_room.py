"""For how many a limiter has room, from what it answers and how it stands."""

from __future__ import annotations

import pytest

from workerkit.core.keys import Keys
from workerkit.core.rates import parse_rates
from workerkit.limits.decision import Decision
from workerkit.limits.definition import Definition
from workerkit.limits.limiter import LimitPolicy
from workerkit.limits.room import Room, room
from workerkit.limits.usage import RateUsage, Usage

YES = Decision(True, 3, 0.0, 0.0, "")


def rate(remaining: int, text: str = "9/s", told: int | None = None) -> RateUsage:
    return RateUsage(text, 9, remaining, 0.0, 0, 1.0, told, 0.0)


def usage(*rates: RateUsage, cap: int | None = None, holders: int = 0, configured: bool = False) -> Usage:
    return Usage(rates, holders, cap, 0.0, configured)


@pytest.mark.parametrize(
    ("standing", "costs", "requests"),
    [
        (usage(rate(7)), (1,), 7),
        (usage(rate(7)), (2,), 3),
        (usage(rate(7), rate(4)), (1, 1), 4),
        (usage(rate(7), rate(900)), (1, 300), 3),
        (usage(rate(2), rate(900)), (1, 300), 2),
        (usage(rate(7, told=5)), (1,), 5),
        (usage(rate(7, told=50)), (1,), 7),
        (usage(rate(7, told=5)), (2,), 2),
        (usage(cap=5, holders=2), (), 3),
        (usage(rate(7), cap=5, holders=2), (1,), 3),
        (usage(rate(2), cap=5, holders=0), (1,), 2),
        (usage(rate(0)), (1,), 1),  # it was admitted, so there is room for one
        (usage(), (), 1),
    ],
)
def test_the_least_of_all_that_limits(standing: Usage, costs: tuple[int, ...], requests: int) -> None:
    assert room(YES, standing, costs) == Room(requests, 0.0, standing.concurrency is None)


def test_without_room_it_says_when_there_will_be() -> None:
    no = Decision(False, 5, 2.5, 9.0, "9/s")
    assert room(no, usage(rate(7)), (9,)) == Room(0, 2.5, True)
    assert room(no, usage(rate(7), cap=2), (9,)) == Room(0, 2.5, False)


# What a limiter of this process makes of what another version of it wrote


def policy(*rates: str) -> LimitPolicy:
    return LimitPolicy(Definition("api", parse_rates(*rates)))


def test_costs_of_another_version_of_the_limiter_count_as_one() -> None:
    asked = policy("10/s", "900/h").room(Keys("t", "g"), "k", (1, 2, 3))
    assert asked.args == policy("10/s", "900/h").room(Keys("t", "g"), "k", (1, 1)).args


def test_a_cost_above_a_configured_rate_lets_one_go_to_be_told() -> None:
    asked = policy("10/s").room(Keys("t", "g"), "k", (9,))
    assert asked.parse([0, 0, 0, 0, -3, 17, b"5/s"]) == Room(1, 0.0, True)
