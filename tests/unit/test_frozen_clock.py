"""A kit whose time stands still: what takes hours takes none, and happens at its time."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from workerkit import WorkerKit
from workerkit.errors import DefinitionError, RateLimited
from workerkit.testing.clock import FrozenClock
from workerkit.testing.memory.kit import in_memory

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
S = 1_000_000


@pytest.fixture
def clock():
    return FrozenClock(NOON)


@pytest.fixture
def kit(clock):
    kit = WorkerKit(url="unix:///nowhere/at/all.sock", hooks=[], early=0, jitter=0)
    with in_memory(kit, clock=clock):
        yield kit


@pytest.mark.parametrize("l1", [False, True])
def test_a_result_is_fresh_to_the_microsecond_of_its_ttl(kit, clock, l1):
    calls = []

    @kit.memoize("1h", l1=l1)
    def fn():
        calls.append(1)

    fn()
    fn()  # from here on in the process, with l1
    clock.advance(3599.999)
    fn()
    assert len(calls) == 1
    clock.advance(0.001)
    fn()
    assert len(calls) == 2


def test_a_tier_that_was_there_before_goes_by_it_too(clock):
    kit = WorkerKit(url="unix:///nowhere/at/all.sock", hooks=[], early=0, jitter=0)
    calls = []

    @kit.memoize("1h", l1=True)
    def fn():
        calls.append(1)

    for number in (1, 2):
        with in_memory(kit, clock=clock):
            fn()
            fn()
            clock.advance("59m")
            fn()
            assert len(calls) == 2 * number - 1
            clock.advance("1m")
            fn()
            assert len(calls) == 2 * number


@pytest.mark.parametrize("options", [{}, {"lease_tokens": 2}])
def test_a_limit_has_room_again_after_its_period(kit, clock, options):
    limiter = kit.limiter("api", "4/d", **options)
    assert [limiter.try_acquire().allowed for _ in range(5)] == [*[True] * 4, False]
    assert limiter.try_acquire().retry_after == pytest.approx(86400, abs=1)
    clock.advance("1d")
    clock.advance("1s")
    assert limiter.try_acquire().allowed


def test_waiting_takes_no_time_and_as_much_as_it_says(kit, clock):
    limiter = kit.limiter("api", "1/h", concurrency=5)
    began, real = clock.now_us(), time.monotonic()
    with limiter.slot(wait="2h"):
        pass
    with limiter.slot(wait="2h"):
        pass
    assert clock.now_us() - began == pytest.approx(3600 * S, abs=2 * S)
    assert time.monotonic() - real < 60

    async def wait():
        async with limiter.aio.slot(wait="2h"):
            pass

    asyncio.run(wait())
    assert clock.now_us() - began == pytest.approx(7200 * S, abs=4 * S)


def test_a_wait_that_cannot_suffice_is_refused_at_once(kit, clock):
    limiter = kit.limiter("api", "1/h", concurrency=5)
    with limiter.slot():
        pass
    began = clock.now_us()
    with pytest.raises(RateLimited), limiter.slot(wait="59m"):
        pass
    assert clock.now_us() == began


def test_what_is_held_is_renewed_while_time_passes(kit, clock):
    limiter = kit.limiter("api", concurrency=1, lease="10s")
    with limiter.slot() as slot:
        clock.advance("1h")
        assert not slot.lost
        with pytest.raises(RateLimited), limiter.slot():
            pass
    with limiter.slot():
        pass


def test_what_coroutines_hold_is_renewed_while_they_let_time_pass(kit, clock):
    limiter = kit.limiter("api", concurrency=1, lease="10s")

    async def main():
        async with limiter.aio.slot() as slot:
            await clock.advance_async("1h")
            assert not slot.lost
            with pytest.raises(RateLimited):
                async with limiter.aio.slot():
                    pass

    asyncio.run(main())


def test_counts_are_sent_while_time_passes(kit, clock):
    @kit.memoize("1h")
    def fn():
        return 1

    fn()
    before = kit.client().dbsize()
    clock.advance("1s")
    assert kit.client().dbsize() > before


def test_a_session_ends_after_its_idle_time(kit, clock):
    session = kit.sessions.create({"name": "x"}, idle="30m", absolute="8h")
    clock.advance("29m")
    assert kit.sessions.load(session.id) is not None
    clock.advance("31m")
    assert kit.sessions.load(session.id) is None


def test_it_says_the_time_that_it_was_given(clock):
    assert clock.time() == NOON.timestamp()
    clock.advance("90s")
    assert clock.time() == NOON.timestamp() + 90
    assert clock.now_us() == int(clock.time() * S)


def test_after_the_block_time_is_the_machines_again(clock):
    import workerkit.core.clock
    import workerkit.io.calls
    from workerkit.cache.local import Local

    kit = WorkerKit(url="unix:///nowhere/at/all.sock", hooks=[])
    with in_memory(kit, clock=clock):
        assert workerkit.core.clock.time is not time
    assert workerkit.core.clock.time is time
    assert workerkit.io.calls.monotonic is time.monotonic
    assert Local.__init__.__kwdefaults__["now"] is time.monotonic


@pytest.mark.parametrize("at", [datetime(2030, 1, 1), 0, 1e12])  # noqa: DTZ001 - that is what is refused
def test_a_time_that_will_not_do_is_refused(at):
    with pytest.raises(DefinitionError, match="FrozenClock"):
        FrozenClock(at)


def test_a_key_expires_after_its_last_millisecond(kit, clock):
    client = kit.client()
    client.set("a", 1, px=1000)
    clock.advance(1.0)
    assert client.pttl("a") == 0
    clock.advance(0.001)
    assert client.pttl("a") == -2
