"""The window's script on a real server whose clock the test sets, against a brute-force checker.

The checker slides a window over every admitted call; it shares no idea with the script but the promise.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.core.rates import Rate
from workerkit.io.address import parse_address
from workerkit.io.runner import Runner
from workerkit.io.server import PoolOptions, Server
from workerkit.limits.limiter import LimitPolicy

SET_CLOCK = Script("workerkit.limits", "window", replace={"not_after": "local now_us = tonumber(ARGV[#ARGV])\n"})
KEYS = Keys("t", "g")
START = 1_700_000_000_000_000
S = 1_000_000


@pytest.fixture(scope="module")
def runner(redis_server):
    server = Server("guard", parse_address(redis_server.url, what="url"), options=PoolOptions(), hooks=Hooks())
    runner = Runner({"guard": server}, 10.0)
    yield runner
    runner.close()


class Clocked:
    """One limiter under a clock of our own; remembers what was admitted, by key."""

    def __init__(self, runner, *rates, concurrency=None, lease=10.0):
        self.runner, self.rates = runner, rates
        self.policy = LimitPolicy("api", rates, concurrency=concurrency, lease=lease)
        self.now = START  # what the server's clock says
        self.step = 0  # how far it is from the true time
        self.admitted = {}
        self.command("FLUSHALL")

    def command(self, *words):
        return self.runner.call(Call("command", "guard", as_is, args=words))

    def scripted(self, call, parse=None):
        script = Call(
            call.name, "guard", parse or call.parse, script=SET_CLOCK, keys=call.keys, args=(*call.args, self.now)
        )
        return self.runner.call(script)

    def ask(self, cost=1, key="k", owner="me"):
        decision = self.scripted(self.policy.acquire(KEYS, key, cost, owner))
        if decision.allowed:
            self.admitted.setdefault(key, []).append((self.now - self.step, cost))
        return decision

    def allowed(self, cost=1, key="k"):
        return self.scripted(self.policy.peek(KEYS, key, cost)).allowed

    def set_clock(self, by):
        """The server's clock jumps; true time does not pass."""
        self.step += by
        self.now += by

    def stored(self, key="k"):
        """Every byte and every expiry (absolute, in real ms) there is under this key."""
        keys = self.policy.acquire(KEYS, key, 1, "me").keys
        return [self.command(verb, each) for each in keys for verb in ("DUMP", "PEXPIRETIME")]

    def most(self, key="k"):
        """For every rate the most that was ever admitted in a window of its period."""
        return [most_in_any(self.admitted.get(key, []), rate.period_us) for rate in self.rates]

    def check(self, key="k"):
        for rate, most in zip(self.rates, self.most(key), strict=True):
            assert most <= rate.amount, f"{most} admitted at {rate}"


def most_in_any(admitted, period):
    """The largest sum of costs in any half-open window [t, t + period); those that start at an admission suffice."""
    return max((sum(c for at, c in admitted if start <= at < start + period) for start, _ in admitted), default=0)


def us(seconds):
    return round(seconds * 1e6)


def test_the_checker_sees_an_over_admission():
    assert most_in_any([(0, 3), (9, 4), (10, 5)], 10) == 9
    assert most_in_any([(0, 1)] * 101, 10) == 101


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


