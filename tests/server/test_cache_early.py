"""Early refresh: one reader computes the next value before this one ends, and nobody waits for it."""

from __future__ import annotations

import pytest

from tests.cache_rig import Clock, Coroutines, Source
from tests.rig import until
from workerkit import WorkerKit
from workerkit.cache.policy import milliseconds
from workerkit.core.events import RefreshFailed

NEVER, ALWAYS = 0.0, 1 - 1e-12  # what the draw gives a reader who is never due, and one who is as soon as may be


class Scene:
    """A value that is fresh for 1000 s and took 200 s to compute, in Redis: what really passes makes no difference."""

    def __init__(self, kit, callers, draw, **options):
        self.kit, self.callers = kit, callers
        self.source, self.clock = Source("new"), Clock(kit)
        self.fn = callers.memoize(kit, lambda memo: self.source.read(), "1000s", early=1, **options)
        policy = self.fn.memo.fetcher.policy
        object.__setattr__(policy.windows, "draw", lambda: draw)
        key, _ = self.fn.memo.function.place((1,), {})
        kit.ping()
        data = policy.pack(key, policy.codec.dump("old"), (), fresh=1000.0, hard=1000.0, cost=200.0)
        kit.engine.runner.call(policy.entries.put(key, data, milliseconds(1000.0)))

    def begin(self):
        memo = self.fn.memo
        return self.callers.start(memo.aio.entry if isinstance(self.callers, Coroutines) else memo.entry, 1)

    def got(self):
        entry = self.begin().result(10)
        return entry.value, entry.source


@pytest.fixture
def events():
    return []


@pytest.fixture
def kit(redis_url, events):
    with WorkerKit(url=redis_url, hooks=[events.append]) as kit:
        yield kit


def test_one_reader_computes_and_the_others_have_the_value(kit, callers):
    scene = Scene(kit, callers, ALWAYS)
    scene.clock.late = 600
    scene.source.hold()
    first = scene.begin()
    until(lambda: scene.source.reads)
    assert {scene.got() for _ in range(20)} == {("old", "hit")}
    scene.source.go()
    assert first.result(10).value == "new"
    assert scene.got() == ("new", "hit")
    assert scene.source.reads == 1


@pytest.mark.parametrize(("draw", "late"), [(NEVER, 990), (ALWAYS, 490)])
def test_who_draws_too_little_or_comes_too_soon_computes_nothing(kit, callers, draw, late):
    scene = Scene(kit, callers, draw)
    scene.clock.late = late
    assert {scene.got() for _ in range(5)} == {("old", "hit")}
    assert scene.source.reads == 0


def test_one_that_fails_is_nobodys_error_and_is_put_off(kit, callers, events):
    scene = Scene(kit, callers, ALWAYS)
    scene.clock.late = 600
    scene.source.failing = True
    assert {scene.got() for _ in range(5)} == {("old", "hit")}
    assert scene.source.reads == 1
    assert [type(event) for event in events] == [RefreshFailed]
    stats = scene.fn.memo.stats()
    assert (stats.hits, stats.computations, stats.failures, stats.hit_rate) == (5, 1, 0, 1.0)


def test_another_kit_s_refresh_is_taken_instead(kit, callers, redis_url):
    scene = Scene(kit, callers, ALWAYS)
    scene.clock.late = 600
    memo, entries = scene.fn.memo, scene.fn.memo.fetcher.entries
    stale_read = kit.engine.runner.call(entries.get(memo.function.place((1,), {})[0]))
    memo.set("newer", 1)
    work = memo.function.work((1,), {}, aio=False)
    answer = kit.engine.runner.run(memo.fetcher.fetch(work, stale_read))
    assert (answer.value, answer.source) == ("newer", "hit")
    assert scene.source.reads == 0
