"""What the publisher sends and leaves out: messages are looked at, no worker consumes them."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Any

import pytest
from celery import Celery, Task, signature
from pydantic import BaseModel, Field
from redis import Redis

from tests.rig import until
from workerkit import WorkerKit
from workerkit.celery.publisher import REFRESH, Publisher
from workerkit.core.events import CacheTrouble, Event
from workerkit.errors import DefinitionError
from workerkit.testing.servers import RunningServer

STEPS = ("", "\x06\x163", "\x06\x166", "\x06\x169")


class Desk:
    """An app and its kit on one server, and the messages in its queue."""

    def __init__(self, server: RunningServer, cache: str | None = None, **conf: Any) -> None:
        self.events: list[Event] = []
        socket = server.socket
        self.app = Celery("desk", set_as_current=False)
        urls = {
            "broker_url": f"redis+socket://{socket}?virtual_host=1",
            "result_backend": f"redis+socket://{socket}?virtual_host=2",
        }
        self.app.conf.update({**urls, **conf})
        self.kit = WorkerKit(self.app, url=cache or server.url, hooks=[self.events.append])
        self._queues: Any = Redis(unix_socket_path=str(socket), db=1)

    def task(self, **options: Any) -> Any:
        """`kit.task` for this app alone: by default Celery registers a task with every app that there will be."""
        return self.kit.task(shared=False, **options)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(data) for step in STEPS for data in self._queues.lrange("celery" + step, 0, -1)]

    def bodies(self) -> list[Any]:
        return [json.loads(base64.b64decode(message["body"]))[:2] for message in self.messages()]

    def leases(self) -> list[str]:
        keys: Any = self.kit.client().keys("*:l")
        return list(keys)


@pytest.fixture
def desks(redis_server: RunningServer, redis_url: str) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(cache: str | None = None, **conf: Any) -> Desk:
        made.append(Desk(redis_server, cache, **conf))
        return made[-1]

    yield make
    for desk in made:
        desk.kit.close()


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Desk:
    return desks()


def aging(desk: Desk, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`fn` as a task whose results are stale at once, refreshed by messages, and one result of it."""
    task = desk.task(**options)(desk.kit.memoize("30ms", stale="1h", refresh="queue")(fn))
    task(*args)
    until(lambda: desk.kit.memo(task).peek(*args) is None)
    return task


def same(a: int) -> int:
    return a


# -- the refresh's message


def test_refresh_is_the_tasks_own_message_of_the_lowest_priority(desk: Desk) -> None:
    def fn(self: Any, a: int, *, b: list[str]) -> int:
        return a

    task = desk.task(bind=True)(desk.kit.memoize("30ms", stale="1h", refresh="queue")(fn))
    task(1, b=["x"])
    until(lambda: task.memo.peek(1, b=["x"]) is None)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: task(1, b=["x"]), range(20))) == [1] * 20
    (message,) = desk.messages()
    assert message["headers"]["task"] == task.name
    assert len(bytes.fromhex(message["headers"][REFRESH])) == 8
    assert message["headers"]["ignore_result"] is True
    assert message["properties"]["priority"] == 9
    assert desk.bodies() == [[[1], {"b": ["x"]}]]


@pytest.mark.parametrize(("broker", "priority"), [("redis://", 9), ("pyamqp://", 0), ("memory://", None)])
def test_lowest_priority_is_the_brokers(broker: str, priority: int | None) -> None:
    assert Publisher(Celery(broker=broker, set_as_current=False))._lowest_priority == priority


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize("argument", [(1, 2), Colour.RED, {1: "a"}, frozenset({1})])
def test_caller_refreshes_what_no_message_can_ask_for(desk: Desk, argument: Any) -> None:
    calls: list[Any] = []

    def fn(a: Any) -> int:
        calls.append(a)
        return len(calls)

    task = aging(desk, fn, argument)
    assert task(argument) == 2
    assert calls == [argument] * 2
    assert type(calls[1]) is type(argument)
    assert desk.messages() == []
    assert not [event for event in desk.events if isinstance(event, CacheTrouble)]


