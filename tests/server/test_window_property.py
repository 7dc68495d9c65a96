"""The window on a real server whose clock the test sets, against a brute-force checker.

The checker slides a window over every admitted call; it shares no idea with the script but the promise.
"""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.limits_model import START, Act, Limiter, S, World, most_in_any, runner_on, us, walk
from workerkit.core.rates import Rate


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def window(runner, *rates, **options):
    return Limiter(World(runner), *rates, **options)


def most(limiter, key="k"):
    """For every rate the most that was ever admitted in a window of its period."""
    return [most_in_any(limiter.admitted(key), rate.period_us) for rate in limiter.rates]


def check(limiter, key="k"):
    for rate, admitted in zip(limiter.rates, most(limiter, key), strict=True):
        assert admitted <= rate.amount, f"{admitted} admitted at {rate}"


def test_the_checker_sees_an_over_admission():
    assert most_in_any([Act(0, 3), Act(9, 4), Act(10, 5)], 10) == 9
    assert most_in_any([Act(0, 1)] * 101, 10) == 101


PERIOD = Rate.period.__get__
RATES = st.lists(
    st.builds(
        Rate,
        st.one_of(st.integers(1, 8), st.integers(30, 70), st.integers(250, 300)),
        st.sampled_from([1.0, 2.5, 10.0, 61.0, 3600.0, 86400.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=PERIOD,
)
COSTS = st.one_of(st.just(1), st.integers(1, 9), st.sampled_from([10, 30, 100, 255]))
GAPS = st.one_of(
    st.just(0), st.integers(1, 3), st.integers(0, S // 16), st.integers(0, 3 * S), st.sampled_from([S - 1, S, 3600 * S])
)
TRACES = st.lists(st.tuples(GAPS, COSTS, st.sampled_from("ab"), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None, print_blob=True)
@given(RATES, TRACES)
def test_no_trace_breaks_a_promise(runner, rates, trace):
    limiter = window(runner, *rates)
    walk(limiter, trace, min(rate.amount for rate in rates))
    check(limiter, "a")
    check(limiter, "b")


@settings(max_examples=50, deadline=None, print_blob=True)
@given(
    st.lists(
        st.builds(Rate, st.integers(1, 62), st.sampled_from([1.0, 10.0, 61.0])),
        min_size=1,
        max_size=2,
        unique_by=PERIOD,
    ),
    st.lists(st.tuples(st.integers(0, S // 2), st.integers(1, 4)), max_size=80),
)
@example([Rate(2, 1.0)], [(0, 1), (S // 50, 1), (S - S // 50, 1)])
def test_up_to_62_it_refuses_only_what_would_break_the_promise(runner, rates, trace):
    limiter = window(runner, *rates)
    for gap, wish in trace:
        limiter.wait(gap)
        cost = min(wish, *(rate.amount for rate in rates))
        if not limiter.ask(cost).allowed:
            would = [*limiter.admitted(), Act(limiter.world.true, cost)]
            assert any(most_in_any(would, rate.period_us) > rate.amount for rate in rates)


STEPS = st.one_of(st.just(0), st.just(0), st.integers(-3, 3), st.integers(-90 * S, 90 * S), st.just(-(3 * 10**13)))


@settings(max_examples=80, deadline=None, print_blob=True)
@given(RATES, st.lists(st.tuples(GAPS, COSTS, STEPS), min_size=1, max_size=50))
@example([Rate(2, 1.0)], [(0, 1, 0), (0, 1, -1), (0, 1, 0)])
@example([Rate(30, 3600.0)], [(0, 15, 0), (1, 1, 0), (0, 1, -(10**15)), (0, 14, 0)])
def test_a_clock_that_jumps_locks_nobody_out(runner, rates, trace):
    limiter = window(runner, *rates)
    ahead = 0
    for gap, wish, step in trace:
        limiter.wait(gap)
        limiter.world.set_clock(step)
        ahead += step > 0
        cost = min(wish, *(rate.amount for rate in rates))
        decision = limiter.ask(cost)
        if not decision.allowed:
            assert us(decision.retry_after) <= 86400 * S + 41
            limiter.wait(us(decision.retry_after))
            assert limiter.ask(cost).allowed, "waiting did not help"
    # A jump ahead is time that passed, for all a server can tell: a burst each. A jump back must admit nothing more.
    for rate, admitted in zip(rates, most(limiter), strict=True):
        assert admitted <= rate.amount * (1 + ahead)


def test_a_refusal_after_a_jump_back_writes_it_down_once(runner):
    limiter = window(runner, Rate(2, 10.0))
    limiter.ask(2)
    limiter.world.set_clock(-3600 * S)
    assert us(limiter.ask().retry_after) == 10 * S
    before = limiter.bytes()
    limiter.wait(4 * S)
    assert us(limiter.ask().retry_after) == 6 * S
    assert limiter.bytes() == before
    limiter.wait(6 * S)
    assert limiter.ask().allowed


def test_a_clock_that_jumps_to_and_fro_makes_no_heap_of_records(runner):
    limiter = window(runner, Rate(1000, 10.0))
    for _ in range(300):
        limiter.world.set_clock(S)
        limiter.ask()
        limiter.world.set_clock(-S)
        assert limiter.ask().remaining >= 970, "a jump ahead is time that has passed"
    assert limiter.world.command("STRLEN", limiter.name()) < 250


def test_a_jump_back_keeps_no_dead_holder(runner):
    limiter = window(runner, concurrency=1, lease=10.0)
    limiter.enter()
    limiter.world.set_clock(-3600 * S)
    assert limiter.enter().bound_by == "concurrency"
    limiter.wait(10 * S)
    assert limiter.enter().decision.allowed


@pytest.mark.parametrize("period", [61.0, 3000.0, 86400.0])
def test_offsets_are_rebased_before_they_overflow(runner, period):
    limiter = window(runner, Rate(40, period))
    long = limiter.rates[0].period_us
    overflow = 2**32 * -(-long // 2**31)
    while limiter.world.now < START + 2.1 * overflow:
        limiter.ask()
        near = -2.2 * long < (limiter.world.now - START + overflow / 2) % overflow - overflow / 2 < 1.2 * long
        limiter.wait(long // 200 if near else long * 9 // 10)  # often enough that the window never empties
    check(limiter)
    assert most(limiter) == [40]


@pytest.mark.parametrize("amount", [1, 5, 62, 63, 100, 300, 3000])
@pytest.mark.parametrize("load", ["burst", "paced", "random"])
def test_a_saturated_limit_is_used(runner, amount, load):
    rate, periods = Rate(amount, 1.0), 12 if amount < 1000 else 3
    limiter, randomly = window(runner, rate), random.Random(amount)
    gap = {
        "burst": lambda: 0,  # a fleet that waits, and takes at once what comes free
        "paced": lambda: S * 9 // (10 * amount),
        "random": lambda: int(randomly.expovariate(10 * amount / S)),
    }[load]
    while limiter.world.now < START + periods * S:
        decision = limiter.ask()
        limiter.wait(gap() if decision.allowed else us(decision.retry_after))
    check(limiter)
    used = len(limiter.admitted()) / (amount * periods)
    print(f"{rate} {load}: {used:.2%}")
    assert used >= 0.97


@pytest.mark.parametrize("amount", [62, 100, 200, 300])
def test_a_burst_comes_again_as_quickly_as_it_came(runner, amount):
    limiter, each = window(runner, Rate(amount, 1.0)), S // (3 * amount)
    while len(limiter.admitted()) < 10 * amount:
        decision = limiter.ask()
        limiter.wait(each if decision.allowed else us(decision.retry_after))
    check(limiter)
    late = (limiter.world.now - START - 9 * S - amount * each) / (9 * S)
    print(f"{amount}/s: {late:.2%} of the period late")
    assert late < 0.008


@pytest.mark.real
@pytest.mark.parametrize("gaps", [[60 * S // 100], [60 * S // 14], [0, 60 * S // 28], [0] * 100 + [60 * S // 14] * 14])
def test_memory_is_bounded(runner, gaps):
    sizes = {}
    for amount in (5, 62, 63, 200, 60_000, 2**31, 2**53):
        limiter, most = window(runner, Rate(amount, 60.0)), 0
        for _, gap in zip(range(400), itertools.cycle(gaps), strict=False):
            limiter.ask(max(1, amount // 200))
            limiter.wait(gap)
            most = max(most, limiter.world.command("MEMORY", "USAGE", limiter.name()) or 0)
        sizes[amount] = most
    print("bytes per key, all told, by N:", sizes)
    assert max(sizes.values()) <= 512


def test_a_change_of_rates_forgets_only_what_nobody_counts_any_more(runner):
    world = World(runner)
    before = Limiter(world, Rate(10, 1.0), Rate(20, 60.0))
    after = Limiter(world, Rate(300, 60.0), Rate(70_000, 3600.0))
    assert all(before.ask().allowed for _ in range(10))
    world.wait(S // 10)
    assert after.ask(cost=290).allowed, "the shared rate has 10 of 300 used"
    assert after.ask().bound_by == "300/m"
    decision = before.ask()
    assert decision.bound_by == "20/m", "300 of 20 are used"
    world.wait(60 * S)
    assert before.ask(cost=10).allowed
    assert not before.ask().allowed


def test_the_old_rate_is_still_counted_between_the_new_ones(runner):
    world = World(runner)
    old, new = Limiter(world, Rate(3, 10.0)), Limiter(world, Rate(5, 60.0))
    for _ in range(3):
        assert old.ask().allowed
        assert new.ask().allowed
    assert old.ask().bound_by == "3/10s"
    assert [new.ask().bound_by for _ in range(3)] == ["", "", "5/m"]
    both = world.command("STRLEN", new.name())
    world.wait(60 * S)
    assert new.ask().allowed
    assert world.command("STRLEN", new.name()) < both / 2, "until it is empty"


def test_all_or_nothing_over_rates_and_cap(runner):
    limiter = window(runner, Rate(5, 1.0), Rate(8, 60.0), concurrency=1)
    assert limiter.request("a", 5).allowed
    before = limiter.bytes()
    assert limiter.request("a", 1).bound_by == "5/s"
    limiter.wait(S)
    assert limiter.request("a", 4).bound_by == "8/m"
    assert limiter.request("b", 3).bound_by == "concurrency"
    assert limiter.bytes() == before
    decision = limiter.request("a", 3)
    assert (decision.allowed, decision.remaining, us(decision.reset_after)) == (True, 0, 60 * S)


def test_an_owner_whose_lease_ran_out_queues_like_everybody(runner):
    limiter = window(runner, concurrency=1, lease=10.0)
    assert limiter.request("late").allowed
    limiter.wait(10 * S)
    assert limiter.request("next").allowed
    # As if nobody's write had removed it.
    limiter.world.command("ZADD", limiter.name("leases"), START + 10 * S, "late")
    assert limiter.request("late").bound_by == "concurrency"
    assert limiter.request("next").allowed


def test_what_is_asked_for_together_is_bound_by_the_longest_wait(runner):
    limiter = window(runner, Rate(2, 1.0), Rate(2, 60.0))
    limiter.ask(2)
    decision = limiter.ask()
    assert (decision.bound_by, us(decision.retry_after)) == ("2/m", 60 * S)


def test_units_are_decided_together_and_apart(runner):
    limiter = window(runner, "5/s", "100 tokens/s", "150 tokens/m")
    assert limiter.ask(tokens=100).allowed
    before = limiter.stored()
    assert limiter.ask(tokens=1).bound_by == "100 tokens/s"
    assert limiter.stored() == before
    limiter.wait(S)
    assert limiter.ask(cost=4, tokens=51).bound_by == "150 tokens/m"
    assert limiter.ask(cost=4, tokens=50).allowed
    usage = [(each.rate, each.remaining) for each in limiter.usage().rates]
    assert usage == [("5/s", 1), ("100 tokens/s", 50), ("150 tokens/m", 0)]


def test_amounts_at_the_end_of_what_counts_exactly(runner):
    limiter = window(runner, Rate(2**53, 1.0))
    assert limiter.ask(2**53 - 1).allowed
    assert not limiter.ask(2).allowed
    assert limiter.ask(1).allowed
    assert not limiter.ask(1).allowed
