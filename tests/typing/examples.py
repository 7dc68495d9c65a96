"""What type checkers make of every decorator and handle. Never run: `scripts/test` checks it with mypy and pyright."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from celery import Celery, Task
from celery.result import AsyncResult
from pydantic import BaseModel

from workerkit import L1, Decision, Job, WorkerKit
from workerkit.api.limiter import Limiter
from workerkit.api.warmup import Warmup
from workerkit.cache.computation import Computation, Entry
from workerkit.cache.explain import Explanation
from workerkit.cache.ledger import CacheStats
from workerkit.jobs.record import JobView
from workerkit.limits.decision import Reservation
from workerkit.limits.headers import read
from workerkit.limits.lease import Slot
from workerkit.limits.tally import KeyCount, LimitStats
from workerkit.limits.usage import Usage

app = Celery("shop")
kit = WorkerKit(app)
stripe = kit.limiter("stripe", "100/s", "5000/h", concurrency=20)
api = kit.limiter("api", "10/s")
llm = kit.limiter("llm", "500 requests/m", "90000 tokens/m", count="response", when_down="local")
paced = kit.limiter("paced", "10/s", algorithm="gcra", burst=2, margin="20ms")


class Profile(BaseModel):
    name: str


class Import(BaseModel):
    rows: int = 0


@kit.memoize(ttl="10m")
def profile(user_id: int, *, verbose: bool = False) -> Profile:
    return Profile(name=str(user_id))


@kit.memoize("10m", stale="1h", key="{user_id}")
async def profile_async(user_id: int) -> Profile:
    return Profile(name=str(user_id))


@kit.throttle(api, key="{account}")
def charge(account: str, amount: int) -> bool:
    return bool(account and amount)


@kit.throttle(llm, key="{model}", cost=1, wait="10s", tokens=800)
def complete(model: str, prompt: str) -> str:
    return model + prompt


@kit.throttle(api)
async def charge_async(account: str) -> bool:
    return bool(account)


@kit.job(Import, ttl="1d")
def import_rows(job: Job[Import], path: str) -> int:
    assert_type(job.data, Import)
    assert_type(job.data.rows, int)
    return len(path)


@kit.task
@kit.memoize(ttl="10m", stale="1h")
@kit.throttle(stripe, key="{account}")
def balance(account: str) -> int:
    return len(account)


@kit.task
def plain(a: int, b: str = "") -> float:
    return float(a) + len(b)


@kit.task(acks_late=True)
@kit.job(Import)
def importing(job: Job[Import], path: str) -> int:
    return len(path)


@kit.task
async def awaited(a: int) -> str:
    return str(a)


@kit.task(bind=True, max_retries=3)
def bound(self: Task[Any, Any], a: int) -> str:
    return f"{self.name}{a}"


@kit.task(queue="low")
@kit.memoize(60)
def queued(a: int) -> list[int]:
    return [a]


@kit.task(bind=True, max_retries=3)
@kit.memoize("1m", stale="1h", refresh="queue", negative={LookupError: "30s"})
def bound_memo(self: Task[Any, Any], a: int) -> str:
    return f"{self.name}{a}"


@kit.task
@kit.memoize("1m", l1=True)
async def awaited_memo(a: int) -> Profile:
    return Profile(name=str(a))


@kit.memoize(lambda found: None if found is None else "1m", l1=L1(size=64, ttl="10s"), tags=["a:{a}", str])
def near(a: int) -> int | None:
    assert_type(near.memo.current, Computation[int | None])
    assert_type(near.memo.current.stale, int | None)
    near.memo.current.tag("a", "b")
    near.memo.current.skip()
    return a or None


@kit.task(bind=True)
async def bound_awaited(self: Task[Any, Any], a: int) -> str:
    return f"{self.name}{a}"


def check_functions() -> None:
    assert_type(profile(1, verbose=True), Profile)
    assert_type(profile.memo.peek(1), Profile | None)
    assert_type(profile.memo.key(1), str)
    assert_type(profile.memo.invalidate(1, verbose=False), bool)
    assert_type(profile.memo.refresh(1), Profile | None)
    assert_type(profile.memo.stats(), CacheStats)
    profile.memo.set(Profile(name="x"), 1)
    assert_type(charge("a", amount=1), bool)
    assert_type(import_rows("path"), int)


async def check_coroutines() -> None:
    assert_type(await profile_async(1), Profile)
    assert_type(await profile_async.memo.aio.peek(1), Profile | None)
    assert_type(await profile.memo.aio.invalidate(1), bool)
    assert_type(await profile.memo.aio.entry(1), Entry[Profile])
    assert_type(await profile_async.memo.aio.entry(1), Entry[Profile])
    assert_type(await profile_async.memo.aio.refresh(1), Profile | None)
    assert_type(await profile_async.memo.aio.explain(1), Explanation)
    assert_type(await profile_async.memo.aio.stats(), CacheStats)
    assert_type(profile_async.memo.aio.key(1), str)
    await profile_async.memo.aio.set(Profile(name="x"), 1)
    assert_type(await balance.memo.aio.delay("acct"), AsyncResult[int])
    assert_type(await awaited_memo.memo.aio.apply_async((1,), queue="low"), AsyncResult[Profile])
    assert_type(await charge_async("a"), bool)
    assert_type(await api.aio.try_acquire("k"), Decision)
    async with stripe.aio.slot("acct", wait="2s") as slot:
        assert_type(slot, Slot)
    async with llm.aio.slot(tokens=800) as slot:
        slot.settle(tokens=612)
    assert_type(await paced.aio.reserve("k", within="1s"), Reservation)
    assert_type(await api.aio.peek("k", cost=3), Decision)
    assert_type(await llm.aio.usage("k"), Usage)
    assert_type(await api.aio.busiest(5), list[KeyCount])
    assert_type(await api.aio.waiting("k"), list[str])
    assert_type(await api.aio.stats(), LimitStats)
    await api.aio.pause("k", "30s")
    await api.aio.configure("k", "20/s")
    await api.aio.learn("k", read(429, [("Retry-After", "2")], now=0.0))
    await api.aio.reset("k")
    assert_type(await kit.cache.aio.set("k", 1, ttl="1m"), bool)
    assert_type(await kit.cache.aio.get_or_compute("k", lambda: 1, ttl="1m"), int)
    assert_type(await kit.cache.aio.get_or_compute("k", lambda: profile_async(1), ttl="1m", stale="1h"), Profile)
    async with WorkerKit(url="redis://localhost") as other:
        assert_type(other, WorkerKit)
    assert_type(await kit.aio.ping(), float)


def check_tasks() -> None:
    assert_type(balance("acct"), int)
    assert_type(balance.memo.peek("acct"), int | None)
    assert_type(balance.delay("acct"), AsyncResult[int])
    assert_type(plain.delay(1, b="x"), AsyncResult[float])
    assert_type(plain(1), float)
    assert_type(importing.delay("path"), AsyncResult[int])
    assert_type(awaited.delay(1), AsyncResult[str])
    assert_type(bound.delay(1), AsyncResult[str])
    assert_type(queued.memo.peek(1), list[int] | None)
    assert_type(queued.delay(1), AsyncResult[list[int]])
    assert_type(plain.apply_async((1,), countdown=5), AsyncResult[float])
    assert_type(balance.memo.delay("acct"), AsyncResult[int])
    assert_type(balance.memo.apply_async(("acct",), queue="low"), AsyncResult[int])
    assert_type(balance.memo.entry("acct"), Entry[int])
    assert_type(balance.memo.entry("acct").value, int)
    # For mypy a memoized bound task is Any: its Task[Any, Any] makes the overloads ambiguous there.
    assert_type(bound_memo.delay(1), AsyncResult[str])  # type: ignore[assert-type]  # as said above
    assert_type(bound_memo.memo.delay(1), AsyncResult[str])  # type: ignore[assert-type]  # as said above
    assert_type(bound_memo.memo.entry(a=1).value, str)  # type: ignore[assert-type]  # as said above
    assert_type(awaited_memo(1), Profile)
    assert_type(awaited_memo.memo.delay(1), AsyncResult[Profile])
    assert_type(bound_awaited.delay(1), AsyncResult[str])


def check_handles() -> None:
    assert_type(stripe, Limiter)
    assert_type(api.try_acquire("k", cost=2), Decision)
    with stripe.slot("acct", wait="2s") as slot:
        assert_type(slot, Slot)
        assert_type(slot.lost, bool)
        assert_type(slot.owner, str)
        assert_type(slot.decision, Decision)
    with llm.slot("gpt", cost=1, wait=timedelta(seconds=2), tokens=800) as slot:
        slot.settle(cost=1, tokens=612)
    assert_type(api.try_acquire("k").retry_after, float)
    assert_type(llm.peek("gpt", tokens=10).bound_by, str)
    reservation = paced.reserve("k", within="1s")
    assert_type(reservation, Reservation)
    assert_type(reservation.delay, float)
    paced.cancel(reservation)
    assert_type(llm.usage("gpt"), Usage)
    assert_type(llm.usage("gpt").rates[0].remaining, int)
    assert_type(llm.usage("gpt").concurrency, int | None)
    assert_type(api.busiest(), list[KeyCount])
    assert_type(api.waiting("k"), list[str])
    assert_type(api.stats(), LimitStats)
    api.pause("k", 30)
    api.configure("k", "20/s", "100/m")
    stripe.configure("k", concurrency=3)
    api.learn("k", read(429, [("Retry-After", "2")], now=0.0))
    api.reset("k")
    assert_type(complete("gpt", prompt="hello"), str)
    assert_type(kit.warmup(balance, every="5m", args=["acct_1"]), Warmup)
    assert_type(kit.jobs.get("id", Import), JobView[Import] | None)
    assert_type(kit.cache.delete("k"), bool)
    assert_type(kit.cache.get_or_compute("k", lambda: profile(1), ttl="1m", tags=["user:1"]), Profile)
    assert_type(near.memo.entry(1), Entry[int | None])
    assert_type(near(1), int | None)
    assert_type(kit.ping(), float)


def check_refusals() -> None:
    """Each line must be an error: the ignores are unused, and so errors themselves, as soon as one is not."""
    profile("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # user_id is an int
    balance.delay(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # account is text
    plain.delay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a is missing
    balance.memo.delay(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # account is text
    near.memo.entry("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a is an int
    import_rows(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # path is text
    api.try_acquire("k", cost="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # cost is an int
    llm.try_acquire("k", tokens="9")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # so are units
    paced.reserve("k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # within is missing
    kit.limiter("x", "1/s", algorithm="leaky")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such
    kit.limiter("x", "1/s", when_down="ajar")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such
    complete(1, "hello")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # model is text
    print(plain.memo)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # not memoized
