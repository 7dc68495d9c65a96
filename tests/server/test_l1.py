"""`l1=`: results kept in the process, coherent with Redis, and never another caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest

from tests.rig import until
from workerkit import L1, WorkerKit


@pytest.fixture
def kit(redis_url: str) -> Iterator[WorkerKit]:
    with WorkerKit(url=redis_url, hooks=[], pool_min=1) as kit:
        yield kit


def warm(fn: Any, *args: Any) -> Any:
    """Call until the process has it: the listener opens in its own time."""
    return until(lambda: fn.memo.entry(*args).source == "l1" or (fn(*args), False)[1]) and fn(*args)


def test_a_key_of_ones_own_may_depend_on_more_than_the_arguments(kit: WorkerKit) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="a")

    @kit.memoize("1m", l1=True, key=lambda user: f"{tenant.get()}:{user}")
    def name(user: int) -> str:
        return f"{tenant.get()}{user}"

    assert warm(name, 1) == "a1"
    tenant.set("b")
    assert name(1) == "b1"
    assert warm(name, 1) == "b1"
    tenant.set("a")
    assert name(1) == "a1"


def test_what_a_caller_changes_is_its_own(kit: WorkerKit) -> None:
    @kit.memoize("1m", l1=True)
    def cart(user: int) -> dict[str, list[int]]:
        return {"items": [user]}

    warm(cart, 1)["items"].append(2)
    assert cart(1) == {"items": [1]}
    assert cart.memo.entry(1).source == "l1"


@dataclass(frozen=True)
class Price:
    cents: int


def test_what_nobody_can_change_is_shared(kit: WorkerKit) -> None:
    @kit.memoize("1m", l1=L1(size=10, ttl="30s"))
    def price(sku: str) -> Price:
        return Price(len(sku))

    assert warm(price, "abc") is price("abc") is price(sku="abc")


def test_ones_own_invalidation_is_seen_at_once(kit: WorkerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    @kit.memoize("1m", l1=True, tags=["user:{user}"])
    def name(user: int) -> int:
        calls.append(user)
        return len(calls)

    for forget in (
        lambda: name.memo.invalidate(1),
        lambda: kit.cache.invalidate(tag="user:1"),
        lambda: asyncio.run(kit.cache.aio.invalidate(tag="user:1")),
    ):
        before = warm(name, 1)
        with monkeypatch.context() as patched:
            patched.setattr(kit.engine.listener._channel, "tell", lambda keys: None)  # nobody tells
            forget()
            assert name(1) == before + 1
    warm(name, 1)
    monkeypatch.setattr(kit.engine.listener._channel, "tell", lambda keys: None)
    name.memo.set(70, 1)
    assert name(1) == 70


def test_another_kit_s_invalidation_arrives(kit: WorkerKit, redis_url: str) -> None:
    calls = []

    @kit.memoize("1m", l1=True, tags=["all"])
    def name(user: int) -> int:
        name.memo.current.tag("added")
        calls.append(user)
        return len(calls)

    with WorkerKit(url=redis_url, hooks=[], pool_min=1) as other:
        for tag in ("all", "added"):
            before = warm(name, 1)
            other.cache.invalidate(tag=tag)
            assert until(lambda before=before: name(1) == before + 1)


def test_an_l1_ends_with_its_entry(kit: WorkerKit) -> None:
    calls = []

    @kit.memoize("300ms", l1=True, early=0)
    def name(user: int) -> int:
        calls.append(user)
        return len(calls)

    kept = warm(name, 1)
    assert until(lambda: name(1) > kept)


def test_coroutines_have_their_own(kit: WorkerKit) -> None:
    @kit.memoize("1m", l1=True)
    async def name(user: int) -> list[int]:
        return [user]

    async def main() -> None:
        async with asyncio.timeout(10):
            while (await name.memo.aio.entry(1)).source != "l1":
                await name(1)
        (await name(1)).append(2)
        assert await name(1) == [1]
        assert await name.memo.aio.invalidate(1)
        assert (await name.memo.aio.entry(1)).source == "computed"
        await kit.aio.close()

    asyncio.run(main())
