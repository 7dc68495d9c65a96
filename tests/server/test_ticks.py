"""Ticks of a warmup on a real server whose clock the test sets: each is run once, whoever dies, waits or comes late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.job_rig import START, World
from tests.server.limits_model import runner_on
from workerkit.core.call import Call
from workerkit.core.keys import Keys
from workerkit.warming.demand import Demand, Taken
from workerkit.warming.schedule import Every, due
from workerkit.warming.ticks import CLAIM_MS, KEPT_RUNS, LIFE_MS, QUEUED_MS, Claimed, State, Ticks

TICK = START // 1000
TICKS = Ticks(Keys("wk", "h"), "rates of exchange")
STATE, RUN, RUNS = (Keys("wk", "h").key("warmup", "rates%20of%20exchange", kind) for kind in ("state", "run", "runs"))


class Fleet:
    def __init__(self, world: World) -> None:
        self.world = world

    def claim(self, token: str, tick: int | None = TICK, done: int | None = None) -> str:
        verdict: str = self.world.run(TICKS.claim(token, tick, done)).verdict
        return verdict

    def finish(self, token: str, tick: int | None = TICK, passed: int = 0, **run: Any) -> bool:
        held: bool = self.world.run(TICKS.finish(token, tick, passed, run))
        return held

    @property
    def stored(self) -> dict[Any, Any]:
        """Every byte and every expiry there is."""
        command = self.world.command
        return {key: (command("DUMP", key), command("PEXPIRETIME", key)) for key in command("KEYS", "wk:*")}

    @property
    def state(self) -> State:
        found: State = self.world.run(TICKS.look())
        return found


@pytest.fixture
def fleet(redis_url: str) -> Iterator[Fleet]:
    with runner_on(redis_url) as runner:
        yield Fleet(World(runner))


def test_one_of_many_runs_it(fleet: Fleet) -> None:
    assert [fleet.claim(token) for token in "abc"] == ["go", "busy", "busy"]
    assert fleet.claim("a") == "go"  # its answer was lost
    assert (fleet.state.running, fleet.state.done) == (TICK, None)
    assert fleet.finish("a", warmed=3)
    assert fleet.claim("b") == "changed"
    assert fleet.claim("b", TICK + 1000, TICK) == "go"
    assert fleet.state._replace(started=None, ended=None) == State(
        done=TICK, running=TICK + 1000, runs=1, run={"warmed": 3}
    )


def test_a_tick_whose_claimer_dies_is_run_by_another(fleet: Fleet) -> None:
    assert fleet.claim("a") == "go"
    fleet.world.wait(CLAIM_MS / 1000 - 0.1)
    assert fleet.claim("b") == "busy"
    assert fleet.world.run(TICKS.renew("a"))
    fleet.world.wait(CLAIM_MS / 1000 - 0.1)
    assert fleet.claim("b") == "busy"
    fleet.world.wait(0.2)
    assert fleet.claim("b") == "go"
    assert not fleet.world.run(TICKS.renew("a"))  # it was only slow
    assert not fleet.finish("a")
    assert fleet.state.done is None
    assert fleet.finish("b")
    assert fleet.state.done == TICK


def test_a_tick_that_comes_during_a_run_is_left_out_and_told_of_once(fleet: Fleet) -> None:
    fleet.claim("a")
    assert [fleet.claim(token, TICK + 1000) for token in "bc"] == ["overlap", "busy"]
    assert fleet.claim("b", TICK + 2000) == "overlap"
    assert fleet.claim("c", None) == "busy"
    assert fleet.finish("a")
    assert (fleet.state.done, fleet.state.overlaps) == (TICK + 2000, 2)


def test_paused_means_paused_but_not_by_hand(fleet: Fleet) -> None:
    assert fleet.world.run(TICKS.pause(on=True))
    assert not fleet.world.run(TICKS.pause(on=True))
    assert fleet.claim("a") == "paused"
    assert fleet.state.paused
    assert fleet.claim("a", None) == "go"
    assert fleet.claim("b", None) == "busy"
    assert fleet.finish("a", None, warmed=1)
    assert (fleet.state.done, fleet.state.runs) == (None, 1)
    assert fleet.world.run(TICKS.pause(on=False))
    assert not fleet.world.run(TICKS.pause(on=False))
    assert fleet.state.runs == 1
    assert fleet.claim("a") == "go"


def test_a_claim_is_the_claimers_whatever_came_after_it(fleet: Fleet) -> None:
    fleet.claim("a")
    assert fleet.world.run(TICKS.pause(on=True))
    assert fleet.claim("a") == "go"


def test_a_tick_that_comes_during_a_run_by_hand_is_run_afterwards(fleet: Fleet) -> None:
    fleet.claim("a", None)
    assert fleet.claim("b") == "busy"
    assert fleet.finish("a", None)
    assert fleet.claim("b") == "go"
    assert fleet.state.overlaps == 0


def test_a_message_may_be_late_and_is_sent_again(fleet: Fleet) -> None:
    fleet.claim("a")
    assert not fleet.world.run(TICKS.queue("b", "m", 0))
    for _ in range(2):  # its answer was lost
        assert fleet.world.run(TICKS.queue("a", "m", 2000))
    assert not fleet.world.run(TICKS.renew("a"))
    fleet.world.wait(2 + CLAIM_MS / 1000)
    assert fleet.claim("b") == "busy"  # longer than a claim lives: it is still its message's
    fleet.world.wait(0.001)
    assert fleet.world.run(TICKS.claim("b", TICK)) == Claimed("again", "m", TICK)
    fleet.world.wait(2 * CLAIM_MS / 1000)
    assert fleet.claim("b") == "busy"
    fleet.world.wait(0.001)
    assert fleet.claim("b") == "again"
    assert fleet.world.run(TICKS.renew("m"))  # the first of both has come
    fleet.world.wait(CLAIM_MS / 1000 - 0.1)
    assert fleet.claim("b") == "busy"
    fleet.world.wait(0.2)
    assert fleet.claim("b") == "go"  # and its worker has died
    fleet.world.wait(CLAIM_MS / 1000 - 0.1)
    assert fleet.claim("c") == "busy"


def test_the_message_of_a_run_by_hand_is_sent_again_as_such(fleet: Fleet) -> None:
    fleet.claim("a", None)
    fleet.world.run(TICKS.queue("a", "m", 0))
    fleet.world.wait(CLAIM_MS / 1000 + 0.1)
    assert fleet.world.run(TICKS.claim("b", None)) == Claimed("again", "m", None)


def test_what_is_left_out_is_left_out_once(fleet: Fleet) -> None:
    assert fleet.world.run(TICKS.mark(None, TICK, 3))
    assert not fleet.world.run(TICKS.mark(None, TICK + 1, 3))
    assert (fleet.state.done, fleet.state.missed) == (TICK, 3)
    assert fleet.claim("a", TICK + 1000, TICK) == "go"
    assert fleet.finish("a", TICK + 1000, 2)
    assert fleet.state.missed == 5


def test_what_was_left_out_during_a_run_stays_so(fleet: Fleet) -> None:
    fleet.claim("a")
    assert fleet.world.run(TICKS.mark(None, TICK + 9000, 9))
    assert fleet.finish("a")
    assert fleet.state.done == TICK + 9000


def test_when_it_began_and_ended(fleet: Fleet) -> None:
    fleet.world.wait(1.5)
    fleet.claim("a")
    fleet.world.wait(2)
    fleet.finish("a")
    assert (fleet.state.started, fleet.state.ended) == (TICK + 1500, TICK + 3500)


def test_runs_are_remembered(fleet: Fleet) -> None:
    for number in range(KEPT_RUNS + 5):
        fleet.claim("a", None)
        fleet.finish("a", None, number=number)
    found = fleet.world.run(TICKS.history(100))
    assert [run["number"] for run in found] == list(range(KEPT_RUNS + 4, 4, -1))
    assert fleet.world.run(TICKS.history(2)) == found[:2]


WRITES: dict[str, Call[Any]] = {
    "claim": TICKS.claim("b", None),
    "overlap": TICKS.claim("b", TICK + 1000, None),
    "finish": TICKS.finish("a", TICK, 0, {}),
    "mark": TICKS.mark(None, TICK, 1),
    "pause": TICKS.pause(on=True),
    "renew": TICKS.renew("a"),
    "queue": TICKS.queue("a", "m", 0),
}


@pytest.mark.parametrize("write", WRITES)
def test_each_write_gives_its_keys_their_life(fleet: Fleet, write: str) -> None:
    """Whatever was lost before."""
    fleet.claim("a")
    fleet.world.command("DEL", STATE, *([RUN] if write == "claim" else []))
    fleet.world.run(WRITES[write])
    assert fleet.stored
    for key, life in ((STATE, LIFE_MS), (RUN, QUEUED_MS if write == "queue" else CLAIM_MS), (RUNS, LIFE_MS)):
        left = fleet.world.command("PTTL", key)
        assert left == -2 or life // 2 < left <= life, key  # -2: it is not there


def test_what_is_refused_changes_nothing(fleet: Fleet) -> None:
    for call in (TICKS.claim("b", TICK, TICK - 1000), TICKS.mark(TICK - 1000, TICK, 1), TICKS.finish("b", TICK, 0, {})):
        fleet.world.run(call)
    assert fleet.stored == {}
    fleet.claim("a")
    fleet.finish("a")
    fleet.world.run(TICKS.pause(on=True))
    fleet.claim("a", None)
    before = fleet.stored
    assert len(before) == 3
    for refused, reply in (
        (TICKS.claim("b", TICK + 1000, None), Claimed("changed")),
        (TICKS.claim("b", TICK + 1000, TICK), Claimed("paused")),
        (TICKS.claim("b", None), Claimed("busy")),
        (TICKS.queue("b", "m", 0), False),
        (TICKS.mark(None, TICK + 1000, 1), False),
        (TICKS.renew("b"), False),
        (TICKS.finish("b", TICK + 1000, 1, {}), False),
    ):
        assert fleet.world.run(refused) == reply
        assert fleet.stored == before


@pytest.mark.parametrize(
    "call",
    [
        TICKS.claim("a", TICK, None),
        TICKS.mark(None, TICK, 1),
        Demand(Keys("wk", "h"), "f", lambda args, kwargs: b"").add([Taken("1", 1, b"x")]),
    ],
    ids=lambda call: call.name,
)
def test_what_comes_too_late_changes_nothing(fleet: Fleet, redis_url: str, call: Call[Any]) -> None:
    assert call.script is not None
    words: Any = (call.script.source, len(call.keys), *call.keys)
    with redis.Redis.from_url(redis_url) as client:
        with pytest.raises(redis.ResponseError, match="LATE"):
            client.eval(*words, 1, *call.args)
        assert fleet.stored == {}
        client.eval(*words, 2**52, *call.args)
    assert fleet.stored


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
