"""Settlement on a real server whose clock the test sets: what is given back, and what is charged on top.

What is given back comes out of the record that holds the charge and of no other; what was not charged by what is there
now (before a reset, before a loss, in another window of the clock) is not given back at all.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.limits_model import START, Act, Held, Limiter, S, World, most_in_any, runner_on

ALGORITHMS = [("window", {}), ("fixed", {}), ("gcra", {"burst": 10})]


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def limiter_of(runner, *rates, **options):
    return Limiter(World(runner), *rates, **options)


def all_of(limiter, most=10_000):
    """How many calls are let in now."""
    return next(count for count in range(most) if not limiter.ask().allowed)


class Books:
    """Every charge as it stands: what was given back is taken off, what came on top is a charge of its own."""

    def __init__(self, limiter, same):
        self.limiter, self.same = limiter, same  # whether two times count together
        self.open, self.charges = [], []

    def enter(self, cost):
        held = self.limiter.enter(cost)
        if not isinstance(held, Held):
            return
        for rate in self.limiter.rates:
            counted = sum(each.cost for each in self.charges if self.same(each.at, held.act.at, rate.period_us))
            assert counted + cost <= rate.amount, f"{counted} were charged already: {self.charges}"
        self.charges.append(Act(held.act.at, cost))
        self.open.append((held, self.charges[-1]))

    def settle(self, which, real):
        if not self.open:
            return
        held, charge = self.open.pop(which % len(self.open))
        held.end(cost=real)
        if real > charge.cost:
            self.charges.append(Act(self.limiter.world.true, real - charge.cost))
        charge.cost = min(charge.cost, real)


def slides(earlier, later, period):
    return later - earlier < period


def same_window(earlier, later, period):
    return earlier // period == later // period


RATES = st.sampled_from([("5/s",), ("9/s", "20/10s"), ("40/s",), ("100/2s", "130/11s"), ("300/m",), ("1/s",)])
GAPS = st.one_of(st.just(0), st.integers(1, 3), st.integers(0, S // 16), st.integers(0, 3 * S))
TRACES = st.lists(
    st.tuples(
        GAPS,
        st.one_of(
            st.tuples(st.just("enter"), st.sampled_from([1, 1, 3, 5, 20, 60]), st.just(0)),
            st.tuples(st.just("settle"), st.integers(0, 30), st.sampled_from([0, 0, 1, 2, 5, 30, 90])),
        ),
    ),
    max_size=70,
)


def play(books, trace):
    most = min(rate.amount for rate in books.limiter.rates)
    for gap, (what, number, real) in trace:
        books.limiter.wait(gap)
        if what == "enter":
            books.enter(min(number, most))
        else:
            books.settle(number, real)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(RATES, TRACES)
@example(
    ("40/s",), [(0, ("enter", 20, 0)), (S // 2, ("enter", 20, 0)), (0, ("settle", 0, 0)), (S // 2, ("enter", 60, 0))]
)
def test_what_is_given_back_comes_out_of_its_own_record(runner, rates, trace):
    play(Books(limiter_of(runner, *rates), slides), trace)


@settings(max_examples=100, deadline=None, print_blob=True)
@given(RATES, TRACES)
def test_what_is_given_back_comes_out_of_its_own_clock_window(runner, rates, trace):
    play(Books(limiter_of(runner, *rates, algorithm="fixed"), same_window), trace)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("algorithm", ["window", "fixed"])
def test_books_are_kept_under_load(runner, algorithm, seed):
    print("seed", seed)
    chance = random.Random(seed)
    rates = [("5/s",), ("9/s", "20/10s"), ("40/s",), ("100/2s", "130/11s"), ("300/m",), ("33/s",)][seed]
    limiter = limiter_of(runner, *rates, algorithm=algorithm)
    books = Books(limiter, slides if algorithm == "window" else same_window)
    trace = []
    for _ in range(600):
        gap = chance.choice([0, 0, chance.randint(0, 3), chance.randint(0, S // 16), chance.randint(0, S // 2)])
        if chance.random() < 0.6:
            trace.append((gap, ("enter", chance.choice([1, 1, 2, 5, 9, 20]), 0)))
        else:
            trace.append((gap, ("settle", chance.randrange(30), chance.choice([0, 0, 0, 1, 2, 5, 12]))))
    play(books, trace)
    assert len(books.charges) > 30


@pytest.mark.parametrize("rate", ["4/s", "40/s"])
def test_what_has_left_the_window_is_not_given_back(runner, rate):
    """The oldest record that is there is another's, and would be taken out of."""
    limiter = limiter_of(runner, rate)
    half = limiter.rates[0].amount // 2
    old = limiter.enter(half)
    limiter.wait(S // 2)
    assert limiter.ask(half).allowed
    limiter.wait(S // 2)
    assert limiter.ask(half).allowed
    old.end(cost=0)
    assert not limiter.ask().allowed


@pytest.mark.parametrize("rate", ["5/m", "32/m", "33/m"])
def test_any_number_of_settlements_leaves_no_heap_of_records(runner, rate):
    """Each of those that use nothing in the end would be a record of its own: more than can be counted in a byte."""
    limiter = limiter_of(runner, rate)
    amount = limiter.rates[0].amount
    for turn in range(700):
        limiter.enter().end(cost=0)
        limiter.wait(10_000)
        if turn % 70 == 0:
            assert limiter.peek(amount).allowed
    assert all_of(limiter) == amount
    assert limiter.world.command("STRLEN", limiter.name()) < 400
    assert limiter.ask().retry_after > 59


def test_debts_leave_no_heap_of_records(runner):
    limiter = limiter_of(runner, "5/s")
    held = []
    for _ in range(80):
        held += [limiter.enter() for _ in range(5)]
        limiter.wait(S)
    for each in held:
        each.end(cost=2)
        limiter.wait(1000)
    assert not limiter.ask().allowed
    assert limiter.usage().rates[0].remaining == 0
    limiter.wait(S)
    assert all_of(limiter) == 5


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
@pytest.mark.parametrize("loss", ["reset", "loss"])
def test_what_was_charged_before_a_loss_is_not_given_back_after_it(runner, algorithm, options, loss):
    limiter = limiter_of(runner, "10/m", algorithm=algorithm, **options)
    limiter.wait(60 * S - START % (60 * S))  # the beginning of one of the clock's minutes
    held = [limiter.enter(5), limiter.enter(5)]
    limiter.wait(1)
    limiter.reset() if loss == "reset" else limiter.world.command("DEL", limiter.name())
    limiter.wait(1)
    assert all_of(limiter) == 10
    for each in held:
        each.end(cost=0)
    assert all_of(limiter) == 0


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_what_is_given_back_at_once_can_be_used_at_once(runner, algorithm, options):
    limiter = limiter_of(runner, "10/m", algorithm=algorithm, **options)
    held = limiter.enter(10)
    assert not limiter.ask().allowed
    held.end(cost=3)
    assert all_of(limiter) == 7


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_a_debt_above_the_limit_is_paid_before_anybody_is_let_in(runner, algorithm, options):
    limiter = limiter_of(runner, "10/m", algorithm=algorithm, **options)
    limiter.wait(60 * S - START % (60 * S))
    limiter.enter(1).end(cost=35)
    refused = limiter.ask()
    assert not refused.allowed
    expected = {"window": 60, "fixed": 60, "gcra": 6 * (35 + 1 - 10)}[algorithm]
    assert refused.retry_after == pytest.approx(expected, abs=0.001)
    limiter.wait(round(refused.retry_after * S))
    assert limiter.ask().allowed


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_debts_beyond_all_numbers_never_open_it(runner, algorithm, options):
    limiter = limiter_of(runner, "10/m", algorithm=algorithm, **options)
    limiter.wait(60 * S - START % (60 * S))
    held = [limiter.enter(1) for _ in range(10)]
    for each in held:
        each.end(cost=2**53)
        assert limiter.world.command("PTTL", limiter.name()) > 59_000
        assert not limiter.ask().allowed
        assert limiter.usage().rates[0].remaining == 0


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
@pytest.mark.parametrize("step", [-3600 * S, -30 * S, -1, 1, 30 * S, 3600 * S])
def test_a_refund_under_a_clock_that_was_set_lets_in_a_burst_more_at_most(runner, algorithm, options, step):
    limiter = limiter_of(runner, "10/m", algorithm=algorithm, **options)
    held, acts = [], []
    for _ in range(10):
        held.append(limiter.enter(1))
        limiter.wait(S)
    limiter.world.set_clock(step)
    for each in held:
        each.end(cost=0)
        limiter.wait(S // 10)
        while limiter.ask().allowed:
            acts.append(Act(limiter.world.true, 1))
    limiter.wait(30 * S)
    while limiter.ask().allowed:
        acts.append(Act(limiter.world.true, 1))
    bound = {"window": 10, "fixed": 20, "gcra": 20}[algorithm]
    assert most_in_any(acts, 60 * S) <= bound + 10


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_a_charge_by_another_clock_is_not_given_back(runner, algorithm, options):
    limiter = limiter_of(runner, "10/m", algorithm=algorithm, **options)
    held = limiter.enter(10)
    limiter.world.set_clock(-3600 * S)
    assert not limiter.ask().allowed
    limiter.wait(60 * S)
    assert all_of(limiter) == 10
    held.end(cost=0)
    assert all_of(limiter) == 0


def test_each_unit_is_settled_by_itself(runner):
    limiter = limiter_of(runner, "10/m", "1000 tokens/m", "3000 tokens/h")
    held = limiter.enter(2, tokens=800)
    held.slot.settle(tokens=100)
    held.end()
    assert [each.remaining for each in limiter.usage().rates] == [8, 900, 2900]
    held = limiter.enter(2, tokens=800)
    held.end(cost=0)
    assert [each.remaining for each in limiter.usage().rates] == [8, 100, 2100]


def test_a_settled_slot_gives_up_its_lease_too(runner):
    limiter = limiter_of(runner, "10/m", concurrency=1)
    held = limiter.enter(5)
    assert limiter.enter(1).bound_by == "concurrency"
    held.end(cost=1)
    assert limiter.usage().holders == 0
    assert limiter.enter(9).decision.allowed
