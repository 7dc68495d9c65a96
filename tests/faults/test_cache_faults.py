"""C1 under faults: cache trouble never fails a call, and what must not be lost in silence is loud."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from tests.cache_rig import Coroutines, Source, Threads, begun
from tests.rig import aio_outcome, outcome, until
from workerkit import WorkerKit
from workerkit.core.call import Call
from workerkit.core.events import CacheTrouble
from workerkit.errors import OutcomeUnknown, StoreError

TIMEOUT = 0.2
CALLS = 4


class Functions:
    """One function with every feature that touches Redis, sync and async, on one kit."""

    def __init__(self, url, **settings):
        self.events = []
        self.kit = WorkerKit(url=url, hooks=[self.events.append], **{"timeout": TIMEOUT, "wait": 0.5, **settings})
        options = {"tags": ["user:{n}"], "stale": "1h", "stale_if_error": "1h", "negative": {LookupError: "1m"}}

        @self.kit.memoize("1h", **options)
        def fn(n: int) -> int:
            fn.memo.current.tag("added")
            return n

        @self.kit.memoize("1h", **options)
        async def aio_fn(n: int) -> int:
            aio_fn.memo.current.tag("added")
            return n

        @self.kit.memoize("1h", l1=True)
        def near(n: int) -> int:
            return n

        self.fn, self.aio_fn, self.near = fn, aio_fn, near

    def keys(self, which):
        """Of a function's first entry."""
        memo = self.fn.memo
        place, _ = memo.function.place((1,), {})
        tags = self.kit.engine.tags
        return {
            "value": place.value,
            "lease": place.lease,
            "tag": tags.key(tags.part("user:1")),
            "added tag": tags.key(tags.part("added")),
            "ledger": memo.fetcher.ledger.key,
        }[which]

    @property
    def trouble(self):
        return [event for event in self.events if isinstance(event, CacheTrouble)]

    def answers(self, numbers):
        """What calls of all kinds give for each of `numbers`, and what each took at most."""
        took, wrong = [], []

        def check(number, act):
            began = time.monotonic()
            answer = outcome(act)
            took.append(time.monotonic() - began)
            if answer != number:
                wrong.append(answer)

        async def on_a_loop():
            for number in numbers:
                began = time.monotonic()
                answer = await aio_outcome(self.aio_fn(number))
                took.append(time.monotonic() - began)
                if answer != number:
                    wrong.append(answer)
            await self.kit.aio.close()

        for number in numbers:
            check(number, lambda n=number: self.fn(n))
            check(number, lambda n=number: self.near(n))
            check(number, lambda n=number: self.fn.memo.entry(n).value)
            check(number, lambda n=number: self.kit.cache.get_or_compute(f"k{n}", lambda: n, ttl="1h", tags=["t"]))
        asyncio.run(on_a_loop())
        return wrong, took

    def invalidations(self):
        """The outcome of every verb that takes something away."""
        kit, fn = self.kit, self.fn

        async def on_a_loop():
            acts = fn.memo.aio.invalidate(1), kit.cache.aio.invalidate(tag="user:1"), kit.cache.aio.delete("k1")
            return [await aio_outcome(act) for act in acts]

        acts = (
            lambda: fn.memo.invalidate(1),
            lambda: kit.cache.invalidate(tag="user:1"),
            lambda: kit.cache.delete("k1"),
        )
        return [outcome(act) for act in acts] + asyncio.run(on_a_loop())


@contextlib.contextmanager
def killed(server, functions):
    server.kill()
    yield
    server.start()


@contextlib.contextmanager
def frozen(server, functions):
    server.freeze()
    yield
    server.thaw()


