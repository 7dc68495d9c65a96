"""Fixed windows on a real server whose clock the test sets: at most N in each of the clock's windows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.limits_model import (
    START,
    Act,
    Limiter,
    S,
    World,
    most_in_a_clock_window,
    most_in_any,
    runner_on,
    us,
    walk,
)
from workerkit.core.rates import Rate


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def fixed(runner, *rates):
    return Limiter(World(runner), *rates, algorithm="fixed")


def test_the_checker_tells_windows_apart():
    acts = [Act(0, 1), Act(9, 2), Act(10, 4), Act(11, 8), Act(20, 3)]
    assert most_in_a_clock_window(acts, 10) == 12


RATES = st.lists(
    st.builds(
        Rate,
        st.one_of(st.integers(1, 9), st.integers(30, 70), st.just(2**53)),
        st.sampled_from([1.0, 2.5, 10.0, 61.0, 3600.0, 86400.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=Rate.period.__get__,
)
GAPS = st.one_of(
    st.just(0), st.integers(1, 3), st.integers(0, S // 8), st.integers(0, 3 * S), st.sampled_from([S - 1, S, 3600 * S])
)
COSTS = st.one_of(st.just(1), st.integers(1, 40))


@settings(max_examples=100, deadline=None, print_blob=True)
@given(RATES, st.lists(st.tuples(GAPS, COSTS, st.sampled_from("ab"), st.booleans()), max_size=60))
def test_no_trace_breaks_a_promise(runner, rates, trace):
    limiter = fixed(runner, *rates)

    def refused(cost, key):
        would = [*limiter.admitted(key), Act(limiter.world.true, cost)]
        assert any(most_in_a_clock_window(would, rate.period_us) > rate.amount for rate in rates), "for nothing"

    walk(limiter, trace, min(rate.amount for rate in rates), refused)
    for key in "ab":
        for rate in rates:
            assert most_in_a_clock_window(limiter.admitted(key), rate.period_us) <= rate.amount


STEPS = st.one_of(st.just(0), st.just(0), st.integers(-3, 3), st.integers(-90 * S, 90 * S), st.just(-(3 * 10**13)))


@settings(max_examples=60, deadline=None, print_blob=True)
@given(RATES, st.lists(st.tuples(GAPS, COSTS, STEPS), max_size=50))
def test_a_clock_that_jumps_locks_nobody_out(runner, rates, trace):
    limiter, jumps = fixed(runner, *rates), 0
    for gap, wish, step in trace:
        limiter.wait(gap)
        limiter.world.set_clock(step)
        jumps += step != 0
        cost = min(wish, *(rate.amount for rate in rates))
        decision = limiter.ask(cost)
        if not decision.allowed:
            assert us(decision.retry_after) <= max(rate.period_us for rate in rates)
            limiter.wait(us(decision.retry_after))
            assert limiter.ask(cost).allowed, "waiting did not help"
    for rate in rates:  # in any T it may be 2 N; every jump may begin another window
        assert most_in_any(limiter.admitted(), rate.period_us) <= rate.amount * (2 + jumps)


def test_a_jump_back_takes_along_what_was_used(runner):
    limiter = fixed(runner, "5/10s")
    assert limiter.ask(5).allowed
    limiter.world.set_clock(-3600 * S)
    decision = limiter.ask()
    assert not decision.allowed
    before = limiter.bytes()
    limiter.wait(1)
    assert not limiter.ask().allowed
    assert limiter.bytes() == before, "written down once"
    limiter.wait(us(decision.retry_after))
    assert limiter.ask(5).allowed


def test_windows_are_those_of_the_clock(runner):
    limiter = fixed(runner, "5/m")
    into = START % (60 * S)
    limiter.wait(59 * S - into)
    assert limiter.ask(5).allowed
    assert us(limiter.ask().retry_after) == S
    limiter.wait(S)
    assert limiter.ask(5).allowed, "10 within a second, around the boundary, as promised"
    assert us(limiter.ask().retry_after) == 60 * S


def test_a_saturated_limit_is_used_up(runner):
    limiter = fixed(runner, "50/s")
    while limiter.world.now < START + 10 * S:
        decision = limiter.ask()
        limiter.wait(us(decision.retry_after))
    assert len(limiter.admitted()) == 500
