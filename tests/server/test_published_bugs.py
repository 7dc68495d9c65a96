"""Bugs that published libraries had, each as it is commonly written, and none of it here.

Every test runs the same scene twice: on a naive script, where it must see the bug, and on ours.
"""

from __future__ import annotations

import itertools

import pytest
import redis

from tests.server.limits_model import (
    START,
    Act,
    Limiter,
    S,
    World,
    most_at_once,
    most_in_any,
    runner_on,
    us,
    worst_burst,
)
from workerkit.errors import DefinitionError


@pytest.fixture(scope="module")
def runner(redis_server):
    with runner_on(redis_server.url) as runner:
        yield runner


@pytest.fixture
def world(runner):
    return World(runner)


class Naive:
    """A script of the common kind: KEYS[1], the server's clock in seconds as ARGV[1]; answers allowed, retry_after."""

    def __init__(self, world, script, *args):
        self.world, self.script, self.args = world, script, args
        self.acts = []

    def ask(self, cost=1, *, key="naive", skew=0.0):
        now = self.world.now / S + skew
        allowed, wait = self.world.command("EVAL", self.script, 1, key, f"{now:.6f}", cost, *self.args)
        if allowed:
            self.acts.append(Act(self.world.true, cost))
        return bool(allowed), float(wait)


class Ours:
    def __init__(self, world, *rates, **options):
        self.world, self.limiter = world, Limiter(world, *rates, **options)

    @property
    def acts(self):
        return self.limiter.admitted()

    def ask(self, cost=1, *, key="k", skew=0.0):
        decision = self.limiter.ask(cost, key)  # our caller's clock is not asked
        return decision.allowed, decision.retry_after


def both(world, naive, scene, ours):
    """The scene on the naive script, on an empty server, and on ours."""
    first = scene(naive)
    world.command("FLUSHALL")
    return first, scene(ours)


BUCKET = """
local now, cost, rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local saved = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(saved[1] or burst), tonumber(saved[2] or now)
tokens = math.min(burst, tokens + (now - at) * rate)
local allowed = tokens >= cost
if allowed then
  tokens = tokens - cost
end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('EXPIRE', KEYS[1], math.floor(burst / rate))
return { allowed and 1 or 0, allowed and '0' or tostring((cost - tokens) / rate) }
"""


def test_a_token_bucket_whose_expiry_rounds_to_nothing(world):
    """`EXPIRE key 0` deletes: with 10 tokens at 100/s the bucket is full at every call."""

    def scene(limiter):
        for _ in range(200):
            limiter.ask()
        return worst_burst(limiter.acts, 100, S) / S

    naive, ours = both(world, Naive(world, BUCKET, 100, 10), scene, Ours(world, "100/s", algorithm="gcra", burst=10))
    assert naive == 200
    assert ours == 10
    for algorithm in ("window", "fixed", "gcra"):  # and no period is too short for an expiry
        short = Ours(world, "10/1ms", algorithm=algorithm)
        world.command("FLUSHALL")
        assert sum(short.ask()[0] for _ in range(200)) <= 10


LOG = """
local now, cost, limit, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - period)
local used = redis.call('ZCARD', KEYS[1])
if used + cost > limit then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return { 0, tostring(tonumber(first[2]) + period - now) }
end
for n = 1, cost do
  redis.call('ZADD', KEYS[1], now, now .. ':' .. redis.call('INCR', 'unique'))
end
redis.call('PEXPIRE', 'unique', 100000)
redis.call('PEXPIRE', KEYS[1], period * 1000)
return { 1, '0' }
"""


def test_a_log_that_trusts_its_callers_clocks(world):
    """5 a second, and one of two processes whose clock is 2 s ahead: it drops what the other's admissions wrote."""

    def scene(limiter):
        for skew in (0.0, 2.0):
            for _ in range(5):
                limiter.ask(skew=skew)
        return most_in_any(limiter.acts, S)

    assert both(world, Naive(world, LOG, 5, 1), scene, Ours(world, "5/s")) == (10, 5)


@pytest.mark.parametrize("flush", [("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")])
def test_a_flush_of_scripts_that_breaks_every_call(world, redis_server, flush):
    naive = redis.Redis.from_url(redis_server.url)
    sha = naive.script_load(LOG)
    assert naive.evalsha(sha, 1, "naive", "0", 1, 5, 1)
    ours = Limiter(world, "5/s", "7/m", concurrency=2)
    held = ours.enter()
    world.command("SCRIPT", "FLUSH")
    world.command(*flush)
    for _ in range(3):
        with pytest.raises(redis.exceptions.NoScriptError):
            naive.evalsha(sha, 1, "naive", "0", 1, 5, 1)
    naive.close()
    other = ours.enter()
    world.command("SCRIPT", "FLUSH")
    assert held.renew()
    other.end()
    world.command("SCRIPT", "FLUSH")
    held.end(cost=0)
    assert ours.usage().rates[1].remaining == 6
    assert ours.usage().holders == 0