@contextlib.contextmanager
def memory_full(server, functions):
    server.cli("CONFIG", "SET", "maxmemory", "1")
    yield
    server.cli("CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def read_only(server, functions):
    server.cli("REPLICAOF", "127.0.0.1", "1")
    yield
    server.cli("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def pool_used_up(server, functions):
    runner = functions.kit.engine.runner
    link = runner.pools["cache"].take(time.monotonic() + 5)
    yield
    runner.pools["cache"].give(link)


FAULTS = {
    "killed": (killed, {}),
    "frozen": (frozen, {}),
    "memory full": (memory_full, {}),
    "read-only": (read_only, {}),
    "pool used up": (pool_used_up, {"pool_min": 0, "pool_max": 1, "pool_timeout": "20ms"}),
}
# A full memory has room for a deletion, and only the threads' pool is used up: there these succeed.
QUIET = {"memory full": {0, 2, 3, 5}, "pool used up": {3, 4, 5}}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_no_call_fails_and_no_invalidation_is_lost_in_silence(fresh_server, fault, warm):
    break_it, settings = FAULTS[fault]
    functions = Functions(fresh_server.url, **settings)
    numbers = range(1, CALLS)
    if warm:
        assert functions.answers(numbers)[0] == []
    else:
        functions.kit.ping()
    with break_it(fresh_server, functions):
        wrong, took = functions.answers(numbers)
        invalidated = functions.invalidations()
    print(f"{fault}: {len(took)} calls, {len(wrong)} failed, {sum(took) / len(took) * 1000:.0f} ms each")
    assert wrong == []
    loud = [isinstance(each, StoreError) for each in invalidated]
    assert loud == [place not in QUIET.get(fault, ()) for place in range(6)], invalidated
    if not warm or fault in {"killed", "frozen", "pool used up"}:
        assert functions.trouble
    else:
        assert not functions.trouble  # what is there can be read
    until(lambda: functions.kit.cache.set("back", 1, ttl=60))
    assert functions.answers(numbers)[0] == []
    assert {functions.fn.memo.entry(number).source for number in numbers} == {"hit"}
    functions.kit.close()


@pytest.mark.parametrize("which", ["value", "lease", "tag", "added tag", "ledger"])
def test_a_key_of_a_wrong_type(fresh_server, which):
    functions = Functions(fresh_server.url, timeout=10)
    kit, memo = functions.kit, functions.fn.memo
    kit.ping()
    key = functions.keys(which)
    fresh_server.cli(*(("SET", key, "text") if which == "ledger" else ("LPUSH", key, "x")))
    assert functions.answers([1] * 5)[0] == []
    if which == "ledger":  # a hash
        memo.fetcher.ledger.hits += 1
        with pytest.raises(StoreError):
            memo.stats()
    elif which in {"tag", "added tag"}:
        assert functions.trouble
        with pytest.raises(StoreError):
            kit.cache.invalidate(tag="user:1" if which == "tag" else "added")
        assert memo.entry(1).source == "computed"  # nothing could be kept under it
        fresh_server.cli("DEL", key)
        functions.fn(1)
    assert memo.entry(1).source == "hit"
    assert memo.invalidate(1)
    assert [memo.entry(1).source for _ in range(2)] == ["computed", "hit"]
    kit.close()


@pytest.mark.parametrize("data", [b"", b"wk", b"garbage" * 40], ids=["empty", "cut", "noise"])
def test_a_corrupt_entry(fresh_server, data):
    functions = Functions(fresh_server.url, timeout=10)
    assert functions.answers([1])[0] == []
    fresh_server.cli("SET", functions.keys("value"), data, "EX", 60)
    assert functions.fn.memo.entry(1).source == "computed"
    assert functions.fn.memo.entry(1).source == "hit"
    functions.kit.close()


def test_connections_killed_all_the_time(fresh_server):
    functions, over = Functions(fresh_server.url), threading.Event()
    kills = 0

    def kill():
        nonlocal kills
        while not over.is_set():
            fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
            kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        wrong, took, number = [], [], 1
        while kills <= 50 or not took:
            more, longer = functions.answers(range(number, number + 20))
            wrong, took, number = wrong + more, took + longer, number + 20
        invalidated = [each for _ in range(10) for each in functions.invalidations()]
    finally:
        over.set()
        killer.join()
    print(f"{kills} kills under {len(took)} calls, 0 failed, max {max(took) * 1000:.0f} ms")
    assert wrong == []
    assert all(isinstance(each, (bool, StoreError, type(None))) for each in invalidated), invalidated
    functions.kit.close()


@pytest.mark.parametrize("kind", [Threads, Coroutines])
def test_without_redis_a_process_computes_once_for_all_its_callers(fresh_server, kind):
    callers, source, kit = kind(), Source(), WorkerKit(url=fresh_server.url, hooks=[])
    fn = callers.memoize(kit, lambda memo: source.read(), "1h", tags=["t"])
    fresh_server.kill()
    source.hold()
    calls = [begun(callers, kit, source, fn, 1) for _ in range(20)]
    source.go()
    assert {call.result(10) for call in calls} == {"old"}
    assert source.reads == 1
    callers.close(kit)


@pytest.mark.parametrize("kind", [Threads, Coroutines])
def test_without_redis_from_the_start_a_failure_is_the_functions_own(kind):
    callers, source, kit = kind(), Source(), WorkerKit(url="redis://127.0.0.1:1/0", hooks=[])
    source.failing = True
    fn = callers.memoize(kit, lambda memo: source.read(), "1h", stale_if_error="1h")
    with pytest.raises(LookupError):
        callers.start(fn, 1).result(10)
    callers.close(kit)


def test_a_claim_that_may_have_been_heard_is_repeated(fresh_server):
    kit, source = WorkerKit(url=fresh_server.url, hooks=[]), Source()
    fn = Threads().memoize(kit, lambda memo: source.read(), "1h")
    entries = fn.memo.fetcher.entries
    claim = entries.claim

    def lost(reply):
        raise OutcomeUnknown

    def unheard(*args, **options):
        entries.claim = claim
        call = claim(*args, **options)
        return Call(call.name, call.store, lost, script=call.script, keys=call.keys, args=call.args)

    entries.claim = unheard
    assert fn(1) == "old"
    assert fn.memo.peek(1) == "old"  # it had the lease, and knew
    kit.close()


def test_an_old_value_makes_up_for_a_failure_where_there_is_no_lease(fresh_server):
    """Redis answers reads and refuses writes: what is kept for errors is there for them still."""
    kit, failing, late = WorkerKit(url=fresh_server.url, hooks=[]), [], [0]
    now = kit.engine.now_us
    kit.engine.now_us = lambda: now() + late[0]

    @kit.memoize("10s", stale_if_error="1h")
    def fn() -> str:
        if failing:
            raise LookupError
        return "old"

    assert fn() == "old"
    failing.append(True)
    late[0] = 20_000_000
    fresh_server.cli("CONFIG", "SET", "maxmemory", "1")
    entry = fn.memo.entry()
    assert (entry.value, entry.source) == ("old", "error")
    kit.close()


@pytest.fixture
def evicting(fresh_server):
    fresh_server.cli("CONFIG", "SET", "maxmemory", "50mb")
    fresh_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    return fresh_server


@pytest.mark.parametrize("tag", ["declared", "added"])
@pytest.mark.parametrize("invalidated", [True, False])
def test_a_tag_whose_marker_the_server_has_dropped_proves_nothing(evicting, tag, invalidated):
    kit, callers, source = WorkerKit(url=evicting.url, hooks=[]), Threads(), Source()

    def read(memo):
        memo.current.tag("added")
        return source.read()

    fn = callers.memoize(kit, read, "1h", tags=["declared"])
    source.hold()
    before = begun(callers, kit, source, fn, 1)
    until(lambda: source.reads)
    if invalidated:
        source.value = "new"
        kit.cache.invalidate(tag=tag)
    marker = kit.engine.tags.key(kit.engine.tags.part(tag))
    evicting.cli("DEL", marker)
    source.go()
    assert before.result(10) == "old"
    assert fn.memo.entry(1).value == source.value
    assert source.reads == 2  # not kept, whether it was invalidated or not
    assert fn.memo.entry(1).source == "hit"
    evicting.cli("DEL", marker)
    source.value = "newer"
    assert fn.memo.entry(1).value == "newer"  # neither does an entry stand without it
    callers.close(kit)
