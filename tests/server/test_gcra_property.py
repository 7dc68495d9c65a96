"""GCRA on a real server whose clock the test sets: at most b + rate x t in any t, by what was really used.

The checker looks at every window between two calls, at the times they were made. Reservations are calls at their own
time; what was settled counts at what was really used; a reservation that was given back counts nothing.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.limits_model import Act, Limiter, S, World, runner_on, us, walk, worst_burst
from workerkit.core.rates import Rate


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def paced(runner, *rates, **options):
    return Limiter(World(runner), *rates, algorithm="gcra", **options)


def check(limiter, key="k", bursts=1):
    for rate in limiter.rates:
        worst = worst_burst(limiter.admitted(key), rate.amount, rate.period_us)
        allowed = limiter.definition.most(rate) * rate.period_us * bursts
        assert worst <= allowed, f"{rate}: {worst / rate.period_us} in a burst: {limiter.admitted(key)}"


def test_the_checker_sees_a_burst():
    acts = [Act(0, 3), Act(10, 3)]
    assert worst_burst(acts, 1, 10) == 50, "6 in t=10, where 1 is allowed"
    assert worst_burst([Act(at * 10, 1) for at in range(100)], 1, 10) == 10


RATES = st.lists(
    st.builds(
        Rate,
        st.one_of(st.integers(1, 12), st.sampled_from([30, 97, 1000, 10**6, 2**40])),
        st.sampled_from([0.01, 1.0, 2.5, 61.0, 3600.0, 86400.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=Rate.period.__get__,
)
BURSTS = st.one_of(st.none(), st.integers(1, 12))
GAPS = st.one_of(st.just(0), st.integers(1, 3), st.integers(0, S // 8), st.integers(0, 3 * S), st.just(600 * S))


@settings(max_examples=100, deadline=None, print_blob=True)
@given(RATES, BURSTS, st.lists(st.tuples(GAPS, st.integers(1, 12), st.sampled_from("ab"), st.booleans()), max_size=60))
def test_no_trace_breaks_a_promise(runner, rates, burst, trace):
    limiter = paced(runner, *rates, burst=burst)
    walk(limiter, trace, min(map(limiter.definition.most, rates)))
    check(limiter, "a")
    check(limiter, "b")


MOVES = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 12), st.just(0)),
    st.tuples(st.just("reserve"), st.integers(1, 12), st.sampled_from([0.5, 3.0, 30.0, 10**6])),
    st.tuples(st.just("cancel"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("settle"), st.integers(0, 50), st.integers(0, 12)),
)


def play(limiter, trace):
    """Reserve, ask, settle and cancel at random; what was settled or cancelled is so only once."""
    most, world = min(map(limiter.definition.most, limiter.rates)), limiter.world
    open_ = []
    for gap, (move, number, more) in trace:
        limiter.wait(gap)
        if move in {"ask", "reserve"}:
            cost = min(number, most)
            before = limiter.stored()
            reservation, act = limiter.reserve(cost, within=more if move == "reserve" else 0.0)
            if act is None:
                assert limiter.stored() == before, "a refusal changed something"
            else:
                assert reservation.delay <= more
                open_.append((reservation, act))
            continue
        if not open_:
            continue
        reservation, act = open_.pop(number % len(open_))
        if move == "settle" and act.at <= world.true:
            act.cost = min(more, act.cost)  # the promise holds for estimates that are not too low
            limiter.settle(reservation.stamp, reservation.charged[0], act.cost)
        elif act.at > world.true:
            act.cost = 0
            limiter.cancel(reservation)


PLAYED = st.lists(st.tuples(GAPS, MOVES), max_size=70)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(RATES, BURSTS, PLAYED)
@example([Rate(1, 1.0)], None, [(0, ("reserve", 1, 30.0))] * 5 + [(0, ("cancel", 1, 0)), (0, ("reserve", 1, 30.0))] * 3)
def test_settling_and_cancelling_let_no_more_in(runner, rates, burst, trace):
    limiter = paced(runner, *rates, burst=burst)
    play(limiter, trace)
    check(limiter)


@pytest.mark.heavy
@pytest.mark.timeless
@settings(max_examples=5000, deadline=None, print_blob=True)
@given(RATES, BURSTS, PLAYED)
def test_settling_and_cancelling_let_no_more_in_at_length(runner, rates, burst, trace):
    limiter = paced(runner, *rates, burst=burst)
    play(limiter, trace)
    check(limiter)


@pytest.mark.parametrize("seed", range(4))
def test_a_busy_limiter_keeps_its_bound_whatever_is_given_back(runner, seed):
    """Denser than what hypothesis tries: hardly ever idle, everything settled or cancelled in the end."""
    print("seed", seed)
    chance = random.Random(seed)
    rates = [(Rate(10, 1.0),), (Rate(100, 1.0), Rate(2000, 60.0)), (Rate(3, 1.0), Rate(7, 2.5)), (Rate(1000, 3600.0),)]
    limiter = paced(runner, *rates[seed], burst=chance.randint(1, 10))
    gap = rates[seed][0].period_us // rates[seed][0].amount
    trace = []
    for _ in range(800):
        move = chance.choices(["ask", "reserve", "cancel", "settle"], [10, 10, 4, 12])[0]
        more = chance.choice([0.5, 3.0, 10**6]) if move == "reserve" else chance.randint(0, 10)
        wait = chance.choice([0, 0, chance.randint(0, gap), chance.randint(0, 9 * gap)])
        trace.append((wait, (move, chance.randint(1, 10), more)))
    play(limiter, trace)
    check(limiter)


def test_what_is_given_back_can_be_used(runner):
    limiter = paced(runner, "10/s", burst=10)
    reservations = [limiter.reserve(5, within=60) for _ in range(4)]
    assert [round(each.delay, 6) for each, _ in reservations] == [0, 0, 0.5, 1.0]
    limiter.cancel(reservations[-1][0])
    assert limiter.reserve(5, within=60)[0].delay == 1.0, "the last was given back, as nobody came after it"
    one = paced(runner, "10/s", burst=10)
    slot = one.enter(10)
    one.wait(S // 2)
    slot.end(cost=1)
    assert one.peek(9).allowed
    assert not one.peek(10).allowed, "9 were given back, less the 5 that might have been let in since"


def test_reservations_are_in_order_and_at_the_pace(runner):
    limiter = paced(runner, "10/s", burst=3)
    delays = [limiter.reserve(within=3600)[0].delay for _ in range(50)]
    assert delays == [0, 0, 0, *(n / 10 for n in range(1, 48))]
    refused, act = limiter.reserve(within=4.75)
    assert act is None
    assert refused.decision.bound_by == "10/s"
    check(limiter)


@pytest.mark.parametrize("rate", ["10/10ms", "1/s", "1000000/s", "3/h", "1/365d"])
def test_what_lies_far_ahead_is_not_forgotten(runner, rate):
    """Not by an expiry, and not by numbers that are too large for their place."""
    limiter = paced(runner, rate, burst=1)
    period = limiter.rates[0].period_us
    ahead, largest = 0.0, 0
    for _ in range(300):
        limiter.world.command("FLUSHALL")
        limiter.world.wait(period)
        # A debt of `largest`, however it came about.
        if largest:
            slot = limiter.enter()
            slot.end(cost=largest)
        reservation, act = limiter.reserve(within=10**12)
        if act is None:
            assert reservation.decision.retry_after > 0
        else:
            assert reservation.delay >= ahead, f"after {largest} calls"
            ahead = reservation.delay
        left = limiter.world.command("PTTL", limiter.name())
        assert left >= (us(ahead) + period / limiter.rates[0].amount) // 1000, "forgotten while it counts"
        largest = min(2**53, largest * 4 // 3 + 1)
    assert ahead > 60, "far ahead"


def test_a_far_reservation_is_still_there_after_any_time(runner):
    limiter = paced(runner, "1/m", burst=1)
    for _ in range(10):
        limiter.reserve(within=10**6)
    for minute in range(9):
        assert limiter.world.command("PTTL", limiter.name()) >= (10 - minute) * 60_000 - 5
        assert not limiter.ask().allowed
        limiter.wait(60 * S)
        limiter.learn_nothing()  # writes the state again
    limiter.wait(60 * S)
    assert limiter.ask().allowed
    check(limiter)


@pytest.mark.parametrize(
    ("rate", "burst"),
    [("1/s", 1), ("7/d", 1), ("100/s", 1), ("100/s", 10), ("97/61s", 3), ("5000/s", 100), ("1000000/s", 50_000)],
)
def test_a_saturated_limit_is_used(runner, rate, burst):
    limiter = paced(runner, rate, burst=burst)
    cost = max(1, burst // 10)
    start, first = limiter.world.now, None
    for _ in range(600):
        decision = limiter.ask(cost)
        if not decision.allowed:
            first = first or (limiter.world.now, len(limiter.admitted()))
            limiter.wait(us(decision.retry_after))
    check(limiter)
    used = (len(limiter.admitted()) - first[1]) * cost
    share = used / ((limiter.world.now - start) * limiter.rates[0].amount / limiter.rates[0].period_us)
    print(f"{rate} burst {burst}: {share:.2%}")
    assert share >= 0.97


@pytest.mark.parametrize("rate", [Rate(10**12, 86400.0), Rate(10**9, 1.0), Rate(2**44, 3600.0)])
def test_large_amounts_are_used_too(runner, rate):
    limiter, cost = paced(runner, rate, burst=rate.amount // 100), rate.amount // 100
    limiter.ask(cost)
    wait = us(limiter.ask(cost).retry_after)
    exact = rate.period_us * cost / rate.amount
    assert exact <= wait <= exact * 1.03 + 1


STEPS = st.one_of(st.just(0), st.just(0), st.integers(-3, 3), st.integers(-90 * S, 90 * S), st.just(-(3 * 10**13)))


@settings(max_examples=80, deadline=None, print_blob=True)
@given(RATES, BURSTS, st.lists(st.tuples(GAPS, st.integers(1, 12), STEPS), max_size=50))
def test_a_clock_that_jumps_locks_nobody_out(runner, rates, burst, trace):
    limiter = paced(runner, *rates, burst=burst)
    most, ahead = min(map(limiter.definition.most, rates)), 0
    for gap, wish, step in trace:
        limiter.wait(gap)
        limiter.world.set_clock(step)
        ahead += step > 0
        cost = min(wish, most)
        decision = limiter.ask(cost)
        if not decision.allowed:
            assert us(decision.retry_after) <= max(rate.period_us for rate in rates) * 1.000001 + 1
            limiter.wait(us(decision.retry_after))
            assert limiter.ask(cost).allowed, "waiting did not help"
    check(limiter, bursts=1 + ahead)  # a jump ahead is time that passed, for all a server can tell


def test_a_change_of_the_amount_keeps_the_debt_in_time(runner):
    world = World(runner)
    slow, fast = (Limiter(world, Rate(amount, 60.0), algorithm="gcra", burst=1) for amount in (6, 6000))
    slow.ask()
    assert us(slow.ask().retry_after) == 10 * S
    assert 10 * S - 10_000 <= us(fast.ask().retry_after) <= 10 * S + 1
    world.wait(10 * S)
    assert fast.ask().allowed
    assert 0 < us(slow.ask().retry_after) <= 10_001
