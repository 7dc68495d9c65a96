"""Ticks of a warmup on a real server whose clock the test sets: each is run once, whoever dies, waits or comes late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.job_rig import START, World
from tests.server.limits_model import runner_on
from workerkit.core.keys import Keys
from workerkit.warming.schedule import Every, due
from workerkit.warming.ticks import CLAIM_MS, KEPT_RUNS, LIFE_MS, State, Ticks

TICK = START // 1000
TICKS = Ticks(Keys("wk", "h"), "rates of exchange")


class Fleet:
    def __init__(self, world: World) -> None:
        self.world = world

    def claim(self, token: str, tick: int = TICK, done: int | None = None, *, by_hand: bool = False) -> str:
        verdict: str = self.world.run(TICKS.claim(token, tick, done, by_hand=by_hand))
        return verdict

    def finish(self, token: str, tick: int | None = TICK, passed: int = 0, **run: Any) -> bool:
        held: bool = self.world.run(TICKS.finish(token, tick, passed, run))
        return held

    @property
    def state(self) -> State:
        found: State = self.world.run(TICKS.look())
        return found


@pytest.fixture
def fleet(redis_url: str) -> Iterator[Fleet]:
    with runner_on(redis_url) as runner:
        yield Fleet(World(runner))


def test_one_of_many_runs_it(fleet: Fleet) -> None:
    assert [fleet.claim(token) for token in "abc"] == ["go", "overlap", "overlap"]
    assert fleet.claim("a") == "go"  # its answer was lost
    assert (fleet.state.running, fleet.state.done) == (TICK, None)
    assert fleet.finish("a", warmed=3)
    assert fleet.claim("b") == "changed"
    assert fleet.claim("b", TICK + 1000, TICK) == "go"
    assert fleet.state._replace(started=None, ended=None) == State(
        done=TICK, running=TICK + 1000, runs=1, overlaps=1, run={"warmed": 3}
    )


def test_a_tick_whose_claimer_dies_is_run_by_another(fleet: Fleet) -> None:
    assert fleet.claim("a") == "go"
    fleet.world.wait(CLAIM_MS / 1000 - 0.1)
    assert fleet.claim("b") == "overlap"
    assert fleet.world.run(TICKS.renew("a"))
    fleet.world.wait(CLAIM_MS / 1000 - 0.1)
    assert fleet.claim("b") == "overlap"
    fleet.world.wait(0.2)
    assert fleet.claim("b") == "go"
    assert not fleet.world.run(TICKS.renew("a"))  # it was only slow
    assert not fleet.finish("a")
    assert fleet.state.done is None
    assert fleet.finish("b")
    assert fleet.state.done == TICK


def test_a_tick_that_comes_during_a_run_is_left_out_and_told_of_once(fleet: Fleet) -> None:
    fleet.claim("a")
    for token in "bc":
        assert fleet.claim(token, TICK + 1000) == "overlap"
    assert fleet.claim("b", TICK + 2000) == "overlap"
    assert fleet.finish("a")
    assert (fleet.state.done, fleet.state.overlaps) == (TICK + 2000, 2)


def test_paused_means_paused_but_not_by_hand(fleet: Fleet) -> None:
    assert fleet.world.run(TICKS.pause(on=True))
    assert not fleet.world.run(TICKS.pause(on=True))
    assert fleet.claim("a") == "paused"
    assert fleet.state.paused
    assert fleet.claim("a", by_hand=True) == "go"
    assert fleet.claim("b", by_hand=True) == "overlap"
    assert fleet.finish("a", None, warmed=1)
    assert (fleet.state.done, fleet.state.runs, fleet.state.overlaps) == (None, 1, 0)
    assert fleet.world.run(TICKS.pause(on=False))
    assert not fleet.world.run(TICKS.pause(on=False))
    assert fleet.claim("a") == "go"


def test_what_is_left_out_is_left_out_once(fleet: Fleet) -> None:
    assert fleet.world.run(TICKS.mark(None, TICK, 3))
    assert not fleet.world.run(TICKS.mark(None, TICK + 1, 3))
    assert (fleet.state.done, fleet.state.missed) == (TICK, 3)
    assert fleet.claim("a", TICK + 1000, TICK) == "go"
    assert fleet.finish("a", TICK + 1000, 2)
    assert fleet.state.missed == 5


def test_runs_are_remembered(fleet: Fleet) -> None:
    for number in range(KEPT_RUNS + 5):
        fleet.claim("a", by_hand=True)
        fleet.finish("a", None, number=number)
    found = fleet.world.run(TICKS.history(100))
    assert [run["number"] for run in found] == list(range(KEPT_RUNS + 4, 4, -1))
    assert fleet.world.run(TICKS.history(2)) == found[:2]


def test_nothing_is_without_a_ttl(fleet: Fleet) -> None:
    fleet.claim("a")
    fleet.claim("b", TICK + 1)
    fleet.world.run(TICKS.pause(on=True))
    fleet.finish("a")
    fleet.world.run(TICKS.mark(TICK + 1, TICK + 2, 1))
    fleet.world.wait(1)  # it fails where there is none
    fleet.world.wait(LIFE_MS / 1000)
    assert fleet.world.command("KEYS", "wk:*") == []


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["once", "all"]),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["tick", "tick", "finish", "die", "wait"]), st.integers(1, 40))
    ),
)
def test_any_order_of_tickers_runs_each_tick_once(fleet: Fleet, missed: Any, steps: list[tuple[int, str, int]]) -> None:
    fleet.world = world = World(fleet.world.runner)
    schedule, runs, held, number = Every(10_000), [], {}, 0
    for who, what, seconds in steps:
        now = world.now // 1000
        if what == "wait":
            world.wait(seconds)
        elif what == "die":
            held.pop(who, None)
        elif what == "finish" and who in held:
            token, tick, passed = held.pop(who)
            if fleet.finish(token, tick, passed):
                runs.append(tick)
        elif what == "tick" and who not in held:
            state, number = fleet.state, number + 1
            found = due(schedule, now, state.done, missed, None, at_once=True)
            if found.tick is not None and fleet.claim(f"t{number}", found.tick, state.done) == "go":
                held[who] = (f"t{number}", found.tick, found.passed)
    assert runs == sorted(set(runs))
    state = fleet.state
    assert state.runs == len(runs)
    if runs:
        assert state.done is not None
        accounted = len(runs) + state.missed + state.overlaps
        assert accounted >= (state.done - runs[0]) // 10_000 + 1
