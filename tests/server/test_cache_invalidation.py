"""C4: nothing that was read before an invalidation reaches a call that began after it."""

from __future__ import annotations

import threading

import pytest

from tests.cache_rig import Coroutines, Source, Threads, begun
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


@pytest.fixture(params=[Threads, Coroutines])
def callers(request, kit):
    made = request.param()
    yield made
    made.close(kit)


BY = {
    "the key": lambda kit, fn: kit.engine.runner.call(
        fn.memo.fetcher.entries.drop(fn.memo.function.place((1,), {})[0])
    ),
    "a declared tag": lambda kit, fn: kit.cache.invalidate(tag="declared"),
    "an added tag": lambda kit, fn: kit.cache.invalidate(tag="added"),
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


@pytest.mark.parametrize("verb", ["store", "back_off"])
def test_between_the_last_write_and_the_end_of_a_computation(kit, other, verb):
    source, callers = Source(), Threads()
    reached, go, now = threading.Event(), threading.Event(), kit.engine.now_us
    late = [0]
    kit.engine.now_us = lambda: now() + late[0]
    fn = callers.memoize(kit, lambda memo: source.read(), "10s", stale_if_error="1h")
    if verb == "back_off":
        fn(1)
        late[0] = 20_000_000
        source.failing = True
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
    assert before.result(10) == "old"
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