COUNTER = """
local cost, limit, period = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local used = redis.call('INCRBY', KEYS[1], cost)
if used == cost then
  redis.call('PEXPIRE', KEYS[1], period * 1000)
end
return { used <= limit and 1 or 0, tostring(redis.call('PTTL', KEYS[1]) / 1000) }
"""


@pytest.mark.parametrize("algorithm", ["window", "fixed", "gcra"])
def test_a_refused_hit_of_100_that_burns_the_whole_window(world, algorithm):
    def scene(limiter):
        limiter.ask(1)
        limiter.ask(100)
        return sum(limiter.ask(1)[0] for _ in range(5))

    options = {"burst": 100} if algorithm == "gcra" else {}
    naive, ours = both(
        world, Naive(world, COUNTER, 100, 1), scene, Ours(world, "100/s", algorithm=algorithm, **options)
    )
    assert naive == 0, "INCRBY first, then compare: the refused hit has used it up"
    assert ours == 5
    limiter = Limiter(world, "100/s", algorithm=algorithm, **options)
    with pytest.raises(DefinitionError):
        limiter.ask(101)  # and what could never pass is not asked at all


ROUNDED = LOG.replace("tostring(tonumber(first[2]) + period - now)", "math.floor(tonumber(first[2]) + period - now)")
ROUNDED_MS = LOG.replace(
    "tostring(tonumber(first[2]) + period - now)",
    "tostring(math.floor((tonumber(first[2]) + period - now) * 1000) / 1000)",
)


@pytest.mark.parametrize("naive", [ROUNDED, ROUNDED_MS])
@pytest.mark.parametrize("algorithm", ["window", "fixed", "gcra"])
def test_a_retry_after_that_is_rounded_down_into_another_refusal(world, naive, algorithm):
    def scene(limiter):
        refused_again = 0
        for gap in (0, 123_456, 1, 777_777, 333, 999_999, 500_001):
            world.wait(gap)
            while True:
                allowed, wait = limiter.ask()
                if not allowed:
                    break
            world.wait(us(wait))
            refused_again += not limiter.ask()[0]
        return refused_again

    options = {"burst": 3} if algorithm == "gcra" else {}
    seen, ours = both(world, Naive(world, naive, 3, 1), scene, Ours(world, "3/s", algorithm=algorithm, **options))
    assert seen > 0
    assert ours == 0


RESERVE = """
local now, cost, space = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
redis.call('SET', KEYS[1], at + cost * space, 'PX', 30000)
return { 1, tostring(at - now) }
"""


def test_reservations_that_a_fixed_expiry_forgets(world):
    """One a minute; five in line are given their minutes. 31 s later a sixth asks."""
    naive = Naive(world, RESERVE, 60)
    turns = [Act(world.true + us(naive.ask()[1]), 1) for _ in range(5)]
    world.wait(31 * S)
    turns.append(Act(world.true + us(naive.ask()[1]), 1))
    assert worst_burst(turns, 1, 60 * S) > 60 * S, "the sixth goes at once, between the first and the second"

    world.command("FLUSHALL")
    ours = Limiter(world, "1/m", algorithm="gcra")
    for _ in range(5):
        ours.reserve(within=3600)
    world.wait(31 * S)
    assert ours.reserve(within=3600)[0].delay == 5 * 60 - 31
    world.wait(7 * 60 * S)
    assert ours.reserve(within=0)[0].delay == 0
    assert worst_burst(ours.admitted(), 1, 60 * S) == 60 * S


ESTIMATE = """
local now, cost, limit, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local window = math.floor(now / period)
local current, previous = KEYS[1] .. window, KEYS[1] .. window - 1
local used = tonumber(redis.call('GET', current) or 0)
local before = tonumber(redis.call('GET', previous) or 0)
local weight = 1 - now % period / period
if used + before * weight + cost > limit then
  return { 0, '0.01' }
end
if redis.call('INCRBY', current, cost) == cost then
  redis.call('EXPIRE', current, period)
end
return { 1, '0' }
"""


def test_a_previous_window_that_expires_early(world):
    """The counter of the last window must be there for two periods; with one it is gone while it still counts.

    One call as the minute begins, and many from its fortieth second on.
    """

    def scene(limiter):
        world.wait(60 * S - world.now % (60 * S))
        for second in range(180):
            for _ in range(20 if second % 60 >= 40 or (second % 60 < 10 and second > 60) else second % 60 == 0):
                limiter.ask()
            world.wait(S)
        return most_in_any(limiter.acts, 60 * S)

    naive, ours = both(world, Naive(world, ESTIMATE, 100, 60), scene, Ours(world, "100/m"))
    kept, _ = both(world, Naive(world, ESTIMATE.replace("current, period)", "current, period * 2)"), 100, 60), scene,
                   Ours(world, "100/m"))  # fmt: skip
    print("admitted in some minute:", naive, "with a late expiry:", kept, "ours:", ours)
    assert naive > 150
    assert kept < 130, "an estimate errs, but not by as much"
    assert ours == 100


