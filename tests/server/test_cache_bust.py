"""`memo.bust`: all entries of one function, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from tests.rig import until
from workerkit import WorkerKit
from workerkit.errors import StoreUnavailable


@pytest.fixture
def kit(redis_url):
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        yield kit


def made(kit, name="price", **options):
    def fn(n):
        fn.reads += 1
        return n

    fn.reads = 0
    fn.__qualname__ = name
    return kit.memoize("1h", **options)(fn), fn


def test_all_entries_of_the_function_are_gone_and_no_others(kit):
    (price, reads), (prices, _) = made(kit), made(kit, "prices")
    for n in range(2500):
        price(n)
    prices(1)
    kit.cache.set("price", 1, ttl="1h")
    assert price.memo.bust() == 2500
    assert price.memo.bust() == 0
    assert (price.memo.peek(1), prices.memo.peek(1), kit.cache.get("price")) == (None, 1, 1)
    price(1)
    assert (reads.reads, price.memo.stats().misses) == (2501, 2501), "its counts stay"


def test_a_lease_goes_and_is_no_entry(kit):
    price, _ = made(kit)
    key, _ = price.memo.place((1,), {})
    with kit.client() as client:
        client.set(key.lease, "c123", ex=60)
        assert price.memo.bust() == 0
        assert client.get(key.lease) is None


def test_entries_of_another_version_go_too_once_its_counts_are_in(kit, redis_url):
    with WorkerKit(url=redis_url, hooks=[]) as elsewhere:
        old, _ = made(elsewhere, version=1)
        old(1)
        elsewhere.engine.flusher.flush()
        new, _ = made(kit, version=2)
        new(1)
        assert new.memo.bust() == 2
        assert old.memo.explain(1).state == "missing"


def test_what_processes_keep_is_forgotten_here_and_elsewhere(kit, redis_url):
    with WorkerKit(url=redis_url, hooks=[]) as elsewhere:
        fns = [made(each, l1=True)[0] for each in (kit, elsewhere)]
        here, there = [fn.memo.function.tier.threads for fn in fns]
        for fn, kept in zip(fns, (here, there), strict=True):
            until(lambda fn=fn, kept=kept: (fn(1), len(kept))[1])
        assert asyncio.run(fns[0].memo.aio.bust()) == 1
        assert len(here) == 0
        until(lambda: len(there) == 0)


def test_without_redis_it_says_so():
    with pytest.raises(StoreUnavailable):
        made(WorkerKit(url="redis://localhost:1", hooks=[]))[0].memo.bust()


def test_the_handles_of_a_kit_are_found_by_their_names(kit):
    fn, _ = made(kit)
    limiter = kit.limiter("stripe", "1/s")
    assert kit.memos == {f"{__name__}.price": fn.memo}
    assert kit.limiters == {"stripe": limiter}
    assert not limiter.internal
