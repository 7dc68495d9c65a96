"""Memoized tasks in a real worker: refreshed by messages, left out of the queue, in a canvas, and under every ending.

One worker serves the module, so each test has names and numbers of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import AsyncResult, allow_join_result
from redis import Redis

from tests.rig import until
from tests.worker.conftest import Broker
from workerkit.core.call import Call, as_is
from workerkit.testing.servers import start_server
from workerkit.waitlist.waitlist import Waitlist

WAIT = 10.0  # seconds for whatever must come
# What the Redis transport adds to a queue's name for each priority; the last is the lowest.
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")


class Stage:
    """The app, its worker, and what stands in the queue that nobody consumes."""

    def __init__(self, app: Any, broker: Broker) -> None:
        self.app = app
        self._broker = broker
        self.worker = broker.worker("memoized")
        self.queues: Any = Redis(unix_socket_path=str(broker.server.socket), db=1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    def waiting(self) -> list[str]:
        """The ids of the messages in `later`, of any priority."""
        return [message["headers"]["id"] for step in PRIORITIES for message in self._messages(step)]

    def refreshes(self) -> list[dict[str, Any]]:
        """Those of the lowest priority."""
        return self._messages(PRIORITIES[-1])

    def _messages(self, step: str) -> list[dict[str, Any]]:
        return [json.loads(message) for message in self.queues.lrange("later" + step, 0, -1)]

    def deliver(self) -> str:
        """Have the worker execute the one message in `later`; its id."""
        (task_id,) = self.waiting()
        assert any(self.queues.lmove("later" + step, "celery") for step in PRIORITIES)
        return str(task_id)

    def done(self, task_id: str, how: str = "succeeded") -> None:
        """Wait until the worker has ended this task."""
        self.worker.await_line(f"[{task_id}] {how}", WAIT)

    def times(self, name: str) -> int:
        """How often this was computed."""
        return int(self.app.shelf.get(name) or 0)

    def notes(self, name: str) -> list[str]:
        return [text for _, text in self._broker.notes(name)]

    def forget(self) -> None:
        """Empty the kit's store, the counts of computations and the notes."""
        self.app.kit.client().flushdb()
        self.app.shelf.flushdb()
        for name in ("linked", "link_error"):
            (self._broker.directory / name).unlink(missing_ok=True)

    def parked(self) -> int:
        engine = self.app.kit.engine
        return int(engine.runner.call(Waitlist(engine.keys("w")).count()))

    def leases(self, key: str) -> Any:
        return self.app.kit.engine.runner.call(Call("exists", "cache", as_is, args=("EXISTS", key[:-1] + "l")))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, main_kind: str) -> Iterator[Stage]:
    with start_server(main_kind) as server, pytest.MonkeyPatch.context() as patch:
        broker = Broker(server, tmp_path_factory.mktemp("memoized"), patch)
        app = broker.load("memoized")
        try:
            yield Stage(app, broker)
        finally:
            app.kit.close()
            broker.stop()


@pytest.fixture(autouse=True)
def nothing_is_left_waiting(stage: Stage) -> Iterator[None]:
    stage.forget()  # what a run of the same test left that was stalled
    yield
    left = stage.waiting()
    stage.queues.delete(*["later" + step for step in PRIORITIES])
    assert left == []


def get(result: AsyncResult[Any]) -> Any:
    return result.get(timeout=WAIT)


def made_stale(task: Any, name: str) -> Any:
    """A first result, fresh no more."""
    first = task(name)
    assert first[0] == 1
    until(lambda: task.memo.peek(name) is None, WAIT)
    return first


# -- refresh="queue"

QUEUED = ["held", "held_async", "held_bound"]


