"""Connections of one process: kept, trimmed, bounded, found dead, never lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from tests.rig import Rig, aio_until, at_once, command, get
from workerkit import WorkerKit
from workerkit.errors import StoreUnavailable
from workerkit.io.pool import Pool
from workerkit.io.server import PoolOptions


def soon():
    return time.monotonic() + 5


def named(server):
    """How many connections the server has from workerkit."""
    return server.cli("CLIENT", "LIST").count("name=workerkit:redis:")


def test_a_connection_is_kept_and_used_again(redis_url):
    rig = Rig(redis_url)
    ids = {rig.runner.call(command("CLIENT", "ID")) for _ in range(5)}
    assert len(ids) == 1
    assert (rig.pool.size, rig.pool.in_use) == (1, 0)


def test_connections_are_named_after_role_host_and_process(redis_server, redis_url):
    import os
    import socket

    rig = Rig(redis_url)
    name = rig.runner.call(command("CLIENT", "GETNAME")).decode()
    assert name == f"workerkit:redis:{socket.gethostname()}:{os.getpid()}"


def test_the_last_one_given_is_the_first_one_taken(redis_url):
    pool = Rig(redis_url).pool
    first, second = pool.take(soon()), pool.take(soon())
    assert (pool.size, pool.in_use) == (2, 2)
    pool.give(first)
    pool.give(second)
    assert pool.take(soon()) is second


def test_fill_opens_the_minimum_and_close_closes_what_is_free(fresh_server):
    pool = Rig(fresh_server.url, options=PoolOptions(minimum=7)).pool
    pool.fill(soon())
    assert (pool.size, pool.in_use, named(fresh_server)) == (7, 0, 7)
    taken = pool.take(soon())
    pool.close()
    assert (pool.size, pool.in_use) == (1, 1)
    pool.give(taken)
    assert (pool.size, pool.in_use) == (1, 0)


def test_what_has_rested_too_long_is_closed_down_to_the_minimum(redis_url):
    pool = Rig(redis_url, options=PoolOptions(minimum=2, idle=60.0)).pool
    links = [pool.take(soon()) for _ in range(5)]
    for link in links:
        pool.give(link)
    assert pool.size == 5
    for link in links:
        link.used -= 61.0
    for _ in range(5):
        pool.give(pool.take(soon()))
    assert pool.size == 2


def test_a_connection_that_is_lost_track_of_is_not_counted_for_ever(redis_url):
    pool = Rig(redis_url, options=PoolOptions(maximum=2)).pool
    for _ in range(4):
        link = pool.take(soon())
        del link
        gc.collect()
    assert pool.in_use == 0


def test_dead_connections_are_all_found_at_once(fresh_server):
    rig = Rig(fresh_server.url)
    rig.warm(5)
    fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
    assert rig.runner.call(get("key")) is None
    assert rig.pool.size == 1


def test_a_connection_with_an_unread_reply_is_not_used(redis_url):
    rig = Rig(redis_url)
    link = rig.pool.take(soon())
    link._sock.sendall(b"PING\r\n")
    link._poll.poll(1000)
    rig.pool.give(link)
    assert rig.runner.call(command("ECHO", "mine")) == b"mine"


def test_never_more_than_the_maximum_under_many_threads(fresh_server):
    rig = Rig(fresh_server.url, timeout=10.0, options=PoolOptions(minimum=2, maximum=4, wait=10.0))
    most = 0
    over = threading.Event()

    def watch():
        nonlocal most
        while not over.is_set():
            most = max(most, named(fresh_server))

    def calls():
        for number in range(50):
            key = f"{threading.get_ident()}:{number}"
            rig.runner.call(command("SET", key, key))
            assert rig.runner.call(get(key)) == key.encode()

    watcher = threading.Thread(target=watch)
    watcher.start()
    answers = at_once([calls] * 30)
    over.set()
    watcher.join()
    print(f"30 threads, {most} connections at most (the server counts those it is still closing), {rig.pool.size} left")
    assert answers == [None] * 30
    assert most <= 4 + 1
    assert rig.pool.size <= 4
    assert rig.pool.in_use == 0


def test_a_connection_given_back_goes_to_whoever_waits(redis_url):
    pool = Rig(redis_url, options=PoolOptions(maximum=1, wait=30.0)).pool
    link = pool.take(soon())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(pool.take(time.monotonic() + 30)))
    thread.start()
    while not pool._waiting:
        pass
    pool.give(link)
    thread.join(5)
    assert answers == [link]


def test_a_dropped_connection_makes_room_for_whoever_waits(redis_url):
    pool = Rig(redis_url, options=PoolOptions(maximum=1, wait=30.0)).pool
    link = pool.take(soon())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(pool.take(time.monotonic() + 30)))
    thread.start()
    while not pool._waiting:
        pass
    pool.drop(link)
    thread.join(5)
    assert len(answers) == 1
    assert answers[0] is not link


def test_a_pool_that_nobody_holds_is_garbage(redis_url):
    import weakref

    pool = weakref.ref(Pool(Rig(redis_url).server))
    gc.collect()
    assert pool() is None


def test_the_async_pool_fills_trims_and_finds_the_dead(fresh_server):
    rig = Rig(fresh_server.url, options=PoolOptions(minimum=3, maximum=6, idle=60.0))

    async def story():
        pool = rig.aio.pools["cache"]
        await pool.fill(soon())
        assert (pool.size, pool.in_use) == (3, 0)
        links = [await pool.take(soon()) for _ in range(5)]
        assert pool.in_use == 5
        for link in links:
            pool.give(link)
            link.used -= 61.0
        pool.trim()
        assert (pool.size, pool.in_use) == (3, 0)
        fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
        assert await rig.aio.call(get("key")) is None
        assert (pool.size, pool.in_use) == (1, 0)
        await rig.aio.close()
        assert pool.size == 0

    asyncio.run(story())


def test_the_async_pool_never_passes_its_maximum(fresh_server):
    rig = Rig(fresh_server.url, timeout=10.0, options=PoolOptions(maximum=4, wait=10.0))

    async def calls(caller):
        for number in range(20):
            key = f"{caller}:{number}"
            await rig.aio.call(command("SET", key, key))
            assert await rig.aio.call(get(key)) == key.encode()
            assert rig.aio.pools["cache"].size <= 4

    async def story():
        await asyncio.gather(*map(calls, range(30)))
        return named(fresh_server), rig.aio.pools["cache"].in_use

    assert asyncio.run(story()) == (4, 0)


@pytest.mark.parametrize("looked", [False, True], ids=["before the loop looked", "after it did"])
@pytest.mark.parametrize("spoiled", ["killed", "a reply that nobody asked for"])
def test_an_async_connection_that_is_not_fit_is_known_at_once(fresh_server, spoiled, looked):
    rig = Rig(fresh_server.url)

    async def story():
        pool = rig.aio.pools["cache"]
        link = await pool.take(soon())
        assert not link.hung_up()
        if spoiled == "killed":
            fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
        else:
            link._transport.write(b"PING\r\n")
        link._poll.poll(5000)
        if looked:
            await aio_until(lambda: not link._poll.poll(0) or link._lost)
        assert link.hung_up()
        pool.give(link)
        assert await rig.aio.call(command("ECHO", "mine")) == b"mine"

    asyncio.run(story())


def test_no_alarm_outlives_its_call(redis_url):
    rig = Rig(redis_url, timeout=60.0)

    async def story():
        for _ in range(3):
            await rig.aio.call(get("key"))
        return [alarm for alarm in asyncio.get_running_loop()._scheduled if not alarm.cancelled()]

    assert asyncio.run(story()) == []


def test_a_kit_that_cannot_be_opened_says_which_store(fresh_server):
    kit = WorkerKit(url=fresh_server.url, hooks=[])
    fresh_server.kill()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        kit.open()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        asyncio.run(kit.aio.open())
    fresh_server.restart()
    with kit:
        assert kit.ping() > 0
