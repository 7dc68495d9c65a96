"""C4: nothing that was read before an invalidation reaches a call that began after it."""

from __future__ import annotations

import threading

import pytest

from tests.cache_rig import Source, Threads, begun
from tests.rig import outcome, until
from workerkit import WorkerKit
from workerkit.core.call import Call


@pytest.fixture
def kit(redis_url):
    with WorkerKit(url=redis_url, hooks=[], lease="30s", early=0) as kit:
        yield kit


@pytest.fixture
def other(redis_url):
    """A kit as another process has it."""
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        yield kit


BY = {
    "the key": lambda kit, fn: kit.engine.runner.call(
        fn.memo.fetcher.entries.drop(fn.memo.function.place((1,), {})[0])
    ),
    "a declared tag": lambda kit, fn: kit.cache.invalidate(tag="declared"),
    "an added tag": lambda kit, fn: kit.cache.invalidate(tag="added"),
    "busting": lambda kit, fn: kit.engine.runner.run(fn.memo.function.busting()),
}


def keep(memo, value):
    return value


def leave_out(memo, value):
    memo.current.skip()
    return value


ENDINGS = {"kept": keep, "left out": leave_out, "fails": keep}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_call_that_began_after_it_gets_what_is_true_then(kit, other, callers, by, where, ending):
    source = Source()

    def read(memo):
        memo.current.tag("added")
        return ENDINGS[ending](memo, source.read())

    fn = callers.memoize(kit, read, "1m", tags=["declared"])
    source.hold()
    source.failing = ending == "fails"
    before = callers.start(fn, 1)
    until(lambda: source.reads == 1)

    source.value, source.failing = "new", False
    BY[by](kit if where == "here" else other, fn)
    after = begun(callers, kit, source, fn, 1)
    source.go()
    assert isinstance(outcome(before.result), LookupError) if ending == "fails" else before.result(10) == "old"
    assert after.result(10) == "new"
    assert callers.start(fn, 1).result(10) == "new"


@pytest.mark.parametrize("by", BY)
def test_an_old_value_kept_for_errors_is_only_for_those_who_came_before_it(kit, other, callers, by):
    source, now = Source(), kit.engine.now_us
    kit.engine.now_us = lambda: now() + late[0]
    late = [0]

    def read(memo):
        memo.current.tag("added")
        return source.read()

    fn = callers.memoize(kit, read, "10s", stale_if_error="1h", tags=["declared"])
    assert callers.start(fn, 1).result(10) == "old"
    late[0] = 20_000_000
    source.hold()
    source.failing = True
    before = callers.start(fn, 1)
    until(lambda: source.reads == 2)

    source.value, source.failing = "new", False
    BY[by](other, fn)
    after = begun(callers, kit, source, fn, 1)
    source.go()
    assert before.result(10) == "old"
    assert after.result(10) == "new"


def blocked(call, reached, go):
    """A Call whose answer is held up once the server has given it."""

    def parse(reply):
        reached.set()
        if not go.wait(10):
            raise TimeoutError
        return call.parse(reply)

    return Call(call.name, call.store, parse, script=call.script, keys=call.keys, args=call.args)


@pytest.mark.parametrize("verb", ["store", "back_off", "release"])
def test_between_the_last_write_and_the_end_of_a_computation(kit, other, verb):
    source, callers = Source(), Threads()
    reached, go, now = threading.Event(), threading.Event(), kit.engine.now_us
    late = [0]
    kit.engine.now_us = lambda: now() + late[0]
    fn = callers.memoize(kit, lambda memo: source.read(), "10s", stale_if_error="1h")
    if verb == "back_off":
        fn(1)
        late[0] = 20_000_000
    source.failing = verb != "store"
    entries = fn.memo.fetcher.entries
    act = getattr(entries, verb)
    setattr(entries, verb, lambda *args: blocked(act(*args), reached, go))
    before = callers.start(fn, 1)
    assert reached.wait(10)
    setattr(entries, verb, act)

    source.value, source.failing = "new", False
    BY["the key"](other, fn)
    after = begun(callers, kit, source, fn, 1)
    go.set()
    assert isinstance(outcome(before.result), LookupError) if verb == "release" else before.result(10) == "old"
    assert after.result(10) == "new"
    callers.close()