@pytest.mark.parametrize("name", QUEUED)
def test_stale_is_served_while_one_message_has_a_worker_refresh_it(stage: Stage, name: str) -> None:
    task, key = getattr(stage, name), f"web {name}"
    first = made_stale(task, key)
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(task, [key] * 20)) == [first] * 20
    (message,) = stage.refreshes()
    assert message["headers"]["ignore_result"] is True
    assert message["properties"]["priority"] == 9
    assert stage.times(key) == 1
    stage.done(stage.deliver())
    second = task.memo.peek(key)
    assert second[0] == 2
    assert second[1] != os.getpid()
    assert task(key) == second
    assert stage.times(key) == 2
    assert task.memo.stats().failures == 0


@pytest.mark.parametrize("name", QUEUED)
def test_refresh_is_queued_from_inside_another_task(stage: Stage, name: str) -> None:
    task, key = getattr(stage, name), f"inside {name}"
    first = made_stale(task, key)
    callers = [stage.caller.delay(name, key) for _ in range(4)]
    assert [get(caller)[0] for caller in callers] == [first] * 4
    assert len(stage.refreshes()) == 1
    assert all(not caller.children for caller in callers)  # nobody waits for a refresh
    stage.done(stage.deliver())
    assert [stage.times(key), task(key)[0]] == [2, 2]


def test_coroutine_is_refreshed_by_a_message_too(stage: Stage) -> None:
    key = "awaited"
    first = made_stale(stage.held_async, key)

    async def calls() -> list[Any]:
        entries = await asyncio.gather(*[stage.held_async.memo.aio.entry(key) for _ in range(20)])
        await stage.kit.engine.aclose()
        return entries

    assert {(tuple(entry.value), entry.source) for entry in asyncio.run(calls())} == {(tuple(first), "stale")}
    stage.done(stage.deliver())
    assert stage.held_async.memo.peek(key)[0] == 2


@pytest.mark.parametrize("name", QUEUED)
@pytest.mark.parametrize("event", ["replaced", "invalidated", "cleared"])
def test_refresh_of_what_is_not_there_any_more_computes_nothing(stage: Stage, event: str, name: str) -> None:
    task, key = getattr(stage, name), f"{event} {name}"
    first = made_stale(task, key)
    assert task(key) == first
    if event == "replaced":
        task.memo.set([99, 0], key)
    elif event == "invalidated":
        assert task.memo.invalidate(key)
    else:
        stage.kit.client().flushdb()
    stage.done(stage.deliver())
    assert stage.times(key) == 1
    assert task.memo.peek(key) == ([99, 0] if event == "replaced" else None)


def test_what_a_refresh_calls_is_no_refresh(stage: Stage) -> None:
    key = "nested"
    assert stage.held_nested(key) == [1, 1]
    until(lambda: stage.held_nested.memo.peek(key) is None, WAIT)
    stage.held_nested.memo.invalidate(key, depth=0)
    assert stage.held_nested(key) == [1, 1]
    stage.done(stage.deliver())
    assert stage.held_nested.memo.peek(key) == [2, 2]


def test_refresh_that_is_retried_goes_on_as_a_refresh(stage: Stage) -> None:
    key = "again"
    first = made_stale(stage.held_retried, key)
    assert stage.held_retried(key) == first
    task_id = stage.deliver()
    # The retry is a message of the same id, in the same queue.
    until(lambda: stage.waiting() == [task_id], WAIT)
    until(lambda: not stage.leases(stage.held_retried.memo.key(key)), 8.0)  # one that nobody frees lives 10 s
    assert stage.deliver() == task_id
    stage.done(task_id)
    assert stage.held_retried.memo.peek(key)[0] == 3


# -- memo.delay


def test_hit_needs_no_message_and_any_process_gets_its_result(stage: Stage) -> None:
    stage.held.memo.set([5, 5], "known")
    result = stage.held.memo.delay("known")
    assert stage.waiting() == []
    assert get(result) == [5, 5]
    assert get(stage.held.memo.delay("known")) == [5, 5]
    state, value, process = get(stage.seen_by_another.delay(result.id))
    assert (state, value) == ("SUCCESS", [5, 5])
    assert process != os.getpid()
    assert stage.held.memo.apply_async(("known",), task_id="my-own").id == "my-own"
    assert get(stage.seen_by_another.delay("my-own"))[:2] == ["SUCCESS", [5, 5]]
    assert stage.times("known") == 0


