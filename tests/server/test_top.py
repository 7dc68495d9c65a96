"""A snapshot of a fleet at work on a real server: each figure is what was done; nothing changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tests.rig import until
from tests.server.test_job_list import silent
from tests.server.waitlist_rig import ticket
from workerkit import WorkerKit
from workerkit.cache.ledger import CacheStats
from workerkit.errors import StoreUnavailable
from workerkit.limits.tally import LimitStats
from workerkit.testing.servers import RunningServer
from workerkit.top.change import Window, change
from workerkit.top.look import snapshot
from workerkit.top.news import news
from workerkit.top.snapshot import Limit, LimitKey, Parked, Snapshot, as_json
from workerkit.waitlist.line import Line, Place


class Import(BaseModel):
    rows: int = 0


@pytest.fixture
def kit(redis_url: str) -> Iterator[WorkerKit]:
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        yield kit


def park(kit: WorkerKit, limiter: Any, key: str, *names: str) -> None:
    line = Line(limiter.name, limiter.part(key), limiter.label(key), limiter.definition.ones, "5/h")
    for name in names:
        call = kit.engine.waitlist.park(ticket(name), line, Place(), wait=600.0, most=100)
        assert not kit.engine.runner.call(call).full


def by_name(limits: tuple[Limit, ...] | None) -> dict[str, Limit]:
    return {limit.name: limit for limit in limits or ()}


def by_key(limit: Limit) -> dict[str, LimitKey]:
    return {each.key: each for each in limit.keys}


def test_an_empty_server_has_an_empty_snapshot(kit: WorkerKit) -> None:
    found = snapshot(kit)
    assert (found.functions, found.limits, found.parked, found.warmups) == ({}, (), Parked(), ())
    assert found.jobs is not None
    assert set(found.jobs.counts.values()) == {0}
    assert (found.jobs.running, found.jobs.stuck, found.jobs.failed, found.jobs.more) == ((), (), (), False)


def test_health_is_the_servers(kit: WorkerKit, redis_server: RunningServer) -> None:
    (store,) = snapshot(kit).stores
    assert (store.roles, store.address, store.error, store.hidden) == (("cache", "guard"), redis_server.url, "", False)
    assert store.ping is not None
    assert 0 < store.ping < 10
    assert store.software.startswith("valkey ")
    assert (store.memory > 100_000, store.memory_max, store.policy) == (True, None, "noeviction")
    assert 1 <= store.clients <= (store.clients_max or 0)


def test_savings_are_those_of_the_ledger(kit: WorkerKit) -> None:
    @kit.memoize("10m")
    def price(sku: str) -> int:
        return 19

    for sku in "aaab":
        price(sku)
    stats = price.memo.stats()
    found = snapshot(kit)
    assert found.functions is not None
    assert list(found.functions.values()) == [stats]
    assert (stats.hits, stats.misses, stats.computations) == (2, 2, 2)
    price("a")
    price.memo.stats()
    later = change(found, snapshot(kit))
    assert list(later.functions.values()) == [CacheStats(hits=1, saved=later.all_functions.saved)]
    assert 0 < later.seconds < 60


def test_limits_say_what_was_decided_what_is_left_and_who_waits(kit: WorkerKit) -> None:
    stripe = kit.limiter("stripe", "5/h", name_keys=True)
    slots = kit.limiter("slots", concurrency=2)
    idle = kit.limiter("idle", "1/s")
    for _ in range(7):
        stripe.try_acquire("acct")
    stripe.try_acquire("other")
    stripe.pause("other", "1h")
    stripe.stats()
    park(kit, stripe, "acct", "a", "b")
    park(kit, stripe, "quiet", "c")
    with slots.slot():
        kit.engine.runner.call(slots.waiters.note(slots.part(""), "host:1 shop.work", 600.0))
        slots.stats()
        found = by_name(snapshot(kit).limits)
    assert list(found) == [idle.name, "slots", "stripe"]
    assert (found["idle"].keys, found["idle"].rates) == ((), ("1/s",))
    assert found["stripe"].stats == LimitStats(6, 2, 0)
    keys = by_key(found["stripe"])
    assert list(keys) == ["acct", "other", "quiet"]
    acct = keys["acct"]
    assert (acct.admitted, acct.refused, acct.parked, acct.bound_by, acct.waiting) == (5, 2, 2, "5/h", ())
    assert acct.usage is not None
    assert [(rate.rate, rate.limit, rate.remaining) for rate in acct.usage.rates] == [("5/h", 5, 0)]
    assert acct.usage.paused == 0.0
    assert keys["other"].usage is not None
    assert 3500 < keys["other"].usage.paused <= 3600
    assert (keys["quiet"].parked, keys["quiet"].admitted) == (1, 0)
    (held,) = found["slots"].keys
    assert held.usage is not None
    assert (held.key, held.usage.holders, held.usage.concurrency) == ("", 1, 2)
    assert held.waiting == ("host:1 shop.work",)


def test_keys_that_must_not_be_named_are_digests(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "5/h")
    limiter.try_acquire("secret-key")
    limiter.stats()
    park(kit, limiter, "secret-key", "a")
    found = snapshot(kit)
    (key,) = by_name(found.limits)["api"].keys
    assert (key.key, key.admitted, key.parked) == (limiter.part("secret-key"), 1, 1)
    assert "secret-key" not in json.dumps(as_json(found))


def test_a_key_too_long_to_be_kept_whole_is_shown_without_its_usage(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "5/h", name_keys=True)
    limiter.try_acquire("k" * 300)
    limiter.stats()
    (key,) = by_name(snapshot(kit).limits)["api"].keys
    assert (key.key, key.admitted, key.usage) == ("k" * 200, 1, None)


def test_the_busiest_keys_come_first(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "2/h", name_keys=True)
    for number in range(9):
        for _ in range(number + 1):
            limiter.try_acquire(f"k{number}")
    limiter.stats()
    (limit,) = snapshot(kit).limits or ()
    assert [(key.key, key.admitted, key.refused) for key in limit.keys] == [
        (f"k{n}", 2, n - 1) for n in (8, 7, 6, 5, 4)
    ]


def test_waiting_tasks_of_a_limiter_that_the_app_does_not_know_are_shown(kit: WorkerKit) -> None:
    park(kit, kit.limiter("gone", "5/h", name_keys=True), "k", "a", "b")
    with WorkerKit(url=kit.settings.redis_url, hooks=[]) as other:
        (limit,) = snapshot(other).limits or ()
    assert (limit.name, limit.rates, limit.stats) == ("gone", (), LimitStats())
    assert [(key.key, key.parked, key.usage) for key in limit.keys] == [("k", 2, None)]


def test_parked_tasks_are_counted(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "5/h")
    park(kit, limiter, "k", "a", "b", "c")
    waitlist = kit.engine.waitlist
    line = Line(limiter.name, limiter.part("k"), "").name
    assert kit.engine.runner.call(waitlist.take(kit.waitlist.tasks()[0].id, line, whatever=True))
    assert snapshot(kit).parked == Parked(2, 1, 0)
    kit.engine.runner.call(waitlist.quarantine(kit.waitlist.tasks()[0].id, line, "unreadable"))
    assert snapshot(kit).parked == Parked(1, 1, 1)


def test_jobs_run_are_stuck_or_have_failed(kit: WorkerKit, redis_server: RunningServer) -> None:
    jobs = kit.jobs
    running = jobs.begin("r", Import, task="shop.load")
    running.progress(3, 10, "reading")
    jobs.begin("s", Import, task="shop.load")
    silent(redis_server, "s")
    redis_server.cli("ZINCRBY", "wk:j:{jobs:index}:alive", -600_000, "r")  # the index has not heard of it: not stuck
    jobs.begin("f", Import, task="shop.load").fail(ValueError("no"))
    jobs.begin("d", Import, task="shop.load").finish()
    board = snapshot(kit).jobs
    assert board is not None
    assert {status: count for status, count in board.counts.items() if count} == {
        "RUNNING": 2,
        "FAILURE": 1,
        "SUCCESS": 1,
    }
    (job,) = board.running
    assert (job.id, job.progress.done, job.progress.total, job.progress.message) == ("r", 3, 10, "reading")
    assert [job.id for job in board.stuck] == ["s"]
    assert board.stuck[0].heartbeat > 500
    assert [(job.id, job.error) for job in board.failed] == [("f", ("ValueError", "no"))]
    assert not board.more


def test_warmups_say_what_they_owe(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "100/h")

    @kit.memoize("10h")
    @kit.throttle(limiter)
    def price(sku: str) -> int:
        if sku == "bad":
            raise LookupError(sku)
        return 19

    kit.warmup(price, every="2h", args=["a", "b", "bad"], name="prices", budget="50%")
    kit.warmup(price, every="1h", args=["c"], name="others")
    kit.warmups["prices"].run()
    kit.warmups["others"].pause()
    prices, others = snapshot(kit).warmups or ()
    assert (prices.function, prices.status, prices.late) == ("price", kit.warmups["prices"].status(), 0.0)
    assert (prices.status.last, prices.debt) == ((2, 0, 1, 0), 1)
    assert (others.status.paused, others.status.last, others.debt) == (True, None, 0)
    # A budget's own limiter is no limiter of the app's.
    assert list(by_name(snapshot(kit).limits)) == ["api"]


def test_a_tick_that_nobody_begins_is_late(kit: WorkerKit, redis_server: RunningServer) -> None:
    fn = kit.memoize("1h")(lambda: 1)
    warmup = kit.warmup(fn, every="1h", args=[()], name="w")
    warmup.run_due()
    redis_server.cli("HINCRBY", "wk:h:{warmup:w}:state", "done", -2 * 3_600_000)
    (warm,) = snapshot(kit).warmups or ()
    assert 3600 <= warm.late < 2 * 3600 + 60
    warmup.pause()
    (warm,) = snapshot(kit).warmups or ()
    assert warm.late == 0.0


def busy(kit: WorkerKit, redis_server: RunningServer) -> None:
    for number in range(4):
        limiter = kit.limiter(f"api{number}", "2/h", name_keys=True, concurrency=2)
        for key in range(8):
            with limiter.slot(f"k{key}"):
                pass
        limiter.stats()
        park(kit, limiter, "k1", f"t{number}")
        fn = kit.memoize("10h")(lambda x: x)
        fn(1), fn(1)
        fn.memo.stats()
        kit.warmup(fn, every="1h", args=[1], name=f"w{number}").run()
    for number in range(20):
        kit.jobs.begin(f"j{number}", Import, task="t")
    silent(redis_server, "j1")


def test_a_snapshot_is_at_most_five_round_trips_and_writes_nothing(
    kit: WorkerKit, redis_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(kit, redis_server)
    snapshot(kit)  # the first one loads scripts
    runner = kit.engine.runner
    execute: Callable[..., Any] = runner._execute
    trips: list[int] = []
    monkeypatch.setattr(runner, "_execute", lambda calls, *rest: trips.append(len(calls)) or execute(calls, *rest))
    redis_server.cli("CONFIG", "RESETSTAT")
    dirty = redis_server.cli("INFO", "persistence")
    found = snapshot(kit)
    assert len(trips) <= 5, trips
    assert len(by_name(found.limits)) == 4
    changes = [line for text in (dirty, redis_server.cli("INFO", "persistence")) for line in str(text).splitlines()]
    assert len({line for line in changes if line.startswith("rdb_changes_since_last_save")}) == 1
    stats = str(redis_server.cli("INFO", "commandstats"))
    assert not any(f"cmdstat_{verb}:" in stats for verb in ("scan", "zscan", "hscan", "sscan", "keys"))


def test_two_stores_are_read_in_five_round_trips(
    redis_url: str, fresh_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkerKit(url=redis_url, guard_url=fresh_server.url, hooks=[]) as kit:
        kit.limiter("api", "5/h").try_acquire()
        snapshot(kit)
        runner = kit.engine.runner
        execute: Callable[..., Any] = runner._execute
        trips: list[int] = []
        monkeypatch.setattr(runner, "_execute", lambda calls, *rest: trips.append(1) or execute(calls, *rest))
        found = snapshot(kit)
        assert len(trips) <= 5
        assert [(store.roles, store.address) for store in found.stores] == [
            (("cache",), redis_url),
            (("guard",), fresh_server.url),
        ]
        fresh_server.stop()
        lame = snapshot(kit)
        assert (lame.functions, lame.limits, lame.jobs, lame.parked, lame.warmups) == ({}, None, None, None, None)
        assert [lame.stores[0].error, fresh_server.url in lame.stores[1].error] == ["", True]
        assert [(each.name, each.level) for each in news(found, lame)] == [("store.down", "bad")]
        # What is not known is no zero.
        assert change(lame, found).limits == {}


def test_a_server_that_is_down_is_an_error_that_says_so(fresh_server: RunningServer) -> None:
    with WorkerKit(url=fresh_server.url, hooks=[]) as kit:
        snapshot(kit)
        fresh_server.stop()
        with pytest.raises(StoreUnavailable, match=r"cannot be reached|is down"):
            until(lambda: snapshot(kit) is None)


def test_a_server_that_goes_while_it_is_read_leaves_no_half_a_snapshot(
    kit: WorkerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = kit.engine.runner
    execute: Callable[..., Any] = runner._execute
    for last in range(3):  # as many as there is nothing more to ask for
        trips: list[int] = []

        def limping(calls: Any, *rest: Any, last: int = last, trips: list[int] = trips) -> Any:
            trips.append(1)
            if len(trips) > last:
                raise StoreUnavailable("gone")
            return execute(calls, *rest)

        monkeypatch.setattr(runner, "_execute", limping)
        with pytest.raises(StoreUnavailable, match="gone"):
            snapshot(kit)
        assert len(trips) >= last + 1


def test_a_user_who_may_not_ask_for_health_sees_all_the_rest(kit: WorkerKit, fresh_server: RunningServer) -> None:
    fresh_server.cli(
        *("ACL", "SETUSER", "kit", "on", ">pass", "~wk:*", "&wk:*", "-@all"),
        *("+@read", "+@write", "+@scripting", "-@dangerous", "+time", "+select", "+ping"),
    )
    url = fresh_server.url.replace("unix://", "unix://kit:pass@")
    with WorkerKit(url=url, hooks=[]) as poor:
        poor.limiter("api", "5/h").try_acquire()
        poor.engine.flusher.flush()
        found = snapshot(poor)
        (store,) = found.stores
        assert (store.hidden, store.software, store.ping is not None) == (True, "", True)
        assert "pass" not in json.dumps(as_json(found))
        assert by_name(found.limits)["api"].stats == LimitStats(1, 0, 0)


def test_a_server_that_evicts_shows_its_cache_and_why_not_the_rest(
    private_server: Callable[..., RunningServer],
) -> None:
    server = private_server(args=("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"))
    with WorkerKit(url=server.url, hooks=[]) as kit:
        fn = kit.memoize("10h")(lambda x: x)
        fn(1)
        fn.memo.stats()
        found = snapshot(kit)
        assert len(found.functions or ()) == 1
        assert found.limits is None
        assert [store.roles for store in found.stores] == [("cache", "guard"), ("guard",)]
        assert "evicts keys" in found.stores[1].error


def test_news_tell_what_changed(kit: WorkerKit, redis_server: RunningServer) -> None:
    limiter = kit.limiter("api", "5/h", name_keys=True)
    limiter.try_acquire("k")
    limiter.stats()
    fn = kit.memoize("10h")(lambda: 1)
    warmup = kit.warmup(fn, every="1h", args=[()], name="w")
    kit.jobs.begin("old", Import, task="shop.load").fail(ValueError("no"))
    kit.jobs.begin("s", Import, task="shop.load")
    before = snapshot(kit)
    assert [each.text for each in news(None, before)] == ["shop.load FAILURE: ValueError: no"]
    assert news(before, snapshot(kit)) == []
    limiter.pause("k", "1h")
    warmup.run()
    warmup.pause()
    kit.jobs.begin("new", Import, task="shop.load").fail(KeyError("x"))
    silent(redis_server, "s")
    after = snapshot(kit)
    told = {each.text: (each.name, each.level) for each in news(before, after)}
    assert told == {
        "shop.load FAILURE: KeyError: 'x'": ("job", "bad"),
        "shop.load is stuck since then, attempt 1": ("job", "bad"),
        "api k is paused for 3600 s": ("limits.learned", "bad"),
        "w: warmed=1 fresh=0 failed=0 left=0": ("warm.tick", "note"),
        "w was paused": ("warm.tick", "note"),
    }


def test_a_window_has_the_rates_of_its_seconds(kit: WorkerKit) -> None:
    def at(moment: float, hits: int) -> Snapshot:
        functions = {"f": CacheStats(hits=hits, saved=hits / 2)}
        return Snapshot(moment, 0.0, "wk", (), functions, (), Parked(), None, ())

    window = Window(10.0)
    first = window.add(at(100.0, 50))
    assert (first.seconds, first.rate(first.all_functions.calls)) == (0.0, None)
    assert window.add(at(104.0, 58)).rate(8) == 2.0
    for moment in (108, 112, 116):
        found = window.add(at(float(moment), 50 + (moment - 100) * 2))
    # Since the newest one that is ten seconds old, or older.
    assert (found.seconds, found.all_functions.hits) == (12.0, 24)
    # The ledger was forgotten: what it counts now has happened since.
    assert window.add(at(120.0, 3)).functions["f"].hits == 3
    # The clock was set back.
    assert window.add(at(50.0, 4)).seconds == 0.0