def test_broker_down_the_stale_value_is_served_and_the_next_try_put_off(desk: Desk, monkeypatch: Any) -> None:
    task = aging(desk, same, 1)
    policies: list[Any] = []
    send = desk.app.amqp.send_task_message
    monkeypatch.setattr(
        desk.app.amqp,
        "send_task_message",
        lambda *args, **options: policies.append(options["retry_policy"]) or send(*args, **options),
    )
    desk.app.conf.broker_url = "redis+socket:///nowhere/broker.sock"
    for _ in range(2):
        entry = task.memo.entry(1)
        assert (entry.value, entry.source) == (1, "stale")
        assert task.memo.explain(1).lease == "backing off"
    assert [event.reason for event in desk.events if isinstance(event, CacheTrouble)] == [
        "a refresh could not be queued: OperationalError"
    ]
    assert [policy["max_retries"] for policy in policies] == [1]  # Celery's three would hold the caller up


def test_broker_silent_one_caller_is_held_up_briefly_and_the_others_not_at_all(
    desks: Callable[..., Desk], fresh_server: RunningServer
) -> None:
    desk = desks(broker_url=f"redis+socket://{fresh_server.socket}?virtual_host=1")
    task = aging(desk, same, 1)
    fresh_server.freeze()
    with ThreadPoolExecutor(1) as pool:
        try:
            entries = [pool.submit(task.memo.entry, 1).result(10) for _ in range(20)]
        except TimeoutError:  # kombu itself waits without an end
            fresh_server.thaw()
            raise
    assert {(entry.value, entry.source) for entry in entries} == {(1, "stale")}
    assert task.memo.explain(1).lease == "backing off"
    # Each of the 20 took next to no time; where they took longer than the pause, another has tried.
    assert {event.reason for event in desk.events if isinstance(event, CacheTrouble)} == {
        "a refresh could not be queued: TimeoutError"
    }
    (stuck,) = [thread for thread in threading.enumerate() if thread.name == "workerkit-publisher"]
    fresh_server.thaw()
    stuck.join(10)
    until(lambda: task(1) == 1 and len(sent(fresh_server)) == 2)  # the one that was held up, and the one after it


def sent(server: RunningServer) -> list[Any]:
    queues: Any = Redis(unix_socket_path=str(server.socket), db=1)
    return [message for step in STEPS for message in queues.lrange("celery" + step, 0, -1)]


def test_broker_down_a_coroutine_gets_the_stale_value_too(desk: Desk) -> None:
    async def fn(a: int) -> int:
        return a

    task = aging(desk, fn, 1)
    desk.app.conf.broker_url = "redis+socket:///nowhere/broker.sock"

    async def main() -> Any:
        entry = await desk.kit.memo(task).aio.entry(1)
        await desk.kit.engine.aclose()
        return entry

    entry = asyncio.run(main())
    assert (entry.value, entry.source) == (1, "stale")
    assert task.memo.explain(1).lease == "backing off"
    assert [event for event in desk.events if isinstance(event, CacheTrouble)]


def test_refresh_by_message_needs_a_task(desk: Desk) -> None:
    @desk.kit.memoize("1m", stale="1h", refresh="queue")
    def fn(a: int) -> int:
        return a

    with pytest.raises(DefinitionError, match=r"fn is no task.*@kit\.task above"):
        fn(1)


def test_eager_refresh_happens_in_place(desks: Callable[..., Desk]) -> None:
    threads: list[threading.Thread] = []

    def fn(a: int) -> int:
        threads.append(threading.current_thread())
        return a

    task = aging(desks(task_always_eager=True), fn, 1)
    assert task(1) == 1
    assert threads == [threading.current_thread()] * 2


# -- memo.delay


def known(desk: Desk, **options: Any) -> Any:
    """A task with one cached result, that of 1."""

    def fn(a: int) -> int:
        return a * 10

    task = desk.task(**options)(desk.kit.memoize("1h", stale="1h")(fn))
    task(1)
    return task


def test_hit_sends_nothing_and_is_a_result_of_its_own_id(desk: Desk, desks: Callable[..., Desk]) -> None:
    task = known(desk)
    results = [
        task.memo.delay(1),
        task.memo.delay(a=1),
        task.memo.apply_async((1,)),
        task.memo.apply_async([], {"a": 1}),
    ]
    assert desk.messages() == []
    assert len({result.id for result in results}) == 4
    other = desks().app
    for result in results:
        assert result.get(timeout=5) == 10
        assert other.AsyncResult(result.id).get(timeout=5) == 10
    assert task.memo.stats().hits == 4
    assert task.memo.apply_async((1,), task_id="mine").id == "mine"
    assert other.AsyncResult("mine").state == "SUCCESS"


def test_miss_and_stale_are_sent(desk: Desk) -> None:
    task = known(desk)
    task.memo.delay(2)
    assert desk.bodies() == [[[2], {}]]
    stale = aging(desk, same, 3)
    stale.memo.delay(3)
    assert len(desk.messages()) == 2
    assert REFRESH not in desk.messages()[0]["headers"]
    task.memo.invalidate(1)
    task.memo.delay(1)
    assert len(desk.messages()) == 3