def test_miss_is_sent_and_the_next_one_is_a_hit(stage: Stage) -> None:
    results = [stage.square.memo.delay(12) for _ in range(5)]
    assert [get(result) for result in results] == [144] * 5
    assert get(stage.square.memo.delay(n=12)) == 144
    assert len({result.id for result in results}) == 5
    assert stage.times("square12") == 1


def test_own_delay_always_sends(stage: Stage) -> None:
    stage.held.memo.set([5, 5], "own")
    results = [stage.held.delay("own"), stage.held.apply_async(("own",))]
    assert stage.waiting() == [result.id for result in reversed(results)]
    stage.queues.delete("later")


# -- canvas


def test_chord_ends_with_hits_in_its_header_and_its_body(stage: Stage) -> None:
    for n in (20, 22):
        stage.square(n)
    header = [stage.square.s(n) for n in (20, 21, 22)]
    expected = 400 + 441 + 484
    assert get(chord(group(header), stage.total.s()).apply_async()) == expected
    assert get(chord(group(header), stage.total.s()).apply_async()) == expected  # all of it is cached now
    assert get(chord(group(header), stage.more.si(1)).apply_async()) == 2
    assert [stage.times(name) for name in ("square20", "square21", "square22", "total")] == [1, 1, 1, 1]


def test_group_and_chain_end_with_hits_among_them(stage: Stage) -> None:
    stage.square(30)
    get(stage.more.delay(900))
    assert get(group(stage.square.s(n) for n in (30, 31, 30)).apply_async()) == [900, 961, 900]
    assert get(chain(stage.square.s(30), stage.more.s(), stage.square.s()).apply_async()) == 901**2
    assert get(chain(stage.square.s(30), stage.more.s(), stage.square.s()).apply_async()) == 901**2
    assert get(chain(group(stage.square.s(30), stage.square.s(31)), stage.total.s()).apply_async()) == 1861


def test_link_and_chain_run_after_a_hit(stage: Stage, eventually: Callable[..., None]) -> None:
    stage.square(40)
    link = stage.record.s("linked")
    assert get(stage.square.apply_async((40,), link=link)) == 1600
    assert get(stage.square.memo.apply_async((40,), link=link)) == 1600
    result = stage.square.memo.apply_async((40,), chain=[stage.more.s()])
    with allow_join_result():
        eventually(lambda: result.children, WAIT)
        assert get(result.children[0]) == 1601
    eventually(lambda: stage.notes("linked") == ["1600", "1600"], WAIT)
    assert stage.times("square40") == 1


def test_link_error_is_called_for_a_failure(stage: Stage, eventually: Callable[..., None]) -> None:
    result = stage.flaky.memo.apply_async(("link", 9), link_error=stage.failed.s("link_error"))
    with pytest.raises(LookupError):
        get(result)
    eventually(lambda: stage.notes("link_error") == ["LookupError"], WAIT)


# -- kinds of tasks


def same_on_every_way(task: Any, *args: Any, memo: tuple[Any, ...] | None = None) -> Any:
    """The result of a miss, a hit, and a message that was left out; all the same."""
    missed, hit = get(task.delay(*args)), get(task.delay(*args))
    left_out = get(task.memo.delay(*(args if memo is None else memo)))
    assert missed == hit == left_out
    assert type(missed) is type(hit) is type(left_out)
    return missed


def test_bound_task(stage: Stage) -> None:
    assert same_on_every_way(stage.bound, 1) == "memoized.bound 1"
    assert stage.times("bound1") == 1
    assert stage.bound.memo.peek(1) == "memoized.bound 1"
    assert stage.bound.memo.entry(1).source == "hit"
    assert stage.bound.memo.refresh(1) == "memoized.bound 1"
    assert stage.times("bound1") == 2