@settings(max_examples=150, deadline=None)
@given(RATES, TRACES)
def test_no_trace_breaks_a_promise(runner, rates, trace):
    limiter = Clocked(runner, *rates)
    smallest = min(rate.amount for rate in rates)
    for gap, wish, key, waits in trace:
        limiter.now += gap
        cost = min(wish, smallest)
        before = limiter.stored(key)
        decision = limiter.ask(cost, key)
        if decision.allowed:
            continue
        assert limiter.stored(key) == before, "a refusal changed something"
        assert decision.bound_by in {str(rate) for rate in rates}
        if waits:
            limiter.now += us(decision.retry_after) - 1
            assert not limiter.allowed(cost, key), "retry_after was too long"
            limiter.now += 1
            assert limiter.ask(cost, key).allowed, "retry_after was too short"
    limiter.check("a")
    limiter.check("b")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(Rate, st.integers(1, 32), st.sampled_from([1.0, 10.0, 61.0])),
        min_size=1,
        max_size=2,
        unique_by=PERIOD,
    ),
    st.lists(st.tuples(st.integers(0, S // 2), st.integers(1, 4)), max_size=80),
)
@example([Rate(2, 1.0)], [(0, 1), (S // 50, 1), (S - S // 50, 1)])
def test_up_to_32_it_refuses_only_what_would_break_the_promise(runner, rates, trace):
    limiter = Clocked(runner, *rates)
    for gap, wish in trace:
        limiter.now += gap
        cost = min(wish, *(rate.amount for rate in rates))
        if not limiter.ask(cost).allowed:
            would = [*limiter.admitted["k"], (limiter.now, cost)]
            assert any(most_in_any(would, rate.period_us) > rate.amount for rate in rates)


STEPS = st.one_of(st.just(0), st.just(0), st.integers(-3, 3), st.integers(-90 * S, 90 * S), st.just(-(10**15)))


@settings(max_examples=120, deadline=None)
@given(RATES, st.lists(st.tuples(GAPS, COSTS, STEPS), min_size=1, max_size=50))
@example([Rate(2, 1.0)], [(0, 1, 0), (0, 1, -1), (0, 1, 0)])
@example([Rate(30, 3600.0)], [(0, 15, 0), (1, 1, 0), (0, 1, -(10**15)), (0, 14, 0)])
def test_a_clock_that_jumps_locks_nobody_out(runner, rates, trace):
    limiter = Clocked(runner, *rates)
    forward = False
    for gap, wish, step in trace:
        limiter.now += gap
        limiter.set_clock(step)
        forward = forward or step > 0
        cost = min(wish, *(rate.amount for rate in rates))
        decision = limiter.ask(cost)
        if not decision.allowed:
            assert us(decision.retry_after) <= 86400 * S + 41
            limiter.now += us(decision.retry_after)
            assert limiter.ask(cost).allowed, "waiting did not help"
    if not forward:  # a jump ahead is time that passed, for all a server can tell; a jump back must admit nothing more
        limiter.check()


def test_a_refusal_after_a_jump_back_writes_it_down_once(runner):
    limiter = Clocked(runner, Rate(2, 10.0))
    limiter.ask(2)
    limiter.set_clock(-3600 * S)
    assert us(limiter.ask().retry_after) == 10 * S
    before = limiter.stored()
    limiter.now += 4 * S
    assert us(limiter.ask().retry_after) == 6 * S
    assert limiter.stored() == before
    limiter.now += 6 * S
    assert limiter.ask().allowed


def test_a_clock_that_jumps_to_and_fro_makes_no_heap_of_records(runner):
    limiter = Clocked(runner, Rate(1000, 10.0))
    for _ in range(300):
        limiter.set_clock(S)
        limiter.ask()
        limiter.set_clock(-S)
        assert limiter.ask().remaining >= 970, "a jump ahead is time that has passed"
    assert limiter.command("STRLEN", limiter.policy.acquire(KEYS, "k", 1, "").keys[0]) < 200


def test_a_jump_back_keeps_no_dead_holder(runner):
    limiter = Clocked(runner, concurrency=1, lease=10.0)
    assert limiter.ask(owner="dead").allowed
    limiter.set_clock(-3600 * S)
    assert not limiter.ask(owner="me").allowed
    limiter.now += 10 * S
    assert limiter.ask(owner="me").allowed


@pytest.mark.parametrize("period", [61.0, 3000.0, 86400.0])
def test_offsets_are_rebased_before_they_overflow(runner, period):
    limiter = Clocked(runner, Rate(40, period))
    long = limiter.rates[0].period_us
    overflow = 2**32 * -(-long // 2**31)
    while limiter.now < START + 2.1 * overflow:
        limiter.ask()
        near = -2.2 * long < (limiter.now - START + overflow / 2) % overflow - overflow / 2 < 1.2 * long
        limiter.now += long // 200 if near else long * 9 // 10  # often enough that the window never empties
    limiter.check()
    assert limiter.most() == [40]


@pytest.mark.parametrize("amount", [1, 5, 32, 33, 100, 300])
@pytest.mark.parametrize("load", ["burst", "paced", "random"])
def test_a_saturated_limit_is_used(runner, amount, load):
    rate, periods = Rate(amount, 1.0), 12
    limiter, randomly = Clocked(runner, rate), random.Random(amount)
    gap = {
        "burst": lambda: 0,  # a fleet that waits, and takes at once what comes free
        "paced": lambda: S * 9 // (10 * amount),
        "random": lambda: int(randomly.expovariate(10 * amount / S)),
    }[load]
    while limiter.now < START + periods * S:
        decision = limiter.ask()
        limiter.now += gap() if decision.allowed else us(decision.retry_after)
    limiter.check()
    used = len(limiter.admitted["k"]) / (amount * periods)
    print(f"{rate} {load}: {used:.2%}")
    assert used >= 0.97


def test_memory_is_bounded(runner):
    sizes = {}
    for amount in (5, 32, 200, 60_000, 2**31, 2**53):
        limiter = Clocked(runner, Rate(amount, 60.0))
        for _ in range(400):
            limiter.ask(max(1, amount // 200))
            limiter.now += 60 * S // 100
        sizes[amount] = limiter.command("MEMORY", "USAGE", limiter.policy.acquire(KEYS, "k", 1, "").keys[0])
    print("bytes per key, all told, by N:", sizes)
    assert max(sizes.values()) <= 512


def test_a_change_of_rates_forgets_only_what_nobody_counts_any_more(runner):
    old, new = (Rate(10, 1.0), Rate(20, 60.0)), (Rate(300, 60.0), Rate(70_000, 3600.0))
    before, after = Clocked(runner, *old), Clocked(runner, *new)
    assert all(before.ask().allowed for _ in range(10))
    after.now = before.now = START + S // 10
    assert after.ask(cost=290).allowed, "the shared rate has 10 of 300 used"
    assert after.ask().bound_by == "300/m"
    decision = before.ask()
    assert decision.bound_by == "20/m", "300 of 20 are used"
    before.now += 60 * S
    assert before.ask(cost=10).allowed
    assert not before.ask().allowed


def test_the_old_rate_is_still_counted_between_the_new_ones(runner):
    old, new = Clocked(runner, Rate(3, 10.0)), Clocked(runner, Rate(5, 60.0))
    for _ in range(3):
        assert old.ask().allowed
        assert new.ask().allowed
    assert old.ask().bound_by == "3/10s"
    assert [new.ask().bound_by for _ in range(3)] == ["", "", "5/m"]
    windows = new.policy.acquire(KEYS, "k", 1, "").keys[0]
    both = new.command("STRLEN", windows)
    new.now += 60 * S
    assert new.ask().allowed
    assert new.command("STRLEN", windows) < both / 2, "until it is empty"


def test_all_or_nothing_over_rates_and_cap(runner):
    limiter = Clocked(runner, Rate(5, 1.0), Rate(8, 60.0), concurrency=1)
    assert limiter.ask(cost=5, owner="a").allowed
    before = limiter.stored()
    assert limiter.ask(cost=1, owner="a").bound_by == "5/s"
    limiter.now += S
    assert limiter.ask(cost=4, owner="a").bound_by == "8/m"
    assert limiter.ask(cost=3, owner="b").bound_by == "concurrency"
    assert limiter.stored() == before
    decision = limiter.ask(cost=3, owner="a")
    assert (decision.allowed, decision.remaining, us(decision.reset_after)) == (True, 0, 60 * S)


def test_an_owner_whose_lease_ran_out_queues_like_everybody(runner):
    limiter = Clocked(runner, concurrency=1, lease=10.0)
    assert limiter.ask(owner="late").allowed
    limiter.now += 10 * S
    assert limiter.ask(owner="next").allowed
    late = limiter.policy.acquire(KEYS, "k", 1, "").keys[2]
    limiter.command("ZADD", late, START + 10 * S, "late")  # as if nobody's write had removed it
    assert limiter.ask(owner="late").bound_by == "concurrency"
    assert limiter.ask(owner="next").allowed


def test_what_is_asked_for_together_is_bound_by_the_longest_wait(runner):
    limiter = Clocked(runner, Rate(2, 1.0), Rate(2, 60.0))
    limiter.ask(2)
    decision = limiter.ask()
    assert (decision.bound_by, us(decision.retry_after)) == ("2/m", 60 * S)
