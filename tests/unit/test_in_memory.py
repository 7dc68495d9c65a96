"""A kit on the memory: no server, and nothing of it is left."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from workerkit import WorkerKit
from workerkit.errors import StoreUnavailable
from workerkit.testing.memory.commands.registry import COMMANDS
from workerkit.testing.memory.kit import in_memory

NOWHERE = "unix:///nowhere/at/all.sock"


@pytest.fixture
def kit():
    kit = WorkerKit(url=NOWHERE, hooks=[])
    yield kit
    kit.close()


@pytest.mark.parametrize("l1", [False, True])
def test_a_memoized_function_computes_once_and_anew_when_it_is_invalidated(kit, l1):
    calls = []

    @kit.memoize("1h", tags=["squares"], l1=l1)
    def square(number):
        calls.append(number)
        return number * number

    with in_memory(kit):
        assert [square(3), square(3)] == [9, 9]
        assert calls == [3]
        kit.cache.invalidate(tag="squares")
        assert square(3) == 9
        assert calls == [3, 3]


def test_threads_and_coroutines_meet_in_one_store(kit):
    limiter = kit.limiter("api", "2/h")
    with in_memory(kit):
        assert limiter.try_acquire("a").allowed
        assert asyncio.run(limiter.aio.try_acquire("a")).allowed
        assert not limiter.try_acquire("a").allowed


@pytest.mark.parametrize("l1", [False, True])
def test_each_block_begins_with_an_empty_store(kit, l1):
    calls = []
    limiter = kit.limiter("api", "10/h", lease_tokens=5)

    @kit.memoize("1h", l1=l1)
    def fn():
        calls.append(1)

    for number in (1, 2):
        with in_memory(kit) as store:
            assert store.all_keys() == []
            fn()
            fn()
            assert len(calls) == number
            assert [limiter.try_acquire().allowed for _ in range(11)] == [*[True] * 10, False]


def test_counts_of_a_block_do_not_reach_the_next(kit):
    @kit.memoize("1h")
    def fn():
        return 1

    with in_memory(kit):
        fn()
    with in_memory(kit):
        fn()
        assert fn.memo.stats().misses == 1


def test_after_the_block_the_kit_has_its_own_store_again(kit):
    with in_memory(kit):
        kit.ping()
    with pytest.raises(StoreUnavailable):
        kit.ping()


def test_redis_pys_clients_are_on_the_memory_too(kit):
    with in_memory(kit):
        client = kit.client()
        client.set("a", 1, px=60_000)
        assert client.pipeline().incr("a").get("a").execute() == [2, b"2"]
        assert client.zadd("z", {"m": 1.5}) == 1
        assert client.zrange("z", 0, -1, withscores=True) == [[b"m", 1.5]]

        async def read():
            async with kit.aio.client() as aio:
                return await aio.get("a")

        assert asyncio.run(read()) == b"2"


def test_a_command_that_it_does_not_have_is_named(kit):
    with in_memory(kit), pytest.raises(Exception, match="unknown command 'GEOADD': workerkit's memory has no such"):
        kit.client().execute_command("GEOADD", "k", 1, 1, "m")


def test_the_page_lists_the_commands_there_are():
    page = (Path(__file__).parents[2] / "docs/reference/testing.md").read_text()
    listed = page.partition("few more:")[2].partition("Any other")[0].replace("CLIENT SETNAME", "CLIENT")
    there = {name.decode() for name in COMMANDS} - {"DUMP", "SADD"}  # those are tests' own
    assert set(re.findall("`(.+?)`", listed)) - {"WATCH"} == there | {"MULTI", "EXEC", "DISCARD"}


def test_tokens_taken_ahead_end_with_their_block(kit):
    limiter = kit.limiter("api", "10/h", lease_tokens=5)
    with in_memory(kit):
        assert limiter.try_acquire().allowed
    with in_memory(kit):
        assert [limiter.try_acquire().allowed for _ in range(11)] == [*[True] * 10, False]


def test_what_is_kept_in_the_process_hears_of_every_change(kit):
    calls = []

    @kit.memoize("1h", l1=True)
    def fn():
        calls.append(1)

    with in_memory(kit):
        fn()
        fn()
        fn()
        assert len(calls) == 1
        kit.client().flushall()
        fn()
        assert len(calls) == 2
        fn()
        kit.client().delete(*kit.client().keys("*:v"))
        fn()
        assert len(calls) == 3
