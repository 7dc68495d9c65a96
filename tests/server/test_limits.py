"""Limiters on real servers: whole fleets, killed holders, frozen and absent servers, both sides."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest

from workerkit.api.engine import Engine
from workerkit.api.limiter import Limiter
from workerkit.api.settings import load
from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks, LimitOpen
from workerkit.errors import OutcomeUnknown, RateLimited, StoreUnavailable

FORK = multiprocessing.get_context("fork")


def make_engine(url, *hooks, timeout=2.0):
    return Engine(lambda: load({"redis_url": url, "timeout": timeout}), Hooks(*hooks))


@pytest.fixture
def engine(redis_url):
    engine = make_engine(redis_url)
    yield engine
    engine.close()


def command(engine, *words):
    return engine.runner.call(Call("command", "guard", as_is, args=words))


def leases(limiter, key=""):
    return limiter.policy.acquire(limiter.keys, limiter.part(key), 1, "").keys[2]


def stored(engine):
    """Every byte and every expiry on the server."""
    keys = sorted(command(engine, "KEYS", "*"))
    return [(key, command(engine, "DUMP", key), command(engine, "PEXPIRETIME", key)) for key in keys]


def until(condition, seconds=10.0):
    """Poll; answers how long it took. Fails when it takes longer than `seconds`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it never came"
        time.sleep(0.005)
    return time.monotonic() - start


