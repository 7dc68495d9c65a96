"""Memoized functions on a real server: hits, single flight, leases, invalidation, trouble."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task
from celery.exceptions import Ignore
from pydantic import BaseModel

from tests.rig import until
from workerkit import WorkerKit
from workerkit.core.events import CacheTrouble, Event
from workerkit.errors import CodecError, DefinitionError, EncodingError, RateLimited, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workerkit.testing.servers import RunningServer


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def kit(redis_url: str, events: list[Event]) -> Iterator[WorkerKit]:
    with WorkerKit(url=redis_url, hooks=[events.append]) as kit:
        yield kit


class Profile(BaseModel):
    name: str
    age: int | None = None


def test_hit_gives_what_the_miss_gave(kit: WorkerKit) -> None:
    calls = []

    @kit.memoize("1m")
    def profile(user: int, *, loud: bool = False) -> Profile:
        calls.append(user)
        return Profile(name="ADA" if loud else "ada")

    assert profile(1) == profile(user=1, loud=False) == Profile(name="ada")
    assert profile(1, loud=True).name == "ADA"
    assert calls == [1, 1]
    stats = profile.memo.stats()
    assert (stats.hits, stats.misses, stats.computations, stats.hit_rate) == (1, 2, 2, 1 / 3)
    assert profile.memo.stats() == stats  # counted once


def test_only_the_return_annotation_needs_to_be_there(kit: WorkerKit) -> None:
    @kit.memoize("1m")
    @kit.throttle(kit.limiter("api", "100/s"))
    def described(a: NotImported) -> Profile:  # type: ignore[name-defined]  # noqa: F821 - as under TYPE_CHECKING
        return Profile(name=str(a))

    assert described(1) == described(1) == Profile(name="1")

    @kit.memoize("1m")
    def unknown(a: int) -> NotImported:  # type: ignore[name-defined]  # noqa: F821 - as under TYPE_CHECKING
        return a

    with pytest.raises(DefinitionError, match=r"NotImported.*import it at run time"):
        unknown(1)


def test_none_is_a_value_like_any_other(kit: WorkerKit) -> None:
    calls = []

    @kit.memoize("1m")
    def nothing() -> None:
        calls.append(1)

    nothing(), nothing()
    assert calls == [1]


def test_handle(kit: WorkerKit) -> None:
    count = iter(range(100))

    @kit.memoize("1m")
    def number(n: int) -> int:
        return n + next(count)

    assert number.memo.peek(5) is None
    assert number(5) == 5
    assert number.memo.peek(5) == 5
    assert number.memo.stats().hits == 0  # a look is no use
    assert number.memo.refresh(5) == 6
    assert number(5) == 6
    number.memo.set(50, 5)
    assert number(n=5) == 50
    assert number.memo.invalidate(5)
    assert not number.memo.invalidate(5)
    assert number(5) == 7


def test_every_key_has_a_ttl_and_the_namespace(kit: WorkerKit, redis_server: RunningServer) -> None:
    @kit.memoize("90s")
    def word(text: str) -> str:
        return text

    word("a")
    word.memo.stats()
    keys = redis_server.cli("KEYS", "*")
    assert isinstance(keys, list)
    assert len(keys) == 3
    assert all(key.startswith("wk:c:{") for key in keys)
    lives = {key: redis_server.cli("PTTL", key) for key in keys}
    assert all(isinstance(life, int) and life > 0 for life in lives.values()), lives
    value = word.memo.key("a")
    assert isinstance(lives[value], int)
    assert 80_000 < lives[value] <= 90_000


def test_arguments_are_in_no_key(kit: WorkerKit, redis_server: RunningServer) -> None:
    @kit.memoize("1m")
    def login(password: str) -> bool:
        return bool(password)

    login("hunter2")
    assert "hunter2" not in repr(redis_server.cli("KEYS", "*"))


def test_key_template_and_ignore(kit: WorkerKit) -> None:
    calls: list[Any] = []

    @kit.memoize("1m", key="{order.id}")
    def total(order: Any) -> int:
        calls.append(order)
        return 1

    @kit.memoize("1m", ignore=("session",))
    def page(session: object, path: str) -> str:
        calls.append(path)
        return path

    class Order:
        def __init__(self, number: int) -> None:
            self.id = number

    total(Order(1)), total(Order(1)), total(Order(2))
    page(object(), "/a"), page(object(), "/a")
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": "soon"}, "ttl"),
        ({"ttl": 1, "stale": "0s"}, "stale"),
        ({"ttl": 1, "key": "{nobody}"}, "nobody"),
        ({"ttl": 1, "key": "{a}", "ignore": ("a",)}, "ignore"),
        ({"ttl": 1, "ignore": ("nobody",)}, "nobody"),
        ({"ttl": 1, "lease": float("nan")}, "lease"),
    ],
)
def test_bad_options_are_refused_where_they_are_written(kit: WorkerKit, options: dict[str, Any], names: str) -> None:
    with pytest.raises(DefinitionError, match=names):

        @kit.memoize(**options)
        def fn(a: int) -> int:
            return a


def test_argument_that_cannot_be_encoded_names_itself_and_the_ways_out(kit: WorkerKit) -> None:
    @kit.memoize("1m")
    def fn(connection: object) -> int:
        return 1

    with pytest.raises(EncodingError, match=r"connection.*object") as caught:
        fn(object())
    assert "ignore=" in str(caught.value)
    assert "key=" in str(caught.value)


def test_result_that_cannot_be_held_is_one_clear_error_and_frees_the_lease(kit: WorkerKit, redis_url: str) -> None:
    small = WorkerKit(url=redis_url, max_bytes=100)

    @small.memoize("1m")
    def big(n: int) -> str:
        return "x" * n

    with pytest.raises(CodecError, match="max_bytes"):
        big(1000)
    assert big(10) == "x" * 10
    with pytest.raises(CodecError, match="max_bytes"):  # at once: the first one's lease is gone
        big(1000)
    small.close()


def test_ttl_of_the_result(kit: WorkerKit) -> None:
    calls = []

    @kit.memoize(lambda found: "1m" if found else None)
    def search(text: str) -> list[str]:
        calls.append(text)
        return [text] if text == "hit" else []

    search("hit"), search("hit"), search("miss"), search("miss")
    assert calls == ["hit", "miss", "miss"]


def test_threads_share_one_computation(kit: WorkerKit) -> None:
    calls = []
    started, go = threading.Event(), threading.Event()

    @kit.memoize("1m")
    def slow(n: int) -> int:
        calls.append(n)
        started.set()
        assert go.wait(10)
        return n

    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(slow, 1) for _ in range(20)]
        assert started.wait(10)
        (shared,) = kit.engine.runner._shared.values()
        until(lambda: len(shared._latches) == 19)
        go.set()
        assert {future.result(10) for future in futures} == {1}
    assert calls == [1]
    assert slow.memo.stats().waits == 0  # they joined in the process: nobody asked Redis again and again


def test_threads_share_one_failure_and_the_next_call_tries_again(kit: WorkerKit) -> None:
    calls = []
    go = threading.Event()

    @kit.memoize("1m")
    def failing() -> int:
        calls.append(1)
        assert go.wait(10)
        raise LookupError("upstream")

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(failing) for _ in range(8)]
        while not calls:
            pass
        # The other seven have joined, or will; one that comes after the failure computes again.
        go.set()
        assert all(isinstance(future.exception(10), LookupError) for future in futures)
    before = len(calls)
    with pytest.raises(LookupError):
        failing()
    assert len(calls) == before + 1


def _count(url: str, calls: Any, start: Any, answers: Any) -> None:
    kit = WorkerKit(url=url, hooks=[])

    @kit.memoize("1m", version="shared")
    def slow(n: int) -> int:
        with calls.get_lock():
            calls.value += 1
        return n * 2

    start.wait()
    with ThreadPoolExecutor(5) as pool:
        answers.put(list(pool.map(slow, [21] * 25)))
    kit.close()


@pytest.mark.real
def test_processes_share_one_computation(redis_url: str) -> None:
    context = multiprocessing.get_context("fork")
    calls, start, answers = context.Value("i", 0), context.Barrier(4), context.Queue()
    processes = [context.Process(target=_count, args=(redis_url, calls, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=30) for _ in processes] == [[42] * 25] * 4
    for process in processes:
        process.join(10)
    assert calls.value == 1


def _lead_for_ever(url: str, started: Any) -> None:
    kit = WorkerKit(url=url, hooks=[])

    @kit.memoize("1m", lease="300ms", version="shared", key="k")
    def fn() -> str:
        started.set()
        threading.Event().wait()
        return "never"

    fn()


@pytest.mark.real
def test_leader_killed_the_next_one_leads_within_the_lease(redis_url: str) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    leader = context.Process(target=_lead_for_ever, args=(redis_url, started))
    leader.start()
    assert started.wait(10)
    kit = WorkerKit(url=redis_url, hooks=[])

    @kit.memoize("1m", lease="300ms", version="shared", key="k")
    def fn() -> str:
        return "mine"

    # The same entry: the key says nothing of where the function was defined but its module and name.
    fn.memo.function.__dict__["name"] = _name_of_leader(kit)
    assert leader.pid is not None
    os.kill(leader.pid, signal.SIGKILL)
    leader.join(10)
    assert fn() == "mine"
    stats = fn.memo.stats()
    assert (stats.waits, stats.misses, stats.hits) == (1, 1, 0)
    kit.close()


def _name_of_leader(kit: WorkerKit) -> str:
    keys = kit.engine.runner.call(_keys_call())
    return str(keys[0].decode().split("{")[1].split(":")[0])


def _keys_call() -> Any:
    from workerkit.core.call import Call

    return Call("test.keys", "cache", list, args=("KEYS", "*:l"))


def test_computation_from_before_an_invalidation_is_not_stored(kit: WorkerKit) -> None:
    version = ["old"]
    computing, go = threading.Event(), threading.Event()

    @kit.memoize("1m")
    def read() -> str:
        seen = version[0]
        computing.set()
        assert go.wait(10)
        return seen

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(read)
        assert computing.wait(10)
        version[0] = "new"
        read.memo.invalidate()
        go.set()
        assert first.result(10) == "old"
    assert read.memo.peek() is None
    assert read() == "new"


def test_computation_from_before_a_set_is_not_stored(kit: WorkerKit) -> None:
    computing, go = threading.Event(), threading.Event()

    @kit.memoize("1m")
    def read() -> str:
        computing.set()
        assert go.wait(10)
        return "old"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(read)
        assert computing.wait(10)
        read.memo.set("new")
        go.set()
        assert first.result(10) == "old"
    assert read.memo.peek() == "new"


def test_lease_is_renewed_while_computing(kit: WorkerKit, redis_url: str) -> None:
    calls = []
    computing, go = threading.Event(), threading.Event()

    def made(kit: WorkerKit) -> Any:
        @kit.memoize("1m", lease="1500ms")
        def slow() -> int:
            calls.append(1)
            computing.set()
            assert go.wait(10)
            return 1

        return slow

    other = WorkerKit(url=redis_url, hooks=[])
    first, second = made(kit), made(other)
    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(first)
        assert computing.wait(10)
        waiting = pool.submit(second)
        lease, client = first.memo.function.place((), {})[0].lease, kit.client()
        for _ in range(2):
            client.pexpire(lease, 1250)
            until(lambda: client.pttl(lease) > 1250)
        client.close()
        go.set()
        assert leading.result(10) == waiting.result(10) == 1
    assert calls == [1]
    other.close()


def test_bound_task_leaves_self_out(redis_url: str) -> None:
    app = Celery(set_as_current=False)
    kit = WorkerKit(app, url=redis_url, hooks=[])

    @kit.task(bind=True)
    @kit.memoize("1m")
    def named(self: Task[Any, Any], a: int) -> str:
        return f"{self.name.rpartition('.')[2]}{a}"

    assert named(1) == "named1"
    assert named(a=1) == "named1"
    assert kit.memo(named).stats().computations == 1
    kit.close()


def test_stale_is_served_while_one_refreshes(kit: WorkerKit) -> None:
    version = ["old"]
    computing, go = threading.Event(), threading.Event()
    go.set()

    @kit.memoize("100ms", stale="1m")
    def read() -> str:
        seen = version[0]
        computing.set()
        assert go.wait(10)
        return seen

    assert read() == "old"
    _until(lambda: read.memo.peek() is None)
    version[0] = "new"
    go.clear(), computing.clear()
    with ThreadPoolExecutor(1) as pool:
        refreshing = pool.submit(read)
        assert computing.wait(10)
        assert read() == "old"
        go.set()
        assert refreshing.result(10) == "new"
    assert read.memo.stats().stale >= 1


def _until(true: Any) -> None:
    """Wait for something that only the server's clock brings about; fails by the test's own time limit."""
    pause = threading.Event()
    for _ in range(1000):
        if true():
            return
        pause.wait(0.01)
    pytest.fail("never came true")


def test_corrupt_entry_is_a_miss_and_counted(kit: WorkerKit, redis_server: RunningServer, events: list[Event]) -> None:
    @kit.memoize("1m")
    def fn(a: int) -> int:
        return a

    fn(1)
    redis_server.cli("SET", fn.memo.key(1), b"garbage", "EX", 60)
    assert fn(1) == 1
    assert [event for event in events if isinstance(event, CacheTrouble)]
    assert fn.memo.stats().errors == 1
    assert fn(1) == 1  # repaired: stored again
    assert fn.memo.stats().hits == 1


def test_without_redis_calls_compute_and_invalidation_is_loud(fresh_server: RunningServer, events: list[Event]) -> None:
    kit = WorkerKit(url=fresh_server.url, hooks=[events.append])

    @kit.memoize("1m")
    def fn(a: int) -> int:
        return a

    assert fn(1) == 1
    fresh_server.kill()
    assert [fn(n) for n in range(10)] == list(range(10))
    assert kit.cache.get("k", "default") == "default"
    assert kit.cache.set("k", 1, ttl=1) is False
    with pytest.raises(StoreError):
        fn.memo.invalidate(1)
    with pytest.raises(StoreError):
        kit.cache.delete("k")
    assert any(isinstance(event, CacheTrouble) for event in events)
    fresh_server.restart()
    _until(lambda: kit.cache.set("k", 1, ttl=60))
    assert fn(3) == 3
    kit.close()


def test_coroutines(redis_url: str) -> None:
    async def main() -> None:
        async with WorkerKit(url=redis_url, hooks=[]) as kit:
            calls = []

            @kit.memoize("1m")
            async def fn(a: int) -> dict[str, int]:
                calls.append(a)
                await asyncio.sleep(0)
                return {"a": a}

            assert await asyncio.gather(*[fn(1) for _ in range(100)]) == [{"a": 1}] * 100
            assert calls == [1]
            assert await fn.memo.aio.peek(1) == {"a": 1}
            assert await fn.memo.aio.refresh(1) == {"a": 1}
            await fn.memo.aio.set({"a": 9}, 1)
            assert await fn(1) == {"a": 9}
            assert await fn.memo.aio.invalidate(1)
            assert (await fn.memo.aio.stats()).computations == 2
            assert await kit.cache.aio.set("k", [1], ttl="1m")
            assert await kit.cache.aio.get("k") == [1]
            assert await kit.cache.aio.delete("k")

    asyncio.run(main())


def test_one_cancelled_waiter_leaves_the_others_whole(redis_url: str) -> None:
    async def main() -> None:
        async with WorkerKit(url=redis_url, hooks=[]) as kit:
            computing, go = asyncio.Event(), asyncio.Event()

            @kit.memoize("1m")
            async def fn() -> int:
                computing.set()
                await go.wait()
                return 1

            tasks = [asyncio.create_task(fn()) for _ in range(10)]
            await computing.wait()
            tasks[0].cancel()
            tasks[5].cancel()
            await asyncio.sleep(0)
            go.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in results].count(True) == 2
            assert results.count(1) == 8

    asyncio.run(main())


def test_an_embedded_server_ends_with_its_kit(require: Any) -> None:
    require("valkey")
    kit = WorkerKit(url="embedded://", hooks=[])
    assert kit.cache.set("k", 1, ttl=60)
    first = kit.engine.servers["cache"].address.arguments["path"]
    assert os.path.exists(first)  # noqa: PTH110 - it is a socket's path, as text
    kit.close()
    assert not os.path.exists(first)  # noqa: PTH110 - as above
    assert kit.cache.get("k") is None  # a new server, with nothing in it
    kit.close()


def test_plain_values(kit: WorkerKit) -> None:
    assert kit.cache.get("absent") is None
    for value in (None, 0, "", [1, {"a": None}], "ü" * 5000):
        assert kit.cache.set("key with {braces} and\nnewline", value, ttl="1m")
        assert kit.cache.get("key with {braces} and\nnewline", "default") == value
    assert kit.cache.delete("key with {braces} and\nnewline")
    with pytest.raises(CodecError):
        kit.cache.set("k", object(), ttl=1)
    with pytest.raises(DefinitionError, match="ttl"):
        kit.cache.set("k", 1, ttl=-1)


def test_secret_signs_and_separates(redis_url: str, redis_server: RunningServer) -> None:
    open_kit, signed = WorkerKit(url=redis_url, hooks=[]), WorkerKit(url=redis_url, hooks=[], secret="s3cret")
    signed.cache.set("k", "mine", ttl=60)
    assert open_kit.cache.get("k") is None  # another digest, so another key
    (key,) = redis_server.cli("KEYS", "*")  # type: ignore[misc]  # KEYS answers a list
    data = redis_server.cli("GET", key)
    assert isinstance(data, str)
    forged = data.encode(errors="surrogateescape")[:-16] + bytes(16)
    redis_server.cli("SET", key, forged, "EX", 60)
    assert signed.cache.get("k", "refused") == "refused"
    open_kit.close(), signed.close()


def test_counts_that_could_not_be_sent_are_kept(fresh_server: RunningServer) -> None:
    kit = WorkerKit(url=fresh_server.url, hooks=[])
    kit.engine.flusher.running = True  # nobody flushes but this test

    @kit.memoize("1m")
    def number(n: int) -> int:
        return n

    assert number(1) == number(1) == 1
    fresh_server.kill()
    for _ in range(5):
        assert number(1) == 1
        with pytest.raises(StoreError):
            kit.engine.flusher.flush()
        kit.engine.flusher._beat()  # every second of an outage: it says nothing
    fresh_server.restart()
    stats = until(lambda: _or_none(number.memo.stats))
    assert (stats.hits, stats.misses, stats.computations) == (1, 6, 6)


def test_a_call_that_is_put_off_counts_when_it_comes_back(redis_url: str) -> None:
    app = Celery("later", broker="memory://")
    kit = WorkerKit(app, url=redis_url, hooks=[])
    ends: list[Exception] = [Ignore(), Ignore(), ValueError("broken")]  # as a throttle ends what it parks

    @kit.task
    @kit.memoize("1m")
    def later(n: int) -> int:
        if ends:
            raise ends.pop(0)
        return n

    for _ in range(4):
        later.apply((1,))
    with kit:
        stats = later.memo.stats()
    assert (stats.misses, stats.computations, stats.calls) == (2, 2, 2)  # that of the error, and the value


def test_what_the_limit_refused_was_not_computed(kit: WorkerKit) -> None:
    @kit.memoize("1m")
    @kit.throttle(kit.limiter("once", "1/h"))
    def once(n: int) -> int:
        return n

    assert once(1) == 1
    with pytest.raises(RateLimited):
        once(2)
    stats = once.memo.stats()
    assert (stats.misses, stats.computations) == (2, 1)


def _or_none(act: Any) -> Any:
    try:
        return act()
    except StoreError:
        return None
