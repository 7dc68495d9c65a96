"""A limiter's room on a real server: as many as it says are admitted, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.limits_model import KEYS, Limiter, S, World, runner_on
from workerkit.core.rates import parse_rate
from workerkit.limits.headers import Advice, Budget
from workerkit.limits.limiter import LimitPolicy


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def room(limiter: Limiter, cost=1, **units):
    return limiter.world.run(limiter.policy.room(KEYS, "k", limiter.costs(cost, units)))


def check(limiter: Limiter, cost=1, **units):
    """Room is what is then admitted; without any, it is after `wait` that there is some."""
    before = limiter.stored()
    there = room(limiter, cost, **units)
    assert limiter.stored() == before, "looking changed something"
    if there.requests == 0:
        assert there.wait > 0
        assert not limiter.peek(cost, **units).allowed
        limiter.wait(round(there.wait * S))
        there = room(limiter, cost, **units)
    assert there.wait == 0
    for _ in range(there.requests):
        assert limiter.ask(cost, **units).allowed, there
    assert not limiter.ask(cost, **units).allowed, there
    return there.requests


ALGORITHMS = [("window", {}), ("fixed", {}), ("gcra", {"burst": 7})]
STEPS = st.lists(st.tuples(st.integers(0, 2 * S), st.integers(1, 3)), max_size=12)


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
@settings(max_examples=25, deadline=None, print_blob=True)
@given(steps=STEPS, cost=st.integers(1, 3), tokens=st.integers(1, 30))
def test_room_is_what_is_admitted(runner, algorithm, options, steps, cost, tokens):
    if algorithm == "gcra":
        tokens = min(tokens, 7)
    limiter = Limiter(World(runner), "10/s", "30/10s", "200 tokens/m", algorithm=algorithm, **options)
    for gap, asked in steps:
        limiter.wait(gap)
        limiter.ask(asked, tokens=tokens)
    check(limiter, cost, tokens=tokens)


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_a_fresh_limiter(runner, algorithm, options):
    limiter = Limiter(World(runner), "10/s", "30/10s", algorithm=algorithm, **options)
    assert check(limiter, 2) == (3 if algorithm == "gcra" else 5)


@pytest.mark.parametrize(("algorithm", "options"), [("window", {}), ("fixed", {}), ("gcra", {"burst": 600})])
@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (["6/s", "800 tokens/m"], 6),
        (["60/m", "3/s", "800 tokens/m"], 3),
        (["800 tokens/m", "6/s"], 6),
        (["300 tokens/m", "6/s"], 3),
    ],
)
def test_a_key_with_rates_of_its_own(runner, algorithm, options, rates, expected):
    limiter = Limiter(World(runner), "9/s", "900 tokens/m", algorithm=algorithm, **options)
    limiter.configure(*rates)
    assert check(limiter, 1, tokens=100) == expected


def test_a_key_with_one_rate_of_its_own(runner):
    limiter = Limiter(World(runner), "9/s", "900/m")
    limiter.configure("30/s")
    assert check(limiter, 7) == 4


def test_what_the_api_says_is_left(runner):
    limiter = Limiter(World(runner), "9/s", "900 tokens/m")
    limiter.learn(Advice(0.0, False, (Budget("tokens", None, 350, 10.0, None),), ()))
    assert check(limiter, 1, tokens=100) == 3
    assert room(limiter, 1, tokens=100).wait == pytest.approx(10.0)


def test_a_pause_leaves_no_room(runner):
    limiter = Limiter(World(runner), "9/s")
    limiter.world.run(limiter.policy.pause(KEYS, "k", 20.0))
    there = room(limiter)
    assert (there.requests, there.paced) == (0, True)
    assert there.wait == pytest.approx(20.0, abs=0.01)


def test_a_cap(runner):
    limiter = Limiter(World(runner), concurrency=3)
    assert room(limiter)[:3] == (3, 0.0, False)
    held = [limiter.enter() for _ in range(2)]
    assert room(limiter).requests == 1
    held.append(limiter.enter())
    there = room(limiter)
    assert (there.requests, there.paced) == (0, False)
    assert 0 < there.wait < 0.1
    held[0].end()
    assert room(limiter).requests == 1
    limiter.configure(concurrency=5)
    assert room(limiter).requests == 3


def test_a_cap_beside_a_rate(runner):
    limiter = Limiter(World(runner), "4/s", concurrency=3)
    assert room(limiter).requests == 3
    for _ in range(3):
        limiter.enter().end()
    assert room(limiter).requests == 1


def test_requests_without_an_answer_take_room(runner):
    limiter = Limiter(World(runner), "4/s", count="response")
    held = [limiter.enter(exact=True) for _ in range(3)]
    assert room(limiter).requests == 1
    held.append(limiter.enter(exact=True))
    assert room(limiter).requests == 0
    for each in held:
        each.end()
    limiter.wait(S)
    assert room(limiter).requests == 4


def test_a_cost_above_what_was_configured_lets_one_go_to_be_told(runner):
    limiter = Limiter(World(runner), "9/s")
    limiter.configure("5/s")
    assert room(limiter, 6).requests == 1


def test_costs_that_another_version_wrote(runner):
    limiter = Limiter(World(runner), "9/s")
    other = LimitPolicy(limiter.definition)
    assert limiter.world.run(other.room(KEYS, "k", (1, 2, 3))).requests == 9
    assert parse_rate("9/s").amount == 9