def test_task_with_models(stage: Stage) -> None:
    person = stage.Person(name="ada", age=36)
    assert same_on_every_way(stage.older, person.model_dump(), memo=(person,)) == {"name": "ada", "age": 37}
    assert stage.times("olderada") == 1
    assert stage.older.memo.peek(person) == stage.Person(name="ada", age=37)  # a model inside
    assert get(stage.older.memo.delay(stage.Person(name="eve"), by=2)) == {"name": "eve", "age": 2}


def test_task_with_models_and_all_the_rest(stage: Stage) -> None:
    person = stage.Person(name="grace", age=30)
    assert same_on_every_way(stage.nameless, person.model_dump(), memo=(person,)) == {"name": "grace"}
    assert stage.times("namelessgrace") == 1


def test_shared_task(stage: Stage) -> None:
    assert same_on_every_way(stage.shared, 3) == [3]
    assert stage.times("shared3") == 1


def test_ignored_result(stage: Stage) -> None:
    stage.done(stage.ignoring.delay("ignored").id)
    stage.done(stage.ignoring.delay("ignored").id)
    result = stage.ignoring.memo.delay("ignored")
    assert get(result) is None
    assert result.state == "PENDING"
    assert get(stage.ignoring.memo.apply_async(("ignored",), ignore_result=False)) == 1
    assert stage.times("ignored") == 1


def test_method_in_a_task(stage: Stage) -> None:
    assert [get(stage.price.delay(shop, "tea")) for shop in ("a", "b", "a")] == ["a/tea", "b/tea", "a/tea"]
    assert [stage.times(f"price{shop}tea") for shop in "ab"] == [1, 1]


# -- ends that are no results


def test_retry_is_not_cached_and_does_not_meet_itself(stage: Stage) -> None:
    assert stage.retried.delay("retry").get(timeout=8) == 2  # a lease that nobody frees lives 10 s
    assert stage.retried.memo.peek("retry") == 2


@pytest.mark.parametrize("how", ["Ignore", "Reject"])
def test_ignored_or_rejected_is_not_cached(stage: Stage, how: str, eventually: Callable[..., None]) -> None:
    stage.ended.delay(how, how)
    key = stage.ended.memo.key(how, how)
    eventually(lambda: stage.times(how) == 1 and not stage.leases(key), WAIT)
    assert stage.ended.memo.peek(how, how) is None
    assert get(stage.ended.delay(how, how)) == 2
    assert get(stage.ended.delay(how, how)) == 2


@pytest.mark.parametrize("how", ["Ignore", "Reject"])
def test_ignored_or_rejected_is_no_failure_to_make_up_for(stage: Stage, how: str) -> None:
    call = (f"old {how}", how)
    stage.ended.memo.set(0, *call)
    until(lambda: stage.ended.memo.peek(*call) is None, WAIT)
    result = stage.ended.delay(*call)
    until(lambda: stage.times(call[0]) == 1 and not stage.leases(stage.ended.memo.key(*call)), WAIT)
    assert get(stage.ended.delay(*call)) == 2
    assert result.state != "SUCCESS"


def test_failure_is_remembered_once_it_is_not_retried_any_more(stage: Stage) -> None:
    assert get(stage.flaky.delay("once", 1)) == 2
    assert stage.times("once") == 2
    with pytest.raises(LookupError):
        get(stage.flaky.delay("always", 9))
    assert stage.times("always") == 2
    with pytest.raises(LookupError):
        stage.flaky("always", 9)
    with pytest.raises(LookupError):
        get(stage.flaky.memo.delay("always", 9))
    assert stage.times("always") == 2


def test_soft_time_limit_frees_the_lease_and_stores_nothing(stage: Stage) -> None:
    key = stage.slow.memo.key("limit")
    with pytest.raises(SoftTimeLimitExceeded):
        get(stage.slow.delay("limit"))
    assert stage.leases(key) == 0
    assert stage.slow.memo.peek("limit") is None
    assert get(stage.slow.delay("limit")) == "limit 2"


# -- with a limit or a job's record underneath