def test_our_window_is_there_for_as_long_as_it_counts(world):
    limiter = Limiter(world, "100/m")
    for _ in range(100):
        assert limiter.ask().allowed
        world.wait(S // 2)
    for _ in range(19):
        world.wait(S // 2)
        assert not limiter.ask().allowed
    limiter.wait(S // 2 + 3 * 60 * S // 62)  # how much a record may span
    assert limiter.ask().allowed


SEMAPHORE = """
local cost, capacity, expiry = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if cost < 0 then
  redis.call('DECR', KEYS[1])
  return { 1, '0' }
end
if tonumber(redis.call('GET', KEYS[1]) or 0) >= capacity then
  return { 0, '0.1' }
end
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], expiry * 1000)
return { 1, '0' }
"""


def test_a_semaphore_whose_hold_outlives_its_expiry(world):
    """One at once. The first holds for longer than the expiry: its end gives back the second's place."""
    naive = Naive(world, SEMAPHORE, 1, 10)
    first, at = naive.ask()[0], world.true
    world.wait(11 * S)
    second = naive.ask()[0]
    assert first
    assert second, "the first still works"
    world.wait(S)
    naive.ask(-1)
    third = naive.ask()[0]
    assert third
    holds = [Act(at, 1, end=at + 12 * S), Act(at + 11 * S, 1, end=at + 20 * S), Act(at + 12 * S, 1, end=at + 20 * S)]
    assert most_at_once(holds, 0) == 2

    world.command("FLUSHALL")
    limiter = Limiter(world, concurrency=1, lease=10)
    held = limiter.enter()
    for _ in range(8):
        world.wait(3 * S)
        assert held.renew(), "who lives keeps its place, however long"
        assert limiter.enter().bound_by == "concurrency"
    world.wait(11 * S)  # paused for longer than its lease
    assert not held.renew(), "told of the loss"
    other = limiter.enter()
    assert other.decision.allowed
    assert not held.renew()
    held.end()
    assert limiter.enter().bound_by == "concurrency", "an end of who has lost its place frees nobody else's"
    other.end()
    assert limiter.enter().decision.allowed


EVERY_HIT = COUNTER.replace("if used == cost then", "if true then")


@pytest.mark.parametrize("algorithm", ["window", "fixed", "gcra"])
def test_an_expiry_pushed_out_by_every_hit_becomes_a_lockout(world, algorithm):
    """Asked once in half a period, the window never ends."""

    def scene(limiter):
        for _ in range(5):
            limiter.ask()
        allowed = 0
        for _ in range(40):
            world.wait(S // 2)
            allowed += limiter.ask()[0]
        return allowed

    options = {"burst": 5} if algorithm == "gcra" else {}
    naive, ours = both(world, Naive(world, EVERY_HIT, 5, 1), scene, Ours(world, "5/s", algorithm=algorithm, **options))
    assert naive == 0
    assert ours >= 39


REFUND_NEWEST = """
local now, cost, limit, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - period)
redis.call('PEXPIRE', KEYS[1], period * 1000)
for n = 1, -cost do
  redis.call('ZPOPMAX', KEYS[1])
end
if cost > 0 and redis.call('ZCARD', KEYS[1]) + cost > limit then
  return { 0, '0.1' }
end
for n = 1, cost do
  redis.call('ZADD', KEYS[1], now, now .. ':' .. n)
end
redis.call('PEXPIRE', KEYS[1], period * 1000)
return { 1, '0' }
"""


def test_a_refund_to_the_newest_lets_the_oldest_through_twice(world):
    """Half at once, half later; the first half is given back, and the newest of all is taken off for it."""
    naive = Naive(world, REFUND_NEWEST, 100, 1)
    naive.ask(50)
    world.wait(S // 2)
    naive.ask(50)
    world.wait(S // 10)
    naive.ask(-50)
    naive.acts[:] = [naive.acts[1]]  # the first half was never used
    naive.ask(50)
    world.wait(S // 2)
    naive.ask(50)
    assert most_in_any(naive.acts, S) == 150

    world.command("FLUSHALL")
    limiter = Limiter(world, "100/s")
    first = limiter.enter(50)
    world.wait(S // 2)
    limiter.enter(50)
    world.wait(S // 10)
    first.end(cost=0)
    first.act.cost = 0
    assert limiter.ask(50).allowed
    world.wait(S // 2)
    limiter.ask(50)
    assert most_in_any(limiter.admitted(), S) == 100


GCRA_AS_A_WINDOW = """
local now, cost, limit, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tat = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0)) + cost * period / limit
if tat - now > period then
  return { 0, tostring(tat - now - period) }
end
redis.call('SET', KEYS[1], tat, 'PX', math.ceil((tat - now) * 1000))
return { 1, '0' }
"""


def test_gcra_with_a_burst_of_the_limit_is_no_window(world):
    def scene(limiter):
        for _ in itertools.takewhile(lambda _: world.true < scene.start + 2 * S, itertools.count()):
            allowed, wait = limiter.ask()
            if not allowed:
                world.wait(us(wait) + 1)
        scene.start = world.true
        return most_in_any(limiter.acts, S)

    scene.start = START
    naive, ours = both(world, Naive(world, GCRA_AS_A_WINDOW, 100, 1), scene, Ours(world, "100/s"))
    assert naive >= 198
    assert ours == 100
