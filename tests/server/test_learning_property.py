"""Learning and configuring on a real server whose clock the test sets.

What an API says only tightens, by bounds, and ends: the learning key is compared with a twin that learns nothing and
is charged the same.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.limits_model import START, Limiter, S, World, most_in_any, runner_on, us
from workerkit.limits.headers import Advice, Budget

HOUR = 3600 * S
ALGORITHMS = [("window", {}), ("fixed", {}), ("gcra", {"burst": 10})]


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


def limiter_of(runner, *rates, **options):
    return Limiter(World(runner), *rates, **options)


def budget(unit="", *, limit=None, remaining=None, reset=None, window=None):
    return Budget(unit, limit, remaining, reset, window)


def said(*budgets, pause=0.0, refused=False):
    return Advice(pause, refused, budgets, ())


def refusal(pause=1.0, *budgets):
    return said(*budgets, pause=pause, refused=True)


def all_of(limiter, key="k", **units):
    """How many calls are let in now."""
    return next(count for count in range(10_000) if not limiter.ask(key=key, **units).allowed)


COUNTS = st.one_of(
    st.none(), st.integers(0, 20), st.sampled_from([0, 0, 90, 2**53, 2**60, 2**63, -1, -(2**53), -(2**60)])
)
SECONDS = st.one_of(
    st.none(), st.floats(0, 20), st.sampled_from([0.0, 1.0, 10.0, 3600.0, 1e9, 1e12, 1e-9, -1.0, -1e9, -1e12])
)
ADVICE = st.builds(
    lambda pause, refused, *budgets: said(*[each for each in budgets if each], pause=pause, refused=refused),
    st.one_of(st.just(0.0), st.floats(0, 20), st.sampled_from([3600.0, 1e9, 1e12, -1.0, -1e12, 1e-9])),
    st.booleans(),
    *[
        st.one_of(
            st.none(), st.builds(Budget, st.just(unit), COUNTS, COUNTS, SECONDS, st.sampled_from([None, 1.0, 10.0]))
        )
        for unit in ("", "tokens", "words")
    ],
)
GAPS = st.one_of(st.just(0), st.integers(1, 3), st.integers(0, S), st.integers(0, 30 * S), st.just(HOUR))
TRACES = st.lists(st.tuples(GAPS, st.one_of(st.integers(1, 12), ADVICE)), max_size=40)


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
@settings(max_examples=70, deadline=None, print_blob=True)
@given(trace=TRACES)
@example(trace=[(0, said(budget(limit=0, remaining=0, reset=1e12, window=1.0), pause=1e12, refused=True))])
def test_advice_only_tightens_within_bounds_and_ends(runner, algorithm, options, trace):
    limiter = limiter_of(runner, "20/s", "50/10s", "900 tokens/10s", algorithm=algorithm, **options)
    most = min(10, 20)
    for gap, what in trace:
        limiter.wait(gap)
        if isinstance(what, int):
            cost = min(what, most)
            tokens = cost if algorithm == "gcra" else 20 * cost
            if limiter.ask(cost, "k", tokens=tokens).allowed:
                assert limiter.ask(cost, "twin", tokens=tokens).allowed, "learning let in what the rates would not"
        else:
            limiter.learn(what)
        for cost in (1, most):
            decision, without = limiter.peek(cost, "k", tokens=1), limiter.peek(cost, "twin", tokens=1)
            assert without.allowed or not decision.allowed, "learning loosened"
            assert decision.retry_after <= 3600.002
        usage = limiter.usage()
        assert all(0.1 <= each.learned <= 1.0 for each in usage.rates)
        assert all(each.told_for <= 3600 for each in usage.rates)
        assert usage.paused <= 3600.002
        for name in ("state", "pause"):
            assert limiter.world.command("PTTL", limiter.name(name)) <= 3_602_000, "kept for longer than it can count"
    limiter.wait(HOUR + 10 * S)
    assert [each.learned for each in limiter.usage().rates] == [1.0, 1.0, 1.0]
    assert limiter.peek(most, tokens=1).allowed, "it never ended"
    for rate, weight in zip(limiter.rates[:2], (1, 1), strict=True):
        bound = {"window": rate.amount, "fixed": 2 * rate.amount, "gcra": rate.amount + 10}[algorithm]
        assert most_in_any(limiter.admitted(), rate.period_us) * weight <= bound


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_a_refusal_pauses_all_and_brings_the_rate_down_by_a_step(runner, algorithm, options):
    limiter = limiter_of(runner, "100/s", algorithm=algorithm, **options)
    assert limiter.learn(refusal(5.0))
    decision = limiter.ask()
    assert (decision.bound_by, decision.retry_after) == ("pause", pytest.approx(5.0, abs=0.05))
    limiter.learn(refusal(2.0))
    assert limiter.usage().rates[0].learned == 0.7, "one step for all that were under way"
    assert limiter.ask().retry_after > 4, "a shorter pause does not replace a longer one"
    limiter.wait(us(limiter.ask().retry_after))
    assert limiter.ask().allowed
    limiter.learn(refusal(0.5))
    assert limiter.usage().rates[0].limit == 49
    for _ in range(20):
        limiter.wait(S)
        limiter.learn(refusal(0.5))
    assert limiter.usage().rates[0].learned == 0.1


def test_a_rate_that_was_brought_down_is_kept(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(refusal(0.001))
    limiter.wait(S)
    assert all_of(limiter) == 70
    assert us(limiter.ask().retry_after) == S
    limiter.wait(S)
    assert limiter.ask(95).allowed, "but a cost that it could never admit is let in alone"


def test_a_share_does_not_keep_what_a_refusal_brought_down(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(refusal(0.001))
    for _ in range(7):
        limiter.wait(600 * S)
        expected = 0.7 if limiter.world.true - START < HOUR else 0.9
        limiter.learn(said(budget(limit=90, window=1.0)))
        assert limiter.usage().rates[0].learned == expected


@pytest.mark.parametrize(("limit", "learned"), [(60, 0.6), (100, 1.0), (1000, 1.0), (5, 0.1), (1, 0.1)])
def test_a_rate_that_the_api_grants_less_of(runner, limit, learned):
    limiter = limiter_of(runner, "100/s", "2000/m")
    limiter.learn(said(budget(limit=limit, window=1.0)))
    assert limiter.usage().rates[0].learned == learned
    other = limiter_of(runner, "10000/s")
    other.learn(said(budget(limit=5, window=1.0)))
    assert other.usage().rates[0].learned == 0.1, "less than a thousandth is not nothing said"


def test_what_is_left_is_counted_down_and_ends(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(said(budget(remaining=3, reset=10.0)))
    assert [limiter.ask().remaining for _ in range(3)] == [2, 1, 0]
    refused = limiter.ask()
    assert (refused.bound_by, us(refused.retry_after)) == ("learned", 10 * S)
    limiter.wait(10 * S - 1)
    assert not limiter.peek().allowed
    limiter.wait(1)
    assert all_of(limiter) == 100


def test_more_left_than_can_be_counted_is_not_nothing(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(said(budget(remaining=2**60, reset=10.0)))
    assert all_of(limiter) == 100


def test_answers_that_overtake_each_other_do_not_give_back(runner):
    limiter = limiter_of(runner, "100/s")
    for left, reset in [(5, 10.0), (7, 10.0), (6, 9.99), (8, 10.5)]:
        limiter.learn(said(budget(remaining=left, reset=reset)))
    assert all_of(limiter) == 5


def test_a_short_window_that_is_used_up_is_not_the_end_of_a_long_one(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(said(budget(remaining=20, reset=3500.0)))
    limiter.learn(said(budget(remaining=0, reset=1.0)))
    assert us(limiter.ask().retry_after) == S
    limiter.wait(S)
    assert limiter.ask().allowed
    limiter.learn(said(budget(remaining=2, reset=3000.0)))
    limiter.learn(said(budget(remaining=50, reset=1.0)))
    assert all_of(limiter) == 2, "nor does a short one with more left give anything back"


def test_a_new_window_replaces_the_old(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(said(budget(remaining=0, reset=5.0)))
    limiter.learn(said(budget(remaining=40, reset=60.0)))
    assert all_of(limiter) == 40


def test_what_is_held_may_not_have_been_seen_by_the_api(runner):
    limiter = limiter_of(runner, "100/s")
    held = [limiter.enter(exact=True) for _ in range(4)]
    limiter.learn(said(budget(remaining=10, reset=10.0)))
    assert all_of(limiter) == 6
    assert all(each.end() for each in held)


def test_units_learn_apart(runner):
    limiter = limiter_of(runner, "100/s", "1000 tokens/s")
    limiter.learn(said(budget("tokens", remaining=50, reset=10.0), budget("requests", remaining=30, reset=10.0)))
    assert limiter.ask(tokens=51).bound_by == "learned"
    assert limiter.ask(cost=31, tokens=1).bound_by == "learned"
    assert limiter.ask(cost=30, tokens=50).allowed
    limiter.wait(10 * S)
    limiter.learn(refusal(0.001, budget("tokens", remaining=0, reset=0.001), budget(remaining=9, reset=0.001)))
    assert [each.learned for each in limiter.usage().rates] == [1.0, 0.7], "the guilty one"


@pytest.mark.parametrize("back", [1, HOUR // 2, 2 * HOUR, 365 * 24 * HOUR])
def test_a_clock_that_was_set_back_forgets_within_hours(runner, back):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(refusal(0.001, budget(remaining=0, reset=60.0)))
    limiter.wait(S)
    limiter.world.set_clock(-back)
    if back == 1:
        assert limiter.usage().rates[0].learned == 0.7
    assert limiter.ask().retry_after <= 3600
    limiter.wait(2 * HOUR)
    assert limiter.usage().rates[0].learned == 1.0
    assert all_of(limiter) == 100


def test_reset_forgets_what_was_learned_and_the_pause(runner):
    limiter = limiter_of(runner, "100/s")
    limiter.learn(refusal(100.0, budget(remaining=0, reset=60.0)))
    limiter.reset()
    assert all_of(limiter) == 100


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_configured_rates_count_until_they_are_given_up(runner, algorithm, options):
    limiter = limiter_of(runner, "20/m", algorithm=algorithm, **options)
    limiter.wait(60 * S - limiter.world.now % (60 * S))
    limiter.configure("5/m")
    assert (all_of(limiter), limiter.ask().bound_by) == (5, "5/m")
    assert limiter.usage().configured
    limiter.learn(refusal(0.001))
    limiter.wait(1000)
    assert limiter.usage().rates[0].learned == 1.0, "nothing is learned against what somebody has set"
    limiter.configure()
    if algorithm != "gcra":
        assert all_of(limiter) == 15, "what was charged at the same period still counts"
    limiter.configure("30/m", "40/h")
    limiter.wait(60 * S)
    before = limiter.stored()
    assert limiter.ask(10).allowed
    assert limiter.stored() != before


def test_a_configured_rate_below_a_cost_is_an_error_and_no_refusal(runner):
    limiter = limiter_of(runner, "20/m")
    limiter.configure("5/m")
    before = limiter.stored()
    with pytest.raises(Exception, match="above 5/m, configured for this key"):
        limiter.ask(6)
    assert limiter.stored() == before


def test_an_untrusted_pause_is_held_by_the_next_process_too(runner):
    limiter = limiter_of(runner, "20/m")
    limiter.learn(refusal(1e12))
    assert 3599 < limiter.ask().retry_after <= 3600.002