@pytest.mark.parametrize("name", ["scarce", "scarce_async"])
def test_without_budget_the_stale_value_is_served(stage: Stage, name: str) -> None:
    task = getattr(stage, name)
    assert get(task.delay("acct", 1)) == [1]  # takes the hour's only token
    until(lambda: task.memo.peek("acct", 1) is None, WAIT)
    parked = stage.parked()
    assert get(task.delay("acct", 1)) == [1]
    assert task("acct", 1) == [1]
    assert (stage.times(f"{name}acct1"), stage.parked()) == (1, parked)


def test_queued_refresh_without_budget_gives_up(stage: Stage) -> None:
    assert stage.held_scarce("queued") == [1]
    until(lambda: stage.held_scarce.memo.peek("queued") is None, WAIT)
    assert stage.held_scarce("queued") == [1]
    parked = stage.parked()
    stage.done(stage.deliver())
    assert (stage.times("queued"), stage.parked()) == (1, parked)
    lease = stage.held_scarce.memo.key("queued")[:-1] + "l"
    pause = stage.app.kit.client().pttl(lease)
    assert 20_000 < pause <= 30_000  # nobody tries again until there may be budget, for 30 s at most
    assert stage.held_scarce("queued") == [1]


def test_in_a_task_and_outside_the_source_says_why(stage: Stage) -> None:
    for account, entry in (("in", lambda: get(stage.look.delay("scarce", "in", 1))), ("out", lambda: outside("out"))):

        def outside(account: str) -> list[Any]:
            found = stage.scarce.memo.entry(account, 1)
            return [found.value, found.source]

        assert get(stage.scarce.delay(account, 1)) == [1]
        until(lambda account=account: stage.scarce.memo.peek(account, 1) is None, WAIT)
        assert entry() == [[1], "error"]
    found = asyncio.run(_aio_source(stage))
    assert found == ([1], "error")


async def _aio_source(stage: Stage) -> tuple[Any, str]:
    task = stage.scarce_async
    await asyncio.to_thread(lambda: get(task.delay("aio", 1)))
    await asyncio.to_thread(until, lambda: task.memo.peek("aio", 1) is None, WAIT)
    entry = await task.memo.aio.entry("aio", 1)
    await stage.kit.engine.aclose()
    return entry.value, entry.source


@pytest.mark.parametrize("name", ["scarce", "scarce_async"])
def test_miss_without_budget_parks_and_frees_its_lease(stage: Stage, name: str) -> None:
    task = getattr(stage, name)
    assert get(task.delay("full", 1)) == [1]
    parked, result = stage.parked(), task.delay("full", 2)
    until(lambda: result.state == "THROTTLED" and stage.parked() == parked + 1, WAIT)
    until(lambda: not stage.leases(task.memo.key("full", 2)), 8.0)  # a lease that nobody frees lives 10 s
    assert stage.times(f"{name}full2") == 0
    assert task.memo.peek("full", 2) is None


def test_hit_closes_the_record_of_its_task(stage: Stage) -> None:
    first, second = stage.counted.delay("job"), None
    assert get(first) == 1
    second = stage.counted.delay("job")
    assert get(second) == 1
    views = [stage.kit.jobs.get(result.id, stage.Rows) for result in (first, second)]
    assert [(view.status, view.cached, view.owner) for view in views] == [
        ("SUCCESS", False, "job"),
        ("SUCCESS", True, "job"),
    ]
    assert [view.data.rows for view in views] == [7, 0]


def test_message_is_sent_for_a_job_so_that_its_record_is_written(stage: Stage) -> None:
    assert get(stage.counted.delay("sent")) == 1
    result = stage.counted.memo.delay("sent")
    assert get(result) == 1
    assert stage.kit.jobs.get(result.id, stage.Rows).cached


def test_hit_inside_of_a_job_leaves_the_job_running(stage: Stage) -> None:
    stage.nesting("inner", depth=0)
    result = stage.nesting.delay("inner")
    assert get(result) == 3
    view = stage.kit.jobs.get(result.id, stage.Rows)
    assert (view.status, view.cached, view.data.rows) == ("SUCCESS", False, 1)
