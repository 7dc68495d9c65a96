"""count="response" on a real server whose clock the test sets: what counts until its response has come.

A charge counts from its decision until T after its slot's end; where the holder was killed or cut off, until T after
its lease's end. The checker adds up what counts at each moment, by the times at which it really happened.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.limits_model import Act, Held, Limiter, S, World, most_at_once, runner_on, us
from workerkit.core.rates import parse_rate

LEASE = 2 * S


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def exact(runner, *rates, lease=LEASE / S, **options):
    return Limiter(World(runner), *rates, lease=lease, **options)


def test_the_checker_sees_what_overlaps():
    acts = [Act(0, 3, end=10), Act(14, 2, end=14), Act(15, 4, end=20, real=1), Act(19, 5)]
    assert most_at_once(acts, 5) == 9
    assert most_at_once(acts, 6) == 11
    assert most_at_once([*acts, Act(15, 1, end=15)], 5) == 10


class Fleet:
    """Holders of exact slots, of plain ones and callers without one; some are killed."""

    def __init__(self, limiter):
        self.limiter, self.world = limiter, limiter.world
        self.running: list[tuple[Held, int]] = []  # with their lease's end
        self.acts: list[Act] = []

    def admitted(self, act):
        self.acts.append(act)
        return act

    def enter(self, cost, **units):
        before = self.limiter.stored()
        held = self.limiter.enter(cost, exact=True, **units)
        if isinstance(held, Held):
            self.admitted(held.act).end = self.world.true + LEASE  # unless it is renewed, or ends before
            self.running.append((held, held.act.end))
        else:
            assert self.limiter.stored() == before, "a refusal changed something"
        return held

    def plain(self, cost, **units):
        before = self.limiter.stored()
        decision = self.limiter.ask(cost, **units)
        if decision.allowed:
            self.admitted(self.limiter.admitted()[-1]).end = self.world.true
        else:
            assert self.limiter.stored() == before, "a refusal changed something"
        return decision

    def lost(self, cost, executed, cleaned, **units):
        act = self.limiter.enter_in_vain(cost, executed=executed, cleaned=cleaned, **units)
        if act:
            self.admitted(act).end = self.world.true + (0 if cleaned else LEASE)

    def renew(self):
        for place, (held, ends) in enumerate(self.running):
            assert held.renew() == (self.world.true < ends)
            if self.world.true < ends:
                held.act.end = self.world.true + LEASE
                self.running[place] = (held, held.act.end)

    def end(self, which, real=None):
        if not self.running:
            return
        held, ends = self.running.pop(which % len(self.running))
        if real is None:
            held.end()
        else:
            held.end(cost=min(real, held.act.cost))
        held.act.end = min(ends, self.world.true)
        if self.world.true >= ends + max(rate.period_us for rate in self.limiter.rates):
            held.act.real = None  # too late to say

    def kill(self, which):
        if self.running:
            self.running.pop(which % len(self.running))

    @property
    def alive(self):
        return any(act.end > self.world.true for act in self.acts)


RATES = st.sampled_from([("5/s",), ("9/s", "20/10s"), ("40/s",), ("100/2s", "130/11s"), ("1/s",), ("3/500ms", "7/3s")])
GAPS = st.one_of(st.just(0), st.integers(1, 3), st.integers(0, S // 4), st.integers(0, 3 * S))
COSTS = st.one_of(st.just(1), st.integers(1, 9), st.sampled_from([20, 60]))
NUMBERS = st.integers(0, 40)
MOVES = st.one_of(
    st.tuples(st.just("enter"), COSTS, st.none()),
    st.tuples(st.just("enter"), COSTS, st.none()),
    st.tuples(st.just("plain"), COSTS, st.none()),
    st.tuples(st.just("lost"), COSTS, st.sampled_from([(True, True), (True, False), (False, True)])),
    st.tuples(st.just("end"), NUMBERS, st.one_of(st.none(), st.integers(0, 9))),
    st.tuples(st.just("end"), NUMBERS, st.none()),
    st.tuples(st.just("kill"), NUMBERS, st.none()),
    st.tuples(st.just("renew"), NUMBERS, st.none()),
)
TRACES = st.lists(st.tuples(GAPS, MOVES), max_size=60)


def move(fleet, what, number, more, most):
    if what in {"enter", "plain"}:
        getattr(fleet, what)(min(number, most))
    elif what == "lost":
        fleet.lost(min(number, most), *more)
    elif what == "end":
        fleet.end(number, more)
    elif what == "kill":
        fleet.kill(number)
    else:
        fleet.renew()


def run(limiter, trace):
    fleet, most = Fleet(limiter), min(rate.amount for rate in limiter.rates)
    for gap, (what, number, more) in trace:
        limiter.wait(gap)
        move(fleet, what, number, more, most)
    return fleet


def check(fleet):
    for rate in fleet.limiter.rates:
        counted = most_at_once(fleet.acts, rate.period_us)
        assert counted <= rate.amount, f"{counted} at once of {rate}: {fleet.acts}"


def all_comes_back(fleet, keeper=0):
    """Everything ends; T after that the whole limit is there again."""
    limiter = fleet.limiter
    limiter.wait(LEASE)
    limiter.wait(max(rate.period_us for rate in limiter.rates))
    for each in limiter.usage().rates:
        assert (each.held, each.remaining) == (keeper, each.limit - keeper), "something was never given back"
    if not keeper:
        assert limiter.ask(min(rate.amount for rate in limiter.rates)).allowed


@settings(max_examples=150, deadline=None, print_blob=True)
@given(RATES, TRACES)
@example(("9/s",), [(0, ("enter", 5, None)), (LEASE + S // 2, ("enter", 4, None)), (S, ("end", 0, None)),
                    (S, ("enter", 9, None))])  # fmt: skip
def test_no_trace_has_more_than_n_count_at_once(runner, rates, trace):
    fleet = run(exact(runner, *rates), trace)
    check(fleet)
    all_comes_back(fleet)


@pytest.mark.heavy
@pytest.mark.timeless
@settings(max_examples=4000, deadline=None, print_blob=True)
@given(RATES, TRACES)
def test_no_trace_has_more_than_n_count_at_once_at_length(runner, rates, trace):
    fleet = run(exact(runner, *rates), trace)
    check(fleet)
    all_comes_back(fleet)


@settings(max_examples=80, deadline=None, print_blob=True)
@given(RATES, TRACES)
def test_waiting_retry_after_helps_when_nobody_is_at_work(runner, rates, trace):
    fleet = run(exact(runner, *rates), trace)
    if fleet.alive:
        fleet.limiter.wait(LEASE)
    smallest = min(rate.amount for rate in fleet.limiter.rates)
    for cost in (1, smallest):
        decision = fleet.plain(cost)
        if not decision.allowed:
            fleet.limiter.wait(us(decision.retry_after))
            assert fleet.limiter.peek(cost).allowed
    check(fleet)


@pytest.mark.parametrize("seed", range(6))
def test_a_busy_fleet_keeps_the_promise(runner, seed):
    """Denser than what hypothesis tries: hardly ever idle, and long."""
    print("seed", seed)
    chance = random.Random(seed)
    rates = [("5/s",), ("9/s", "20/10s"), ("40/s",), ("100/2s", "130/11s"), ("1/3s",), ("3/500ms", "7/3s")][seed]
    trace = []
    for _ in range(500):
        what = chance.choices(["enter", "plain", "lost", "end", "kill", "renew"], [12, 4, 2, 7, 2, 4])[0]
        more = chance.choice([(True, True), (True, False), (False, True)]) if what == "lost" else None
        more = chance.choice([None, None, 0, 1, 5]) if what == "end" else more
        gap = chance.choice([0, chance.randint(0, S // 20), chance.randint(0, S // 2), chance.randint(0, 3 * S)])
        trace.append((gap, (what, chance.randint(0 if what == "end" else 1, 9), more)))
    fleet = run(exact(runner, *rates), trace)
    check(fleet)
    all_comes_back(fleet)


DEFINED = ("10/s", "100 tokens/2s")


def steering(act, counted=None):
    """Something that steers, and the rates that count after it (None: those from before)."""

    def steer(limiter, rates):
        act(limiter)
        return counted or rates

    return steer


def configured(*rates):
    return steering(lambda limiter: limiter.configure(*rates), rates or DEFINED)


STEER = {
    "reset": steering(lambda limiter: limiter.reset()),
    "lose": steering(lambda limiter: limiter.world.command("DEL", limiter.name())),
    "slow": configured("5/s", "50 tokens/3s"),
    "other": configured("8/1500ms", "60 tokens/700ms"),
    "plainly": configured(),
}


def wait_renewing(limiter, keeper, gap):
    for _ in range(-(-gap // S)):
        limiter.wait(gap // -(-gap // S))
        assert keeper.renew()


STEERED = st.lists(
    st.tuples(
        GAPS,
        st.one_of(
            MOVES,
            MOVES,
            MOVES,
            st.tuples(st.sampled_from(sorted(STEER)), NUMBERS, st.none()),
        ),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(STEERED)
@example([(0, ("enter", 5, None)), (0, ("reset", 0, None)), (0, ("enter", 5, None)), (0, ("end", 0, None)),
          (S + 1, ("enter", 9, None))])  # fmt: skip
@example([(0, ("enter", 9, None)), (0, ("other", 0, None)), (0, ("end", 0, None)), (0, ("plainly", 0, None))])
@example([(0, ("other", 0, None)), (0, ("enter", 9, None)), (0, ("plainly", 0, None)), (0, ("enter", 9, None)),
          (0, ("end", 0, None)), (2 * S, ("enter", 9, None))])  # fmt: skip
def test_steering_in_between_loses_nothing_for_ever_and_admits_a_burst_at_most(runner, trace):
    """Reset, a loss of the state, other rates for this key: what is admitted after each keeps to the rates by itself.

    Somebody holds one call all the time, so that no sum is put right by everybody's being gone.
    """
    limiter = exact(runner, *DEFINED)
    keeper = limiter.enter(1, exact=True, tokens=1)
    fleet = Fleet(limiter)
    segments, rates, first = [], DEFINED, 0
    for gap, (what, number, more) in trace:
        wait_renewing(limiter, keeper, gap)
        if what in STEER:
            segments.append((fleet.acts[first:], rates))
            rates, first = STEER[what](limiter, rates), len(fleet.acts)
        elif what in {"enter", "plain"}:
            getattr(fleet, what)(min(number, 5), tokens=10 * min(number, 5))
        elif what == "lost":
            fleet.lost(min(number, 5), *more, tokens=10 * min(number, 5))
        else:
            move(fleet, what, number, None, 5)
    for acts, kept in [*segments, (fleet.acts[first:], rates)]:
        for rate in map(parse_rate, kept):
            most = most_at_once(acts, rate.period_us) * (10 if rate.unit else 1)
            assert most <= rate.amount, f"{most} at once of {rate}: {acts}"
    limiter.configure()
    wait_renewing(limiter, keeper, 8 * S)
    limiter.enter(1, exact=True, tokens=1)  # whoever comes next puts right what a loss has forgotten
    for each in limiter.usage().rates:
        assert (each.held, each.remaining) == (2, each.limit - 2), "something was never given back"


STEPS = st.one_of(st.just(0), st.just(0), st.integers(-3, 3), st.integers(-90 * S, 90 * S), st.just(-(3 * 10**13)))


@settings(max_examples=80, deadline=None, print_blob=True)
@given(RATES, st.lists(st.tuples(GAPS, MOVES, STEPS), max_size=40))
def test_a_clock_that_jumps_locks_nobody_out(runner, rates, trace):
    limiter = exact(runner, *rates)
    fleet, most = Fleet(limiter), min(rate.amount for rate in limiter.rates)
    for gap, (what, number, more), step in trace:
        limiter.wait(gap)
        limiter.world.set_clock(step)
        if what == "enter":
            held = limiter.enter(min(number, most), exact=True)
            fleet.running += [(held, 0)] if isinstance(held, Held) else []
        elif what == "plain":
            limiter.ask(min(number, most))
        elif what == "renew":
            for held, _ in fleet.running:
                held.renew()
        elif what != "lost":
            move(fleet, what, number, more, most)
    longest = max(rate.period_us for rate in limiter.rates)
    for _ in range(2):  # once until what is known of leases has been put right, once until their period has passed
        limiter.ask(most)
        limiter.wait(LEASE + longest)
    assert limiter.ask(most).allowed


def test_a_slow_answer_counts_until_it_came_and_a_period_longer(runner):
    limiter = exact(runner, "2/s")
    first, second = limiter.enter(exact=True), limiter.enter(exact=True)
    limiter.wait(LEASE - 1)
    assert first.renew()
    assert second.renew()
    refused = limiter.enter(exact=True)
    assert refused.bound_by == "2/s"
    assert 0 < refused.retry_after < 0.1, "nobody can know"
    first.end()
    limiter.wait(S - 1)
    assert us(limiter.enter(exact=True).retry_after) == 1
    limiter.wait(1)
    assert limiter.enter(exact=True).decision.allowed


@pytest.mark.parametrize("period", [1, 10, 3600])
def test_a_killed_holder_counts_until_its_lease_ends_and_a_period_longer(runner, period):
    limiter = exact(runner, f"1/{period}s")
    limiter.enter(exact=True)
    limiter.wait(LEASE)
    assert us(limiter.ask().retry_after) == period * S
    limiter.wait(period * S - 1)
    assert us(limiter.ask().retry_after) == 1
    limiter.wait(1)
    assert limiter.ask().allowed


def test_a_long_hold_is_remembered_however_long(runner):
    limiter = exact(runner, "1/10m")
    held = limiter.enter(exact=True)
    for _ in range(700):
        limiter.wait(S)
        assert held.renew()
    limiter.wait(LEASE + 600 * S - 1)
    assert us(limiter.ask().retry_after) == 1
    limiter.wait(1)
    assert limiter.ask().allowed


def test_a_long_hold_under_configured_rates_is_remembered_as_long(runner):
    limiter = exact(runner, "1/s")
    limiter.configure("1/10m")
    held = limiter.enter(exact=True)
    for _ in range(700):
        limiter.wait(S)
        assert held.renew()
    limiter.wait(LEASE + 600 * S - 1)
    assert us(limiter.ask().retry_after) == 1


@pytest.mark.parametrize("how", ["ended", "killed", "mixed"])
def test_all_of_a_large_limit_comes_back_while_others_go_on(runner, how):
    limiter = exact(runner, "500/s")
    keeper, fleet = limiter.enter(exact=True), Fleet(limiter)
    for turn in range(300):
        fleet.enter(1 + turn % 7)
        if how == "ended" or (how == "mixed" and turn % 3):
            fleet.end(0)
        else:
            fleet.kill(0)
        limiter.wait(S // 50)
        if turn % 20 == 0:
            assert keeper.renew()
    for _ in range(4):
        assert keeper.renew()
        limiter.wait(S)
    assert [(each.held, each.remaining) for each in limiter.usage().rates] == [(1, 499)]
    check(fleet)


def test_inside_a_slot_of_the_same_task_no_second_place_is_taken(runner):
    limiter = exact(runner, "9/s", concurrency=2)
    limiter.configure(concurrency=1)
    outer = limiter.enter()
    inner = limiter.enter(leased=False)
    assert inner.decision.allowed, "a cap that was configured is none for who takes no place"
    inner.end()
    assert limiter.usage().holders == 1
    outer.end()
    assert limiter.usage().holders == 0


HOLDS = st.lists(
    st.tuples(
        GAPS,
        st.one_of(
            st.tuples(st.sampled_from(["enter", "enter", "plainly"]), NUMBERS),
            st.tuples(st.sampled_from(["end", "settle", "kill", "renew"]), NUMBERS),
        ),
    ),
    max_size=50,
)


@settings(max_examples=120, deadline=None, print_blob=True)
@given(st.integers(1, 4), st.sampled_from([(), ("1000/s",)]), HOLDS)
def test_there_are_never_more_holders_than_the_cap(runner, cap, rates, trace):
    """With slots that count until their response and plain ones on one key; refused only when all places are taken."""
    limiter = exact(runner, *rates, concurrency=cap)
    running, holds = [], []
    for gap, (what, number) in trace:
        limiter.wait(gap)
        now = limiter.world.true
        if what in {"enter", "plainly"}:
            before = limiter.stored()
            held = limiter.enter(exact=bool(rates) and what == "enter")
            if isinstance(held, Held):
                held.act.end = now + LEASE
                holds.append(held.act)
                running.append(held)
            else:
                assert held.bound_by == "concurrency"
                assert limiter.stored() == before, "a refusal changed something"
                assert sum(act.end > now for act in holds) == cap, "refused with a place free"
        elif what == "renew":
            for held in running:
                if held.renew():
                    held.act.end = now + LEASE
        elif running:
            held = running.pop(number % len(running))
            if what != "kill":
                held.end(**({"cost": 1} if what == "settle" and rates else {}))
                held.act.end = min(held.act.end, now)
                held.act.real = None
    assert most_at_once(holds, 0) <= cap
    limiter.wait(LEASE)
    assert limiter.usage().holders == 0
    assert [isinstance(limiter.enter(), Held) for _ in range(cap + 1)] == [True] * cap + [False]


def test_slots_are_used(runner):
    """Four fifths of the time at the called API, one fifth elsewhere: what is free is used."""
    limiter = exact(runner, "200/s")
    start, begun, done = limiter.world.true, [], 0
    while limiter.world.true < start + 10 * S:
        held = limiter.enter(exact=True)
        if isinstance(held, Held):
            begun.append((limiter.world.true + S // 50, held))
            done += 1
        else:
            limiter.wait(S // 200)
        while begun and begun[0][0] <= limiter.world.true:
            begun.pop(0)[1].end()
    share = done / 2000
    print(f"at 20 ms an answer: {share:.1%}")
    assert share >= 0.95