def in_processes(count, work, *args):
    """Run `work(queue, *args)` in forked processes; answers what they put (one thing each)."""
    queue = FORK.Queue()
    processes = [FORK.Process(target=work, args=(queue, *args), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return answers


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


# Every kind of server


def test_decisions_are_the_same_on_every_server(other_server):
    engine = make_engine(other_server.url)
    limiter = Limiter(engine, "api", "3/m", "5/h", concurrency=2, margin="10ms")
    for left in (2, 1, 0):
        with limiter.slot("k") as slot:
            assert (slot.decision.allowed, slot.decision.remaining, slot.decision.bound_by) == (True, left, "")
    decision = limiter.peek("k")
    assert (decision.allowed, decision.remaining, decision.bound_by) == (False, 0, "3/m")
    assert 59 < decision.retry_after <= 60.01
    assert 3599 < decision.reset_after <= 3600.02
    with limiter.slot("other"), limiter.slot("other"):
        assert limiter.peek("other").bound_by == "concurrency"
    engine.close()


def test_keys_count_apart(engine):
    limiter, namesake = Limiter(engine, "api", "1/m"), Limiter(engine, "other", "1/m")
    assert [limiter.try_acquire(key).allowed for key in ("a", "b", "a", "", "a\n", "a" * 10_000)] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert namesake.try_acquire("a").allowed


def test_every_key_expires_and_not_too_early(engine):
    limiter = Limiter(engine, "api", "10/s", "100/m", concurrency=3, margin="2s", lease="20s")
    limiter.pause("b", "1s")
    with limiter.slot("a") as slot:
        assert 20_000 <= command(engine, "PTTL", leases(limiter, "a")) <= 80_100
        command(engine, "PERSIST", leases(limiter, "a"))
        engine.runner.call(limiter.policy.renew_slot(limiter.keys, limiter.part("a"), slot))
        left = {key[-1:]: command(engine, "PTTL", key) for key in command(engine, "KEYS", "*")}
    assert set(left) == {b"w", b"l", b"p"}
    assert 62_000 <= left[b"w"] <= 63_100
    assert 20_000 <= left[b"l"] <= 80_100
    assert 0 < left[b"p"] <= 1_000


def test_a_refusal_and_a_look_change_nothing(engine):
    limiter = Limiter(engine, "api", "2/m", concurrency=2)
    with limiter.slot(), limiter.slot():
        before = stored(engine)
        for _ in range(3):
            limiter.peek()
            with pytest.raises(RateLimited), limiter.slot():
                pytest.fail("admitted")
        assert stored(engine) == before
    assert len(before) == 2
    full = stored(engine)
    with pytest.raises(RateLimited, match="2/m"), limiter.slot():
        pytest.fail("admitted, and a lease taken")
    assert stored(engine) == full


def test_pause_holds_everybody_and_ends(engine):
    limiter = Limiter(engine, "api", "5/s", concurrency=1)
    limiter.pause("k", "200ms")
    with pytest.raises(RateLimited) as refused, limiter.slot("k"):
        pytest.fail("admitted")
    assert refused.value.bound_by == "pause"
    assert 0 < refused.value.retry_after <= 0.202
    assert limiter.peek("other").allowed
    with limiter.slot("k", wait="1s") as slot:
        assert slot.decision.remaining == 4
    limiter.pause("k", "1h")
    limiter.reset("k")
    assert limiter.peek("k").remaining == 5


def test_reset_forgets_charges_and_keeps_holders(engine):
    limiter = Limiter(engine, "api", "1/h", concurrency=1)
    with limiter.slot():
        limiter.reset()
        decision = limiter.peek()
        assert (decision.remaining, decision.bound_by) == (1, "concurrency")
    assert limiter.peek().allowed


# A fleet


def hammer(queue, url, seconds, threads):
    engine = make_engine(url)
    limiter = Limiter(engine, "api", "60/300ms", "100/700ms")
    log, lock, start = [], threading.Lock(), time.monotonic()

    def work():
        while time.monotonic() - start < seconds:
            call = limiter.attempt("k", 1)
            call.parse = as_is
            allowed, _, wait, _, _, at = engine.runner.call(call)
            if allowed:
                with lock:
                    log.append(at)
            else:
                time.sleep(wait / 1e6)

    in_threads(threads, work)
    engine.close()
    queue.put(log)


def test_a_hammering_fleet_never_passes_a_limit_and_uses_it(redis_url):
    log = sorted(at for each in in_processes(2, hammer, redis_url, 2.9, 2) for at in each)
    most = {
        period: max(sum(start <= at < start + period for at in log) for start in log) for period in (300_000, 700_000)
    }
    assert most == {300_000: 60, 700_000: 100}
    used = sum(at < log[0] + 4 * 700_000 for at in log) / 400
    print(f"{len(log)} admissions, {used:.1%} of 100/700ms used")
    assert used >= 0.97


def hold(queue, url, seconds):
    engine = make_engine(url)
    limiter = Limiter(engine, "db", concurrency=3)
    seen, start = Counter(), time.monotonic()

    def work():
        while time.monotonic() - start < seconds:
            with limiter.slot("k", wait="30s") as slot:
                seen[command(engine, "INCR", "holders")] += 1
                time.sleep(random.uniform(0, 0.01))
                command(engine, "DECR", "holders")
                assert not slot.lost

    in_threads(3, work)
    engine.close()
    queue.put(seen)


def test_there_are_never_more_holders_than_the_cap(redis_url):
    seen = sum(in_processes(2, hold, redis_url, 1.5), Counter())
    print(f"holders at once: {dict(seen)}")
    assert max(seen) == 3
    assert sum(seen.values()) > 50


def hold_for_ever(queue, url):
    with Limiter(make_engine(url), "db", concurrency=1, lease="1s").slot("k"):
        queue.put(os.getpid())
        time.sleep(60)


def test_a_killed_holders_slot_comes_back_within_its_lease_and_a_second(engine, redis_url):
    limiter = Limiter(engine, "db", concurrency=1, lease="1s")
    queue = FORK.Queue()
    holder = FORK.Process(target=hold_for_ever, args=(queue, redis_url), daemon=True)
    holder.start()
    os.kill(queue.get(timeout=10), signal.SIGKILL)
    start = time.monotonic()
    with limiter.slot("k", wait="5s"):
        took = time.monotonic() - start
    holder.join(10)
    print(f"a killed holder's slot came back after {took:.2f} s of a lease of 1 s")
    assert took <= 2.0


# Leases


def test_a_live_holder_keeps_its_slot_beyond_its_lease(engine):
    limiter = Limiter(engine, "db", concurrency=1, lease="300ms")
    with limiter.slot() as slot:
        first = float(command(engine, "ZSCORE", leases(limiter), slot.owner))
        until(lambda: float(command(engine, "ZSCORE", leases(limiter), slot.owner)) > first + 600_000)
        assert not slot.lost
        assert limiter.peek().bound_by == "concurrency"
    assert limiter.peek().allowed


def test_only_the_owner_releases(engine):
    limiter = Limiter(engine, "db", "5/m", concurrency=1)
    keys, part, run = limiter.keys, limiter.part(""), engine.runner.call
    assert run(limiter.policy.acquire(keys, part, 1, "me")).allowed
    assert run(limiter.policy.release(keys, part, "you")) is False
    assert run(limiter.policy.renew(keys, part, "you")) is False
    assert limiter.peek().bound_by == "concurrency"
    decision = run(limiter.policy.acquire(keys, part, 1, "me"))
    assert (decision.allowed, decision.remaining) == (True, 3)
    assert command(engine, "ZCARD", leases(limiter)) == 1
    assert run(limiter.policy.release(keys, part, "me")) is True
    assert run(limiter.policy.release(keys, part, "me")) is False


def test_a_lease_that_ran_out_is_lost_for_good(engine):
    limiter = Limiter(engine, "db", concurrency=2, lease="100ms")
    keys, part, run = limiter.keys, limiter.part(""), engine.runner.call
    run(limiter.policy.acquire(keys, part, 1, "me"))
    assert run(limiter.policy.renew(keys, part, "me")) is True
    until(lambda: limiter.peek().remaining == 2)
    assert command(engine, "ZCARD", leases(limiter)) == 1, "only a write removes it"
    assert run(limiter.policy.renew(keys, part, "me")) is False
    assert run(limiter.policy.acquire(keys, part, 1, "you")).remaining == 1
    assert command(engine, "ZCARD", leases(limiter)) == 1


# A server that does not answer


def test_what_was_given_up_is_not_charged_when_the_server_wakes(fresh_server):
    engine = make_engine(fresh_server.url, timeout=0.2)
    limiter = Limiter(engine, "api", "100/h")
    assert limiter.try_acquire().remaining == 99
    fresh_server.freeze()
    with pytest.raises(OutcomeUnknown):
        limiter.try_acquire()
    fresh_server.thaw()
    assert limiter.peek().remaining == 99
    engine.close()


def test_redis_down_is_closed_or_open_and_over_when_it_is_back(fresh_server):
    events = []
    engine = make_engine(fresh_server.url, events.append)
    closed, opened = (Limiter(engine, "api", "5/h", concurrency=1, when_down=how) for how in ("closed", "open"))
    fresh_server.kill()
    with pytest.raises(StoreUnavailable), closed.slot():
        pytest.fail("admitted")
    with opened.slot() as slot:
        assert (slot.decision.allowed, slot.decision.bound_by) == (True, "down")
    assert [event for event in events if isinstance(event, LimitOpen)] == [LimitOpen("api", "StoreUnavailable")]
    fresh_server.start()

    def served():
        with opened.slot() as slot:
            return slot.decision.bound_by == ""

    until(served)
    engine.close()


# The async side


def test_coroutines_share_the_limit(engine):
    limiter = Limiter(engine, "api", "40/h", concurrency=3)
    holders, most = 0, 0

    async def one():
        nonlocal holders, most
        async with limiter.aio.slot("k", wait="5s") as slot:
            holders += 1
            most = max(most, holders)
            await asyncio.sleep(0.005)
            holders -= 1
            assert not slot.lost

    async def main():
        await asyncio.gather(*(one() for _ in range(20)))
        decision = await limiter.aio.peek("k")
        await limiter.aio.pause("k", "1m")
        paused = await limiter.aio.peek("k")
        await limiter.aio.reset("k")
        after = await limiter.aio.peek("k")
        free = Limiter(engine, "free", "1/m")
        answers = [(await free.aio.try_acquire()).allowed for _ in range(2)]
        await engine.aclose()
        return decision.remaining, paused.bound_by, after.remaining, answers

    assert asyncio.run(main()) == (20, "pause", 40, [True, False])
    assert most == 3
    assert command(engine, "ZCARD", leases(limiter, "k")) == 0


def test_a_cancelled_waiter_and_a_cancelled_holder_leave_nothing_held(engine):
    limiter = Limiter(engine, "db", concurrency=1, lease="30s")

    async def holder(entered):
        async with limiter.aio.slot(wait="30s"):
            entered.set()
            await asyncio.sleep(60)

    async def main():
        first, second = asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(holder(first))
        await first.wait()
        waiting = asyncio.create_task(holder(second))
        await asyncio.sleep(0.05)
        for task in (waiting, holding):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await engine.aclose()
        return second.is_set()

    assert asyncio.run(main()) is False
    assert limiter.peek().allowed