@pytest.mark.parametrize("verb", ["claim", "get"])
def test_what_another_process_has_stored_is_for_those_who_came_before_it_was_seen(kit, other, verb):
    """A claim finds an entry, which is read once more when nobody can join any longer."""
    source, callers = Source("new"), Threads()
    reached, go = threading.Event(), threading.Event()
    fn = callers.memoize(kit, lambda memo: source.read(), "1m")
    same = callers.memoize(other, lambda memo: source.read(), "1m")
    entries = fn.memo.fetcher.entries
    claim, get = entries.claim, entries.get

    def late(*args, **options):
        entries.claim = claim
        same.memo.set("old", 1)
        if verb == "claim":
            return blocked(claim(*args, **options), reached, go)
        entries.get = lambda *args: blocked(get(*args), reached, go)
        return claim(*args, **options)

    entries.claim = late
    before = callers.start(fn, 1)
    assert reached.wait(10)
    entries.get = get
    BY["the key"](other, fn)
    after = begun(callers, kit, source, fn, 1)
    go.set()
    before.result(10)
    assert after.result(10) == "new"
    callers.close()


def test_waiting_in_vain_for_another_process(kit, other):
    """A computation without lease is nobody's who came after an invalidation either."""
    source, callers = Source(), Threads()
    fn = callers.memoize(kit, lambda memo: source.read(), "1m", wait="10ms")
    entries, key = fn.memo.fetcher.entries, fn.memo.function.place((1,), {})[0]
    other.engine.runner.call(entries.claim(key, "c-of-another", b""))
    source.hold()
    before = callers.start(fn, 1)
    until(lambda: source.reads == 1)

    source.value = "new"
    BY["the key"](other, fn)
    after = begun(callers, kit, source, fn, 1)
    source.go()
    assert before.result(10) == "old"
    assert after.result(10) == "new"
    callers.close()


def test_who_fails_after_an_invalidation_leaves_the_next_leaders_lease_alone(kit, other):
    callers, late, now = Threads(), [0], kit.engine.now_us
    kit.engine.now_us = lambda: now() + late[0]
    source, theirs = Source(), Source("new")
    fn = callers.memoize(kit, lambda memo: source.read(), "10s", stale_if_error="1h")
    same = callers.memoize(other, lambda memo: theirs.read(), "10s", stale_if_error="1h")
    fn(1)
    late[0] = 20_000_000
    source.failing = True
    source.hold(), theirs.hold()
    failing = begun(callers, kit, source, fn, 1)
    until(lambda: source.reads == 2)
    same.memo.invalidate(1)
    next_one = begun(callers, other, theirs, same, 1)
    until(lambda: theirs.reads)
    source.go()
    assert failing.result(10) == "old"
    theirs.go()
    assert next_one.result(10) == "new"
    assert same.memo.peek(1) == "new"
    callers.close()


def test_an_invalidated_tag_is_remembered_for_longer_than_any_computation(kit):
    tags, client = kit.engine.tags, kit.client()
    marker, day = tags.key(tags.part("t")), 86_400_000
    kit.cache.invalidate(tag="t")
    assert client.pttl(marker) > day - 60_000
    kit.cache.set("k", 1, ttl="30d", tags=["t"])
    assert client.pttl(marker) >= 30 * day
    kit.cache.invalidate(tag="t")
    assert client.pttl(marker) >= 29 * day
    client.close()


def test_an_entry_from_before_a_function_got_a_tag_is_none_of_it(kit, other):
    callers = Threads()
    before = callers.memoize(kit, lambda memo: "old", "1h")
    after = callers.memoize(other, lambda memo: "new", "1h", tags=["declared"])
    assert before.memo.key(1) == after.memo.key(1)
    assert [before(1), after(1), after.memo.entry(1).source] == ["old", "new", "hit"]
    callers.close()


def test_an_entry_whose_tags_cannot_be_read_is_not_trusted(kit, monkeypatch):
    def read(memo):
        memo.current.tag("added")
        return source.read()

    source = Source()
    fn = Threads().memoize(kit, read, "1h")
    fn(1)
    source.value = "new"
    monkeypatch.setattr(
        kit.engine.tags, "read", lambda parts: Call("refused", "cache", list, args=("NO-SUCH-COMMAND",))
    )
    assert fn(1) == "new"
