"""C2 and C5: one computation for all, and no key that stays for ever."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import threading
import time

import pytest
from celery import Celery

from tests.cache_rig import Clock, Source, Threads, begun
from tests.rig import aio_until, outcome, until
from workerkit import L1, WorkerKit


@pytest.fixture
def kit(redis_url):
    with WorkerKit(url=redis_url, hooks=[], early=0) as kit:
        yield kit


# C2


def slow(kit, calls, *, asynchronous):
    """The one function that all processes have, as a plain one or as a coroutine function."""

    def count(n):
        with calls.get_lock():
            calls.value += 1
        return n * 2

    def plain(n: int) -> int:
        time.sleep(0.3)
        return count(n)

    async def coroutine(n: int) -> int:
        await asyncio.sleep(0.3)
        return count(n)

    fn = coroutine if asynchronous else plain
    fn.__qualname__ = "slow"
    return kit.memoize("1m")(fn)


def call_at_once(url, calls, start, answers, threads, tasks):
    kit = WorkerKit(url=url, hooks=[], timeout=10, pool_timeout=10)
    fn, aio_fn = slow(kit, calls, asynchronous=False), slow(kit, calls, asynchronous=True)
    assert fn.memo.key(1) == aio_fn.memo.key(1)
    got = []
    running = [threading.Thread(target=lambda: got.append(fn(21))) for _ in range(threads)]

    async def on_a_loop():
        got.extend(await asyncio.gather(*[aio_fn(21) for _ in range(tasks)]))
        await kit.aio.close()

    running.append(threading.Thread(target=lambda: asyncio.run(on_a_loop())))
    start.wait(30)
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    answers.put(got)
    kit.close()


@pytest.mark.real
def test_a_thousand_callers_of_four_processes_cost_one_computation(redis_url):
    context = multiprocessing.get_context("fork")
    calls, start, answers = context.Value("i", 0), context.Barrier(4), context.Queue()
    args = (redis_url, calls, start, answers, 150, 100)
    processes = [context.Process(target=call_at_once, args=args) for _ in range(4)]
    for process in processes:
        process.start()
    got = [each for _ in processes for each in answers.get(timeout=60)]
    for process in processes:
        process.join(10)
    print(f"{len(got)} callers, {calls.value} computation")
    assert got == [42] * 1000
    assert calls.value == 1


LEASE = 0.5


def lead_and_hang(url, started):
    kit = WorkerKit(url=url, hooks=[])
    hanging(kit, lambda: (started.set(), threading.Event().wait()))(1)


def hanging(kit, act):
    def fn(n: int) -> str:
        return act()

    fn.__qualname__ = "hanging"
    return kit.memoize("1m", lease=LEASE)(fn)


@pytest.mark.real
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_is_gone_costs_the_next_at_most_its_lease(redis_url, stop):
    context = multiprocessing.get_context("fork")
    started, began = context.Event(), []
    leader = context.Process(target=lead_and_hang, args=(redis_url, started))
    leader.start()
    assert started.wait(10)
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        fn = hanging(kit, lambda: began.append(time.monotonic()) or "mine")
        callers = Threads()
        waiting = [begun(callers, kit, Source(), fn, 1) for _ in range(10)]
        # Renewed, so that it is the whole lease that is waited for, and the leader's end that begins it.
        assert not any(future.done() for future in waiting)
        gone = time.monotonic()
        os.kill(leader.pid, stop)
        assert {future.result(10) for future in waiting} == {"mine"}
        os.kill(leader.pid, signal.SIGKILL)
        leader.join(10)
        callers.close()
    gap = began[0] - gone
    print(f"the next leader began {gap:.2f} s after the last one's end; the lease is {LEASE} s")
    assert len(began) == 1
    assert gap <= LEASE + 1.0


def test_a_failure_is_shared_and_frees_the_lease_at_once(kit, callers):
    source = Source()
    source.failing = True
    source.hold()
    fn = callers.memoize(kit, lambda memo: source.read(), "1m", lease="30s")
    failing = [begun(callers, kit, source, fn, 1) for _ in range(20)]
    source.go()
    assert all(isinstance(outcome(future.result), LookupError) for future in failing)
    assert source.reads == 1
    began = time.monotonic()
    source.failing = False
    assert callers.start(fn, 1).result(10) == "old"
    assert time.monotonic() - began < 10  # the lease would have taken 30 s


def test_a_waiter_of_another_process_leads_after_a_failure(kit, redis_url, callers):
    source = Source()
    source.failing = True
    source.hold()
    fn = callers.memoize(kit, lambda memo: source.read(), "1m", lease="30s")
    with WorkerKit(url=redis_url, hooks=[]) as other:
        there = Threads()
        same = there.memoize(other, lambda memo: "theirs", "1m", lease="30s")
        same.memo.function.__dict__["name"] = fn.memo.function.name
        leading = begun(callers, kit, source, fn, 1)
        until(lambda: source.reads)
        waiting = begun(there, other, source, same, 1)
        source.go()
        assert isinstance(outcome(leading.result), LookupError)
        assert waiting.result(10) == "theirs"
        there.close()


@pytest.mark.parametrize("cancelled", [(0,), (5,), (0, 3, 9), tuple(range(9))])
def test_who_is_cancelled_leaves_the_others_whole(redis_url, cancelled):
    async def main():
        async with WorkerKit(url=redis_url, hooks=[]) as kit:
            computing, go, calls = asyncio.Event(), asyncio.Event(), []

            @kit.memoize("1m")
            async def fn() -> int:
                calls.append(1)
                computing.set()
                await go.wait()
                return 1

            tasks = [asyncio.create_task(fn()) for _ in range(10)]
            async with asyncio.timeout(10):
                await computing.wait()
            (shared,) = kit.engine.aio_runner._here().shared.values()
            await aio_until(lambda: len(shared._callbacks) == 11)  # its own, and one for each caller
            for place in cancelled:
                tasks[place].cancel()
            await asyncio.sleep(0)
            go.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for place, result in enumerate(results):
                assert isinstance(result, asyncio.CancelledError) if place in cancelled else result == 1
            assert calls == [1]
            assert (await fn.memo.aio.entry()).source == "hit"

    asyncio.run(main())


# C5


def test_every_key_of_every_feature_has_a_ttl_and_the_grammar(redis_url, redis_server):
    app = Celery(broker="memory://", set_as_current=False)
    kit = WorkerKit(app, url=redis_url, hooks=[])
    clock, failing = Clock(kit), []

    @kit.task
    @kit.memoize("10s", stale="1h", refresh="queue", tags=["user:{n}"], l1=L1(ttl="1s"))
    def queued(n: int) -> int:
        queued.memo.current.tag("added", "and:{more}\n")
        return n

    @kit.memoize("10s", stale_if_error="1h", negative={KeyError: "1m"}, version="a:b{c}", key="{n}:{{}}")
    def failing_one(n: int) -> int:
        if failing:
            raise failing[0]
        return n

    async def on_a_loop():
        await kit.cache.aio.set("k", 1, ttl=60, tags=["t"])
        await kit.cache.aio.get_or_compute("l", lambda: 1, ttl=60, stale=60)
        await kit.aio.close()

    asyncio.run(on_a_loop())
    for n in range(3):
        assert queued(n) == queued(n) == n
        assert failing_one(n) == n
    clock.late = 11
    assert queued(1) == 1  # which queues a refresh
    failing.append(LookupError())
    assert failing_one(1) == 1  # which backs off
    failing[0] = KeyError("k")
    with pytest.raises(KeyError):
        failing_one(9)  # which is remembered
    queued.memo.set(5, 5)
    queued.memo.invalidate(0)
    kit.cache.invalidate(tag="never used")
    kit.cache.set_many({"a": 1, "{b}:": 2}, ttl="1m", tags=["x", "y"])
    held = failing_one.memo.function.place((7,), {})[0]
    kit.engine.runner.call(failing_one.memo.fetcher.entries.claim(held, "c-killed", b""))
    kit.cache.stats()
    kit.close()

    keys = redis_server.cli("KEYS", "*")
    suffixes = {key[-1] for key in keys}
    assert suffixes == {"v", "l", "t", "n", "i"}
    for key in keys:
        assert re.fullmatch(r"wk:c:\{[A-Za-z0-9_.@%~-]+:[A-Za-z0-9]+\}:[a-z]", key), key
        assert redis_server.cli("PTTL", key) > 0, key
