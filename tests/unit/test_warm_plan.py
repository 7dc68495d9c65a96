"""What a run refreshes, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.warming.plan import UNKNOWN_COST, Target, plan


def call(name: str) -> tuple[tuple[str], dict[str, int]]:
    return (name,), {}


def order(*targets: Target, before: float = 60.0) -> list[str]:
    return [pick.arguments[0][0] for pick in plan(targets, before).picks]


def test_what_is_fresh_for_long_is_left_alone() -> None:
    found = plan([Target(call("a"), left=61.0), Target(call("b"), left=60.0), Target(call("c"))], 60.0)
    assert [pick.arguments for pick in found.picks] == [call("c"), call("b")]
    assert found.skips == [(call("a"), "fresh for 1m1s")]


def test_who_is_asked_for_more_costs_more_or_ends_sooner_goes_first() -> None:
    assert order(Target(call("a"), 1.0, 1.0, 1.0), Target(call("b"), 2.0, 1.0, 1.0)) == ["b", "a"]
    assert order(Target(call("a"), 1.0, 1.0, 1.0), Target(call("b"), 1.0, 1.0, 2.0)) == ["b", "a"]
    assert order(Target(call("a"), 1.0, 9.0, 1.0), Target(call("b"), 1.0, 1.0, 1.0)) == ["b", "a"]
    assert order(Target(call("a"), 1.0, 1.0, 1.0), Target(call("b"), 1.0, None, 1.0)) == ["b", "a"]


def test_what_costs_nothing_or_is_long_over() -> None:
    assert order(Target(call("a"), 1.0, cost=0.0), Target(call("b"), 2.0, cost=0.0)) == ["b", "a"]
    found = plan([Target(call("a"), left=-600.0, cost=1.0), Target(call("b"), cost=1.0)], 60.0)
    assert [pick.score for pick in found.picks] == [1.0, 1.0]


def test_what_declared_calls_are_worth_is_their_cost() -> None:
    assert order(Target(call("a")), Target(call("b"), cost=5.0, left=0.0)) == ["a", "b"]  # the mean of one is as much
    assert order(Target(call("a"), cost=1.0), Target(call("b")), Target(call("c"), cost=9.0)) == ["c", "b", "a"]


def test_what_it_should_take() -> None:
    assert plan([Target(call("a")), Target(call("b"))], 1.0).seconds == 2 * UNKNOWN_COST
    found = plan([Target(call("a"), cost=2.0), Target(call("b"), cost=4.0), Target(call("c"))], 1.0)
    assert found.seconds == pytest.approx(9.0)


@given(
    st.lists(
        st.builds(
            Target,
            st.text().map(call),
            st.none() | st.floats(0, 1e6),
            st.none() | st.floats(-10, 1000),
            st.none() | st.floats(0, 1000),
        )
    ),
    st.floats(0.001, 1000),
)
def test_each_is_picked_or_skipped(targets: list[Target], before: float) -> None:
    found = plan(targets, before)
    both = [each.arguments for each in (*found.picks, *found.skips)]
    assert sorted(map(repr, both)) == sorted(repr(target.arguments) for target in targets)
    assert [pick.score for pick in found.picks] == sorted((pick.score for pick in found.picks), reverse=True)
