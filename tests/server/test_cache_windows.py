"""C3: old values only within their windows, flagged; and a refresh that fails is not tried over and over."""

from __future__ import annotations

import pytest

from tests.cache_rig import Clock, Coroutines, Source, Threads
from tests.rig import outcome, until
from workerkit import WorkerKit
from workerkit.errors import RateLimited


@pytest.fixture
def kit(redis_url):
    with WorkerKit(url=redis_url, hooks=[], early=0) as kit:
        yield kit


def test_an_old_value_is_served_only_in_its_windows_and_flagged(kit, redis_url, callers):
    source = Source(1)
    clock = Clock(kit)
    options = {"stale": 10_000, "stale_if_error": 100_000}  # so long that what really passes makes no difference
    fn = callers.memoize(kit, lambda memo: source.read(), 1000, **options)
    asynchronous = isinstance(callers, Coroutines)

    def entry():
        verb = fn.memo.aio.entry if asynchronous else fn.memo.entry
        return callers.start(verb, 1)

    def taken(got):
        return got.result(10).value, got.result(10).source

    assert taken(entry()) == (1, "computed")
    clock.late = 900
    assert taken(entry()) == (1, "hit")

    clock.late = 1_100  # stale: served to all but the one who refreshes
    source.value = 2
    source.hold()
    refreshing = entry()
    until(lambda: source.reads == 2)
    assert [taken(entry()) for _ in range(5)] == [(1, "stale")] * 5
    assert 1_100 <= entry().result(10).age < 1_200
    source.go()
    assert taken(refreshing) == (2, "computed")
    assert taken(entry()) == (2, "hit")

    clock.late = 1_100 + 10_900  # stale still, and the refresh fails
    source.failing = True
    assert taken(entry()) == (2, "error")
    assert [taken(entry()) for _ in range(5)] == [(2, "stale")] * 5  # backing off
    clock.late = 1_100 + 11_100  # kept for errors only
    assert [taken(entry()) for _ in range(5)] == [(2, "error")] * 5
    assert source.reads == 3
    clock.late = 1_100 + 100_900
    assert taken(entry()) == (2, "error")
    clock.late = 1_100 + 101_100
    assert isinstance(outcome(lambda: entry().result(10)), LookupError)
    assert source.reads == 4

    stats = fn.memo.stats()
    assert (stats.hits, stats.stale, stats.failures) == (2, 12, 7)


def test_stale_alone_is_no_shelter_from_errors_for_who_refreshes(kit):
    source, clock = Source(1), Clock(kit)
    fn = Threads().memoize(kit, lambda memo: source.read(), "10s", stale="100s")
    fn(1)
    clock.late, source.failing = 11, True
    assert isinstance(outcome(lambda: fn(1)), LookupError)
    assert fn.memo.entry(1).source == "stale"
    clock.late = 111
    assert isinstance(outcome(lambda: fn(1)), LookupError)
    assert isinstance(outcome(lambda: fn(1)), LookupError)


@pytest.mark.parametrize("window", ["stale", "stale_if_error"])
def test_a_refresh_that_keeps_failing_is_tried_less_and_less(kit, callers, window):
    source, clock = Source(1), Clock(kit)
    fn = callers.memoize(
        kit, lambda memo: source.read(), "10s", stale_if_error="2h", **{"stale": "2h"} if window == "stale" else {}
    )
    callers.start(fn, 1).result(10)
    source.failing = True
    lease = fn.memo.function.place((1,), {})[0].lease
    server = kit.client()
    pauses, got = [], []
    clock.late = 11
    while clock.late < 600:
        got += [callers.start(fn, 1).result(10) for _ in range(5)]
        left = server.pttl(lease) / 1000
        pauses.append(left)
        clock.late += left
        server.delete(lease)  # it would have run out by then
    server.close()
    print(f"{len(got)} calls in 10 minutes of failure, {source.reads - 1} computations")
    assert set(got) == {1}
    assert source.reads - 1 == len(pauses) < 30
    assert pauses[0] <= 1.0
    assert 59 < pauses[-1] <= 60.0


def test_a_used_up_limit_serves_what_is_stale(kit):
    source, clock, limited = Source(1), Clock(kit), []

    @kit.memoize("10s", stale="1h")
    def fn(n: int) -> int:
        if limited:
            raise RateLimited("no", limiter="api", key="k", retry_after=0.2, bound_by="rate")
        return source.read()

    fn(1)
    clock.late = 11
    limited.append(1)
    assert fn.memo.entry(1).source == "error"
    clock.late = 3612
    assert isinstance(outcome(lambda: fn(1)), RateLimited)


def test_a_newer_entry_that_is_met_too_late_is_no_hit(kit, redis_url):
    """A reader that was paused between its look and its claim finds what another stored, which is old by now."""
    source, clock = Source(1), Clock(kit)
    fn = Threads().memoize(kit, lambda memo: source.read(), "10s", stale="100s")
    fn(1)
    clock.late = 11
    entries = fn.memo.fetcher.entries
    claim = entries.claim

    def paused(*args, **options):
        entries.claim = claim
        source.value = 2
        fn(1)
        clock.late = 22
        return claim(*args, **options)

    entries.claim = paused
    assert fn.memo.entry(1).source != "hit"


def test_what_a_claim_finds_is_served_only_while_it_is_fresh(kit):
    source, clock = Source(2), Clock(kit)
    fn = Threads().memoize(kit, lambda memo: source.read(), "10s", stale_if_error="1h")
    entries = fn.memo.fetcher.entries
    claim = entries.claim

    def paused(*args, **options):
        entries.claim = claim
        fn.memo.set(1, 1)
        clock.late = 11
        return claim(*args, **options)

    entries.claim = paused
    assert fn(1) == 2


@pytest.mark.parametrize("limited", [True, False])
def test_a_window_that_ends_during_the_computation_has_ended(kit, limited):
    clock, failing = Clock(kit), []

    @kit.memoize("10s", stale="100s", stale_if_error="100s")
    def fn(n: int) -> int:
        if failing:
            clock.late = 111
            raise failing[0]
        return n

    fn(1)
    clock.late = 11
    failing.append(RateLimited("no", limiter="api", key="k", retry_after=1, bound_by="") if limited else LookupError())
    assert outcome(lambda: fn(1)) is failing[0]


def test_a_refresh_that_fails_says_so_and_what_is_left_out_replaces_nothing(kit):
    clock, source, left_out = Clock(kit), Source(1), []

    @kit.memoize("10s", stale="100s", stale_if_error="1h")
    def fn(n: int) -> int:
        if left_out:
            fn.memo.current.skip()
        return source.read()

    fn(1)
    source.failing = True
    assert isinstance(outcome(lambda: fn.memo.refresh(1)), LookupError)  # asked for, not made up for
    source.failing, source.value = False, 2
    left_out.append(1)
    clock.late = 11
    assert fn.memo.entry(1).value == 1  # backing off
    assert (fn(2), fn.memo.peek(2)) == (2, None)
