"""Memoized tasks: what each execution computes is counted in Redis, and gated by it."""

from __future__ import annotations

import os
from typing import Any, TypeVar, get_type_hints

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.result import AsyncResult
from pydantic import BaseModel
from redis import Redis
from setup import SOCKET, app, kit, note

from workerkit import Job

# Nobody consumes this queue: a test looks at its messages, and moves them on.
app.conf.task_routes = {"memoized.held*": {"queue": "later"}}
app.conf.worker_prefetch_multiplier = 1
LONG = "1h"
Fn = TypeVar("Fn")
shelf = Redis(unix_socket_path=SOCKET, db=3, decode_responses=True)


def count(name: str) -> int:
    """How often this was computed, in all processes, this time included."""
    return shelf.incr(name)


def first_is_brief(found: list[int]) -> str:
    """The ttl of a result that begins with its number: the first is stale at once, the later ones are not."""
    return "30ms" if found[0] == 1 else LONG


# -- stale, refreshed by a message


@kit.task
@kit.memoize(first_is_brief, stale=LONG, refresh="queue")
def held(name: str) -> list[int]:
    return [count(name), os.getpid()]


@kit.task
@kit.memoize(first_is_brief, stale=LONG, refresh="queue")
async def held_async(name: str) -> list[int]:
    return [count(name), os.getpid()]


@kit.task(bind=True)
@kit.memoize(first_is_brief, stale=LONG, refresh="queue")
def held_bound(self: Task[Any, Any], name: str) -> list[int]:
    return [count(name), os.getpid(), len(self.name)]


@kit.task
@kit.memoize(first_is_brief, stale=LONG, refresh="queue")
def held_nested(name: str, depth: int = 1) -> list[int]:
    """Calls itself, so that its refresh does too."""
    inner = held_nested(name, depth=0) if depth else [0]
    return [count(f"{name}{depth}"), inner[0]]


@kit.task(bind=True, max_retries=1)
@kit.memoize(first_is_brief, stale=LONG, stale_if_error=LONG, refresh="queue")
def held_retried(self: Task[Any, Any], name: str) -> list[int]:
    number = count(name)
    if number == 2:
        raise self.retry(countdown=0)
    return [number, os.getpid()]


@app.task
def caller(task: str, name: str) -> list[Any]:
    """Calls a memoized task's function inside another task."""
    return [app.tasks[f"memoized.{task}"](name), os.getpid()]


# -- hits, misses, canvas


@kit.task
@kit.memoize(LONG)
def square(n: int) -> int:
    count(f"square{n}")
    return n * n


@app.task
@kit.memoize(LONG)
def total(numbers: list[int]) -> int:
    count("total")
    return sum(numbers)


@kit.task
@kit.memoize(LONG)
async def more(n: int) -> int:
    count(f"more{n}")
    return n + 1


@app.task
def record(value: Any, name: str) -> None:
    note(name, value)


@app.task
def failed(_request: Any, error: Any, _trace: Any, name: str) -> None:
    note(name, type(error).__name__)


@app.task
def seen_by_another(task_id: str) -> list[Any]:
    """What a process that has never heard of this id gets of it."""
    result: AsyncResult[Any] = app.AsyncResult(task_id)
    return [result.state, result.result, os.getpid()]


# -- kinds of tasks


class Person(BaseModel):
    name: str
    age: int = 0


def typed(fn: Fn) -> Fn:
    """The function with its annotations as objects: Celery 5.5 sees no models in texts."""
    fn.__annotations__ = get_type_hints(fn)
    return fn


@kit.task(bind=True)
@kit.memoize(LONG)
def bound(self: Task[Any, Any], a: int) -> str:
    count(f"bound{a}")
    return f"{self.name} {a}"


@app.task(pydantic=True)
@kit.memoize(LONG)
@typed
def older(person: Person, by: int = 1) -> Person:
    count(f"older{person.name}")
    return Person(name=person.name, age=person.age + by)


@app.task(pydantic=True, bind=True, autoretry_for=(LookupError,), pydantic_dump_kwargs={"exclude": {"age"}})
@kit.memoize(LONG)
@typed
def nameless(self: Any, person: Person) -> Person | None:
    count(f"nameless{person.name}")
    return person


@shared_task
@kit.memoize(LONG)
def shared(a: int) -> list[int]:
    count(f"shared{a}")
    return [a]


@app.task(ignore_result=True)
@kit.memoize(LONG)
def ignoring(name: str) -> int:
    return count(name)


class Prices:
    """Something whose method is memoized, and called by a task."""

    def __init__(self, shop: str) -> None:
        self.shop = shop

    @kit.memoize(LONG, key="{self.shop}:{item}")
    def of(self, item: str) -> str:
        count(f"price{self.shop}{item}")
        return f"{self.shop}/{item}"


@app.task
def price(shop: str, item: str) -> str:
    return Prices(shop).of(item)


# -- ends that are no results


@kit.task(bind=True, max_retries=1)
@kit.memoize(LONG, negative={Exception: LONG})
def retried(self: Task[Any, Any], name: str) -> int:
    number = count(name)
    if number == 1:
        raise self.retry(countdown=0)
    return number


@kit.task
@kit.memoize(lambda found: LONG if found else "30ms", stale_if_error=LONG, negative={Exception: LONG})
def ended(name: str, how: str) -> int:
    number = count(name)
    if number == 1:
        raise Ignore if how == "Ignore" else Reject("not now", requeue=False)
    return number


@kit.task(autoretry_for=(LookupError,), retry_backoff=False, default_retry_delay=0, max_retries=1)
@kit.memoize(LONG, negative={LookupError: LONG})
def flaky(name: str, failures: int) -> int:
    number = count(name)
    if number <= failures:
        raise LookupError(name)
    return number


@kit.task(soft_time_limit=1)
@kit.memoize(LONG, negative={SoftTimeLimitExceeded: LONG})
def slow(name: str) -> str:
    number = count(name)
    if number == 1:
        shelf.blpop([f"never {name}"], timeout=20)
    return f"{name} {number}"


# -- with a limit or a job's record underneath


@kit.task
@kit.memoize(first_is_brief, stale=LONG)
@kit.throttle(kit.limiter("scarce", "1/h"), key="{account}")
def scarce(account: str, n: int) -> list[int]:
    return [count(f"scarce{account}{n}")]


@kit.task
@kit.memoize(first_is_brief, stale=LONG, refresh="queue")
@kit.throttle(kit.limiter("held_scarce", "1/h"), key="{name}")
def held_scarce(name: str) -> list[int]:
    return [count(name)]


@kit.task
@kit.memoize(first_is_brief, stale=LONG)
@kit.throttle(kit.limiter("scarce_async", "1/h"), key="{account}")
async def scarce_async(account: str, n: int) -> list[int]:
    return [count(f"scarce_async{account}{n}")]


@app.task
def look(task: str, account: str, n: int) -> list[Any]:
    """What another task gets of a limited one, and where it came from."""
    found = app.tasks[f"memoized.{task}"]
    entry = found.memo.entry(account, n)
    return [entry.value, entry.source]


class Rows(BaseModel):
    rows: int = 0


@kit.task
@kit.memoize(LONG)
@kit.job(Rows, owner="{name}")
def counted(job: Job[Rows], name: str) -> int:
    job.add(rows=7)
    return count(name)


@kit.task
@kit.memoize(LONG)
@kit.job(Rows)
def nesting(job: Job[Rows], name: str, depth: int = 1) -> int:
    """Calls itself, and finds that in the cache."""
    job.add(rows=1)
    return count(name) + (nesting(name, depth=0) if depth else 0)
