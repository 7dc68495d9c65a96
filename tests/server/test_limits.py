"""Limiters on real servers: every kind of them, frozen and absent ones, both sides."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from tests.server.limit_rig import command, leases, make_engine, until
from workerkit.api.limiter import Limiter
from workerkit.core.events import LimitDown
from workerkit.errors import OutcomeUnknown, RateLimited, StoreUnavailable
from workerkit.limits.decision import Answer, Decision
from workerkit.limits.lease import Slot

YES = Answer(Decision(True, 0, 0.0, 0.0, ""), 0, 0.0)


def stored(engine):
    """Every byte and every expiry on the server."""
    keys = sorted(command(engine, "KEYS", "*"))
    return [(key, command(engine, "DUMP", key), command(engine, "PEXPIRETIME", key)) for key in keys]


# Every kind of server


def test_decisions_are_the_same_on_every_server(other_server):
    engine = make_engine(other_server.url)
    limiter = Limiter(engine, "api", "3/m", "5/h", concurrency=2, margin="10ms")
    began = time.monotonic()
    for left in (2, 1, 0):
        with limiter.slot("k") as slot:
            assert (slot.decision.allowed, slot.decision.remaining, slot.decision.bound_by) == (True, left, "")
    decision = limiter.peek("k")
    took = time.monotonic() - began + 0.01
    assert (decision.allowed, decision.remaining, decision.bound_by) == (False, 0, "3/m")
    assert 60 - took < decision.retry_after <= 60.01
    assert 3600 - took < decision.reset_after <= 3600.02
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
    began = time.monotonic()
    limiter = Limiter(engine, "api", "10/s", "100/m", concurrency=3, margin="2s", lease="20s")
    limiter.pause("b", "1h")
    limiter.configure("b", "1/s")
    with limiter.slot("a") as slot:
        left = lives(engine)
        took = math.ceil((time.monotonic() - began) * 1000)
        assert set(left) == {b"w", b"l", b"p", b"c"}
        assert 62_000 - took <= left[b"w"] <= 63_100
        assert 80_000 - took <= left[b"l"] <= 80_100
        assert 3_600_000 - took <= left[b"p"] <= 3_600_000
        assert 0 < left[b"c"] <= 366 * 86_400_000
        command(engine, "PERSIST", leases(limiter, "a"))
        engine.runner.call(limiter.policy.renew(limiter.keys, limiter.part("a"), slot))
        left, took = lives(engine), math.ceil((time.monotonic() - began) * 1000)
    for each in (b"w", b"l"):  # while it is held, nothing that speaks of it may go
        assert 4 * 20_000 + 62_000 - took <= left[each] <= 4 * 20_000 + 62_000


def lives(engine):
    """How long each key still lives, in ms, by its last letter."""
    return {key[-1:]: command(engine, "PTTL", key) for key in command(engine, "KEYS", "*")}


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
    began = time.monotonic()
    limiter.pause("k", "1h")
    with pytest.raises(RateLimited) as refused, limiter.slot("k"):
        pytest.fail("admitted")
    assert refused.value.bound_by == "pause"
    assert 3600 - (time.monotonic() - began) <= refused.value.retry_after <= 3600.002
    assert limiter.peek("other").allowed
    began = time.monotonic()
    limiter.pause("k", "200ms")
    with limiter.slot("k", wait="30s") as slot:
        assert time.monotonic() - began >= 0.2
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


# Leases


def test_a_live_holder_keeps_its_slot_beyond_its_lease(engine):
    limiter = Limiter(engine, "db", concurrency=1, lease="3s")
    with limiter.slot() as slot:
        first = float(command(engine, "ZSCORE", leases(limiter), slot.owner))
        # Renewed every second, so only a stall of 2 s could lose it.
        until(lambda: float(command(engine, "ZSCORE", leases(limiter), slot.owner)) > first + 3_000_000, 60.0)
        assert not slot.lost
        assert limiter.peek().bound_by == "concurrency"
    assert limiter.peek().allowed


def ask(limiter, owner, key=""):
    """One request for a lease as `owner`: whether it was granted, and by what it was not."""
    limits = limiter.policy
    call = limits.request(limiter.keys, limiter.part(key), limiter.definition.ones, owner)
    return limiter.engine.runner.call(call).decision


def test_only_the_owner_releases_and_renews(engine):
    limiter = Limiter(engine, "db", "5/m", concurrency=1)
    keys, part, run = limiter.keys, limiter.part(""), engine.runner.call
    assert ask(limiter, "me").allowed
    assert run(limiter.policy.release(keys, part, "you")) is False
    assert run(limiter.policy.renew(keys, part, Slot("you", YES))) is False
    assert limiter.peek().bound_by == "concurrency"
    decision = ask(limiter, "me")
    assert (decision.allowed, decision.remaining) == (True, 3), "the same owner pays again, in its own place"
    assert command(engine, "ZCARD", leases(limiter)) == 1
    assert run(limiter.policy.release(keys, part, "me")) is True
    assert run(limiter.policy.release(keys, part, "me")) is False


def test_a_lease_that_ran_out_is_lost_for_good(engine):
    limiter = Limiter(engine, "db", concurrency=2, lease="1s")
    keys, part, run = limiter.keys, limiter.part(""), engine.runner.call
    ask(limiter, "me")
    slot = Slot("me", YES)
    assert run(limiter.policy.renew(keys, part, slot)) is True
    until(lambda: limiter.peek().remaining == 2)
    assert command(engine, "ZCARD", leases(limiter)) == 1, "only a write removes it"
    assert run(limiter.policy.renew(keys, part, slot)) is False
    assert ask(limiter, "you").remaining == 1
    assert command(engine, "ZCARD", leases(limiter)) == 1


# A server that does not answer


def test_what_was_given_up_is_not_charged_when_the_server_wakes(fresh_server):
    engine = make_engine(fresh_server.url)
    limiter = Limiter(engine, "api", "100/h")
    assert limiter.try_acquire().remaining == 99
    fresh_server.freeze()
    with pytest.raises(OutcomeUnknown):
        engine.runner.call(limiter.attempt("", 1, {}), timeout=1.0)
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
    assert [event for event in events if isinstance(event, LimitDown)] == [LimitDown("api", "open", "StoreUnavailable")]
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
        async with limiter.aio.slot("k", wait="60s") as slot:
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