LINK = signature("link")


@pytest.mark.parametrize(
    "options",
    [
        {"link": LINK},
        {"link": [LINK]},
        {"link_error": LINK},
        {"chord": signature("body")},
        {"chain": [LINK]},
        {"group_id": "g", "group_index": 0},
        {"reply_to": "somebody"},
        {"countdown": 60},
        {"eta": "2999-01-01T00:00:00+00:00"},
        {"replaced_task_nesting": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_whoever_waits_for_the_message_gets_it(desk: Desk, options: dict[str, Any]) -> None:
    task = known(desk)
    result = task.memo.apply_async((1,), **options)
    assert [message["headers"]["id"] for message in desk.messages()] == [result.id]
    assert result.state == "PENDING"


@pytest.mark.parametrize(
    "options", [{"queue": "celery"}, {"priority": 3}, {"expires": 60}, {"link": []}, {"countdown": 0}]
)
def test_where_and_when_a_message_would_go_makes_no_difference(desk: Desk, options: dict[str, Any]) -> None:
    assert known(desk).memo.apply_async((1,), **options).get(timeout=5) == 10
    assert desk.messages() == []


def test_own_methods_are_celerys(desk: Desk) -> None:
    task = known(desk)
    own = type(desk.app.tasks[task.name])
    assert (own.apply_async, own.delay) == (Task.apply_async, Task.delay)
    task.delay(1), task.apply_async((1,))
    assert len(desk.messages()) == 2


def test_ignored_result_is_not_stored_and_not_waited_for(desk: Desk) -> None:
    task = known(desk, ignore_result=True)
    result = task.memo.delay(1)
    assert result.get(timeout=5) is None
    assert result.state == "PENDING"
    assert task.memo.apply_async((1,), ignore_result=False).get(timeout=5) == 10
    kept = known(desk, name="kept")
    assert kept.memo.apply_async((1,), ignore_result=True).get(timeout=5) is None
    assert desk.messages() == []


def test_eager_mode_runs_the_task(desks: Callable[..., Desk]) -> None:
    desk = desks(task_always_eager=True)
    task = known(desk)
    result = task.memo.delay(1)
    assert (type(result).__name__, result.get()) == ("EagerResult", 10)
    assert desk.messages() == []


def test_rpc_result_needs_its_message(desks: Callable[..., Desk]) -> None:
    desk = desks(result_backend="rpc://")
    known(desk).memo.delay(1)
    assert len(desk.messages()) == 1


def test_cache_down_is_sent(desks: Callable[..., Desk]) -> None:
    desk = desks("unix:///nowhere/redis.sock")
    known(desk).memo.delay(1)
    assert desk.bodies() == [[[1], {}]]
    assert [event for event in desk.events if isinstance(event, CacheTrouble)]


def test_no_task_has_no_messages(desk: Desk) -> None:
    @desk.kit.memoize("1h")
    def fn(a: int) -> int:
        return a

    with pytest.raises(DefinitionError, match="no task"):
        fn.memo.delay(1)
    with pytest.raises(DefinitionError, match="no task"):
        WorkerKit(url="redis://localhost").memoize("1h")(same).memo.delay(1)


def test_call_that_does_not_fit_is_refused_as_by_the_task_itself(desk: Desk) -> None:
    task = known(desk)
    for send in (task.delay, task.memo.delay):
        with pytest.raises(TypeError, match="missing"):
            send()
        with pytest.raises(Exception, match="not JSON serializable"):
            send(object())


def test_it_looks_for_what_a_worker_would_have_stored(desk: Desk) -> None:
    @desk.task()
    @desk.kit.memoize("1h")
    def fn(a: Any) -> str:
        return type(a).__name__

    fn([1, 2])
    assert fn.memo.delay((1, 2)).get(timeout=5) == "list"
    assert fn((1, 2)) == "tuple"  # another call, with another entry
    assert fn.memo.delay((1, 2)).get(timeout=5) == "list"
    assert desk.messages() == []


def test_aio(desk: Desk) -> None:
    task = known(desk)

    async def main() -> list[Any]:
        results = [await task.memo.aio.delay(1), await task.memo.aio.apply_async((2,))]
        await desk.kit.engine.aclose()
        return results

    hit, miss = asyncio.run(main())
    assert hit.get(timeout=5) == 10
    assert [message["headers"]["id"] for message in desk.messages()] == [miss.id]


# -- bound tasks and models


def test_handle_of_a_bound_task_fills_in_the_task(desk: Desk) -> None:
    @desk.task(bind=True)
    @desk.kit.memoize("1h", tags=["a:{a}"])
    def fn(self: Task[Any, Any], a: int) -> str:
        return f"{self.name.rpartition('.')[2]}{a}"

    for memo in (fn.memo, desk.kit.memo(fn)):
        assert memo.peek(1) is None
        assert [memo.entry(1).source, memo.entry(a=1).source] == ["computed", "hit"]
        assert memo.peek(1) == memo.refresh(1) == memo.delay(1).get(timeout=5) == "fn1"
        assert memo.explain(1).key == memo.key(1)
        assert list(memo.signature.parameters) == ["a"]
        memo.set("set", 1)
        assert fn(1) == "set"
        assert memo.invalidate(1)
    assert desk.messages() == []


def test_handle_of_a_bound_coroutine_task(desk: Desk) -> None:
    async def fn(self: Task[Any, Any], a: int) -> str:
        return f"{self.name.rpartition('.')[2]}{a}"

    task = desk.task(bind=True)(desk.kit.memoize("1h", l1=True)(fn))

    async def main() -> None:
        memo = desk.kit.memo(task).aio
        assert [(await memo.entry(1)).source, (await memo.entry(1)).source] == ["computed", "hit"]
        assert await memo.peek(1) == await memo.refresh(1) == "fn1"
        await memo.set("set", 1)
        assert (await memo.explain(1)).key == memo.key(1)
        assert await memo.invalidate(1)
        await desk.kit.engine.aclose()

    asyncio.run(main())
    assert task(2) == "fn2"


def test_coroutine_is_computed_by_aio_alone(desk: Desk) -> None:
    @desk.task()
    @desk.kit.memoize("1h")
    async def fn(a: int) -> int:
        return a

    for verb in ("entry", "refresh"):
        with pytest.raises(DefinitionError, match=rf"await .*fn\.memo\.aio\.{verb}"):
            getattr(fn.memo, verb)(1)
    assert fn(1) == fn.memo.peek(1) == 1


def test_apps_in_one_process_warm_what_is_their_own(desks: Callable[..., Desk]) -> None:
    found = [desks().app.tasks["workerkit.warm"] for _ in range(2)]
    assert found[0].run is not found[1].run


def test_bound_task_is_warmed(desk: Desk) -> None:
    @desk.task(bind=True)
    @desk.kit.memoize("1h")
    def fn(self: Task[Any, Any], a: int) -> str:
        return f"{self.name}{a}"

    warmup = desk.kit.warmup(fn, every="1m", args=[1, 2])
    assert warmup.run().warmed == 2
    assert warmup.run().fresh == 2
    assert fn.memo.peek(2) == f"{fn.name}2"
    with pytest.raises(DefinitionError, match="do not fit"):
        desk.kit.warmup(fn, every="1m", args=[(1, 2)], name="other")


class Person(BaseModel):
    name: str = Field(alias="fullName")
    age: int = 0


@pytest.mark.parametrize("options", [{}, {"autoretry_for": (LookupError,)}, {"bind": True}])
def test_models_are_sent_and_answered_as_celery_dumps_them(desk: Desk, options: dict[str, Any]) -> None:
    def fn(person: Person) -> Person:
        return Person(fullName=person.name, age=person.age + 1)

    def bound(self: Any, person: Person) -> Person:
        return fn(person)

    for each in (fn, bound):
        each.__annotations__ = dict.fromkeys(("person", "return"), Person)  # Celery 5.5 does not resolve strings
    task = desk.task(pydantic=True, pydantic_dump_kwargs={"by_alias": True}, **options)(
        desk.kit.memoize(lambda found: "30ms" if found.age == 1 else "1h", stale="1h", refresh="queue")(
            bound if options.get("bind") else fn
        )
    )
    ada = Person(fullName="ada")
    task.memo.set(Person(fullName="set", age=9), ada)
    assert task.memo.delay(ada).get(timeout=5) == {"fullName": "set", "age": 9}
    task.memo.invalidate(ada)
    assert task.apply((ada.model_dump(by_alias=True),)).get() == {"fullName": "ada", "age": 1}
    until(lambda: task.memo.peek(ada) is None)
    task(ada.model_dump(by_alias=True))
    assert desk.bodies() == [[[{"fullName": "ada", "age": 0}], {}]]  # a message that a worker makes a model of again
