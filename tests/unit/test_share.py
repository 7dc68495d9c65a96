"""The share of a limiter in one process, against a brute-force checker that slides a window over every admission."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workerkit.core.rates import Rate, parse_rates
from workerkit.limits import share as shares
from workerkit.limits.share import Share

TICK = 1 / 1024  # times of the tests are exact as floats


class Clocked:
    """A share under a clock of our own; remembers what was admitted, by key."""

    def __init__(self, *rates, concurrency=None, margin=0.0):
        self.now = 1000.0
        self.rates = rates
        self.share = Share(rates, concurrency, clock=lambda: self.now, margin=margin)
        self.admitted = {}

    def ask(self, *costs, part="k", live=1):
        decision = self.share.try_acquire(part, costs, live)
        if decision.allowed:
            self.admitted.setdefault(part, []).append((self.now, costs))
        return decision

    def in_last(self, period, i, part="k"):
        return sum(costs[i] for at, costs in self.admitted.get(part, []) if at > self.now - period)

    def most_in_any(self, period, i, part="k"):
        log = self.admitted.get(part, [])
        return max((sum(c[i] for at, c in log if start <= at < start + period) for start, _ in log), default=0)


def term(rate, live):
    """What a process may admit in what time."""
    if rate.amount >= live:
        return rate.period, rate.amount // live
    return rate.period * -(-live // rate.amount), 1


RATES = st.lists(
    st.builds(
        Rate,
        st.one_of(st.integers(1, 8), st.integers(30, 70), st.integers(250, 300)),
        st.sampled_from([0.125, 1.0, 2.5, 61.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda rate: rate.period,
)
COSTS = st.tuples(*[st.one_of(st.integers(0, 3), st.sampled_from([10, 30, 100]))] * 3)
GAPS = st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 3000), st.sampled_from([128, 1024, 2560, 65536]))
TRACES = st.lists(st.tuples(GAPS, COSTS, st.sampled_from("ab"), st.booleans()), min_size=1, max_size=80)


@settings(max_examples=300)
@given(RATES, st.one_of(st.integers(1, 3), st.integers(1, 12)), TRACES)
def test_no_trace_passes_the_share(rates, live, trace):
    limiter = Clocked(*rates)
    terms = [term(rate, live) for rate in rates]
    for gap, wish, part, waits in trace:
        limiter.now += gap * TICK
        costs = wish[: len(rates)]
        decision = limiter.ask(*costs, part=part, live=live)
        if decision.allowed:
            assert (decision.bound_by, decision.retry_after) == ("local", 0.0)
            continue
        assert decision.bound_by in map(str, rates)
        assert decision.retry_after > 0
        if any(cost > share for cost, (_, share) in zip(costs, terms, strict=True)):
            assert decision.retry_after >= min(period for period, _ in terms)
            continue
        if all(share <= 32 for _, share in terms):  # nothing was merged: refused only what had to be
            assert any(
                cost and limiter.in_last(period, i, part) + cost > share
                for i, (cost, (period, share)) in enumerate(zip(costs, terms, strict=True))
            )
        if waits:
            began = limiter.now
            limiter.now = began + decision.retry_after - TICK
            if decision.retry_after > TICK:
                assert not limiter.ask(*costs, part=part, live=live).allowed, "retry_after was too long"
            limiter.now = began + decision.retry_after
            assert limiter.ask(*costs, part=part, live=live).allowed, "retry_after was too short"
    for part in "ab":
        for i, (period, share) in enumerate(terms):
            assert limiter.most_in_any(period, i, part) <= share


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5), st.integers(1, 9)), max_size=80))
def test_each_admission_is_within_the_share_of_its_time(amount, trace):
    limiter = Clocked(Rate(amount, 1.0))
    for gap, cost, live in trace:
        limiter.now += gap * TICK
        if limiter.ask(cost, live=live).allowed and live <= amount:
            assert limiter.in_last(1.0, 0) <= amount // live


def test_a_share_is_the_whole_part_of_the_amount():
    limiter = Clocked(*parse_rates("11/s"))
    assert [limiter.ask(1, live=4).remaining for _ in range(3)] == [1, 0, 0]
    decision = limiter.ask(1, live=4)
    assert (decision.allowed, decision.bound_by) == (False, "11/s")
    assert decision.retry_after == pytest.approx(1.0)
    assert decision.reset_after == pytest.approx(1.0)
    assert limiter.ask(1, live=3).allowed, "one process less"


def test_less_than_one_each_is_one_in_several_periods():
    limiter = Clocked(*parse_rates("2/s"))
    assert limiter.ask(1, live=5).allowed
    decision = limiter.ask(1, live=5)
    assert not decision.allowed
    assert decision.retry_after == pytest.approx(3.0)
    limiter.now += 3.0
    assert limiter.ask(1, live=5).allowed


def test_all_rates_admit_or_none_is_charged():
    limiter = Clocked(*parse_rates("4/s", "10/m"))
    assert limiter.ask(2, 6).allowed
    assert limiter.ask(1, 5).bound_by == "10/m"
    assert limiter.ask(2, 4).allowed, "the refusal charged a rate"
    both = limiter.ask(1, 1)
    assert (both.bound_by, both.retry_after) == ("10/m", pytest.approx(60.0))


def test_a_cost_above_the_share_is_refused_for_a_period():
    limiter = Clocked(*parse_rates("10/s"))
    for _ in range(3):
        decision = limiter.ask(6, live=2)
        assert (decision.allowed, decision.bound_by, decision.retry_after) == (False, "10/s", 1.0)
        limiter.now += decision.retry_after
    assert limiter.ask(5, live=2).allowed


def test_what_costs_nothing_is_not_refused_nor_counted():
    limiter = Clocked(*parse_rates("1/s"))
    assert limiter.ask(1).allowed
    assert all(limiter.ask(0).allowed for _ in range(50))
    assert len(limiter.share._parts["k"][0].records) == 1
    limiter.now += 1.0
    assert limiter.ask(1).allowed
    two = Clocked(*parse_rates("2/s"))
    two.ask(2)
    assert two.ask(0, live=2).allowed, "above the share since a process joined"


def test_a_fleet_of_none_is_this_process_alone():
    limiter = Clocked(*parse_rates("2/s"), concurrency=1)
    assert [limiter.ask(1, live=0).allowed for _ in range(3)] == [True, True, False]
    assert [limiter.share.hold("k", 0) for _ in range(2)] == [True, False]


def test_up_to_32_every_admission_leaves_in_its_own_time():
    limiter = Clocked(*parse_rates("32/s"))
    for _ in range(32):
        assert limiter.ask(1).allowed
        limiter.now += TICK
    limiter.now = 1001.0
    for _ in range(32):
        assert [limiter.ask(1).allowed for _ in range(2)] == [True, False]
        limiter.now += TICK


def test_the_margin_is_added_to_every_period():
    limiter = Clocked(*parse_rates("1/s"), margin=0.5)
    limiter.ask(1)
    limiter.now += 1.5 - TICK
    assert not limiter.ask(1).allowed
    limiter.now += TICK
    assert limiter.ask(1).allowed


def test_memory_is_bounded_and_the_share_is_used():
    limiter = Clocked(*parse_rates("150/125ms"))
    for _ in range(512):  # evenly, below the limit
        assert limiter.ask(1).allowed
        limiter.now += TICK
    assert 32 <= len(limiter.share._parts["k"][0].records) <= 34
    began, before = limiter.now, len(limiter.admitted["k"])
    while limiter.now < began + 8 * 0.125:
        while limiter.ask(1).allowed:
            pass
        limiter.now += TICK
    assert limiter.most_in_any(0.125, 0) == 150
    assert len(limiter.admitted["k"]) - before >= 0.97 * 8 * 150


def test_keys_count_apart_and_without_a_charge_they_are_dropped(monkeypatch):
    monkeypatch.setattr(shares, "MOST_PARTS", 3)
    limiter = Clocked(*parse_rates("1/s", "2/2s"))
    for part in "abc":
        assert limiter.ask(1, 1, part=part).allowed
        limiter.now += 0.25
    full = limiter.ask(1, 1, part="d")
    assert (full.allowed, full.bound_by, full.retry_after) == (False, "local", pytest.approx(1.25))
    assert full.retry_after >= 1.25
    limiter.now += 0.5
    assert limiter.ask(1, 1, part="a").allowed, "a key that is counted already goes on, for two seconds more"
    limiter.now += 0.75
    assert limiter.ask(1, 1, part="d").retry_after == pytest.approx(0.25), "a key with a charge made room"
    limiter.now += 0.25
    assert limiter.ask(1, 1, part="d").allowed
    assert sorted(limiter.share._parts) == ["a", "c", "d"]
    limiter.now += 10
    assert limiter.ask(1, 1, part="e").allowed
    assert list(limiter.share._parts) == ["e"]


def test_slots_are_shared_out():
    limiter = Clocked(concurrency=7)
    hold, release = limiter.share.hold, limiter.share.release
    assert [hold("k", 3) for _ in range(3)] == [True, True, False]
    assert hold("other", 3)
    assert not hold("other", 8), "less than one each"
    decision = limiter.ask(live=1)
    assert (decision.allowed, decision.remaining, decision.bound_by) == (True, 5, "local")
    release("k")
    assert [hold("k", 3) for _ in range(2)] == [True, False]
    for _ in range(5):
        release("k")
    release("other")
    assert limiter.share._held == {}
    assert all(Clocked(*parse_rates("1/s")).share.hold("k", 9) for _ in range(5)), "without a cap"


class Part(str):
    """A key that lets another thread go on wherever it is looked up."""

    __slots__ = ()

    def __hash__(self):
        time.sleep(1e-6)
        return super().__hash__()


@pytest.mark.parametrize(
    "ask", [lambda share: share.try_acquire(Part("k"), (1,), 1).allowed, lambda share: share.hold(Part("k"), 1)]
)
def test_threads_share_it(ask):
    limiter, answers, together = Clocked(*parse_rates("40/h"), concurrency=40), [], threading.Barrier(4)

    def work():
        together.wait(30)
        answers.extend([ask(limiter.share) for _ in range(30)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(True) == 40


def test_a_forked_child_is_not_locked_out_and_keeps_its_charges():
    limiter = Clocked(*parse_rates("2/s"))
    limiter.ask(1)
    held, over = threading.Event(), threading.Event()

    def holder():
        with limiter.share._lock:
            held.set()
            over.wait(30)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait(30)
    if (child := os.fork()) == 0:
        signal.alarm(10)  # if it hangs
        os._exit(0 if [limiter.ask(1).allowed for _ in range(2)] == [True, False] else 1)
    over.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
