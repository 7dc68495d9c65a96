"""Warmups run by real beats and workers: each tick once, whatever dies; the limit met without parking."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.conftest import Broker

Eventually = Callable[..., None]


def started(broker: Broker, warmups: str, *, tick: str = "beat", workers: int = 0) -> Any:
    broker.environment.update(TEST_WARMUPS=warmups, WORKERKIT_WARM_TICK=tick)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_WARMUPS", warmups)
        app = broker.load("warming")
    for _ in range(workers):
        broker.worker("warming", "-Q", "celery,warm")
    return app


class Seen:
    """The runs of a warmup, gathered from a history that keeps the last 50."""

    def __init__(self, warmup: Any) -> None:
        self._warmup = warmup
        self._runs: dict[tuple[int, float], dict[str, Any]] = {}

    def ticks(self) -> list[int]:
        for run in self._warmup.history(50):
            self._runs[run["tick"], run["at"]] = run
        return sorted(round(tick) for tick, _ in self._runs)


@pytest.mark.heavy
def test_two_beats_and_two_ticking_workers_run_each_tick_once(broker: Broker, eventually: Eventually) -> None:
    app = started(broker, "steady slow", tick="worker", workers=2)
    broker.environment["WORKERKIT_WARM_TICK"] = "beat"
    for _ in range(2):
        broker.beat("warming")
    seen = Seen(app.kit.warmups["steady"])
    eventually(lambda: len(seen.ticks()) >= 60, 90.0)
    app.kit.warmups["steady"].pause()
    eventually(lambda: app.kit.warmups["steady"].status().running is None)
    ticks, status = seen.ticks(), app.kit.warmups["steady"].status()
    assert len(set(ticks)) == len(ticks) == status.runs
    # A busy machine may need a second for a run of milliseconds; then the next tick is left out, and told.
    left_out = ticks[-1] - ticks[0] + 1 - len(ticks)
    print(f"\n{len(ticks)} ticks run once each, {left_out} left out")
    assert left_out <= min(status.overlaps, 3)
    assert status.missed == 0
    # Each tick did its work once.
    assert len(broker.notes("steady")) == 3 * len(ticks)
    for _ in range(50):
        assert app.steady("a") == "a"
    assert app.steady.memo.stats().misses == 0
    # The slow one's ticks came while it ran: left out, and told.
    assert app.kit.warmups["slow"].status().overlaps >= 10
    turns = [text for _, text in broker.notes("slow")]
    assert len(turns) > 10
    assert set(turns[::2]) == {"begins"}
    assert set(turns[1::2]) == {"ends"}


@pytest.mark.parametrize("whose", ["child", "worker"])
def test_a_tick_whose_runner_is_killed_before_its_work_is_run_by_another(
    broker: Broker, eventually: Eventually, whose: str
) -> None:
    app = started(broker, "deadly", tick="worker", workers=2)
    warmup = app.kit.warmups["deadly"]
    eventually(lambda: warmup.status().runs >= 1)
    (broker.directory / "fatal").write_text(whose)
    eventually(lambda: broker.notes("died"))
    ((died, _),) = broker.notes("died")
    tick = int(died) // 4 * 4
    assert tick not in [run["tick"] for run in warmup.history()]
    eventually(lambda: tick in [run["tick"] for run in warmup.history()])
    (run,) = [run for run in warmup.history() if run["tick"] == tick]
    assert (run["warmed"], run["reason"]) == (1, "")
    assert run["at"] - died < 4.0  # within an interval
    assert warmup.status().missed == 0


def test_ticks_without_a_beat_are_made_up_for_by_policy(broker: Broker, eventually: Eventually) -> None:
    app = started(broker, "once all skip slow", workers=2)
    beat = broker.beat("warming")
    names = ("once", "all", "skip")
    seen = {name: Seen(app.kit.warmups[name]) for name in names}
    eventually(lambda: all(seen[name].ticks() for name in names))
    beat.kill()
    before = {name: app.kit.warmups[name].status() for name in names}
    quiet = time.time() + 4.0
    eventually(lambda: time.time() > quiet)
    broker.beat("warming")
    eventually(lambda: all(max(seen[name].ticks()) >= quiet + 1 for name in names))
    for name in names:
        app.kit.warmups[name].pause()
    eventually(lambda: all(app.kit.warmups[name].status().running is None for name in names))
    for name in ("once", "skip"):
        gaps = [later - earlier for earlier, later in itertools.pairwise(seen[name].ticks())]
        assert max(gaps) >= 3  # one run, or none, for those that nobody was there to run
        assert app.kit.warmups[name].status().missed >= before[name].missed + 2
    ticks = seen["all"].ticks()
    assert {later - earlier for earlier, later in itertools.pairwise(ticks)} == {1}
    assert app.kit.warmups["all"].status().missed == before["all"].missed
    assert app.kit.warmups["slow"].status().overlaps >= 1


def test_callers_go_first_and_warming_has_its_share_when_they_have_left(broker: Broker, eventually: Eventually) -> None:
    app = started(broker, "warmed", tick="worker")
    warmup = app.kit.warmups["warmed"]
    warmup.pause()
    broker.worker("warming", "-Q", "celery,warm")
    for n in range(120):
        app.called.delay(n)
    eventually(lambda: app.kit.waitlist.count() >= 20)
    warmup.resume()
    eventually(lambda: app.kit.waitlist.count() == 0)
    eventually(lambda: len(broker.notes("warmed")) == 100)
    calls = [moment for moment, _ in broker.notes("called")]
    assert len(calls) == 120
    warmed = [moment for moment, _ in broker.notes("warmed")]
    # None while tasks waited for the limit; then no more than half of it, and most of that.
    assert warmed[0] > calls[-20]
    assert warmed[0] - calls[-1] < 2.5
    assert all(later - earlier > 0.9 for earlier, later in zip(warmed, warmed[10:], strict=False))
    assert warmed[-1] - warmed[0] < 15.0


def test_a_run_that_meets_the_limit_goes_on_as_another_message_and_never_parks(
    any_broker: Broker, eventually: Eventually
) -> None:
    app = started(any_broker, "limited start")
    worker = any_broker.worker("warming", "-Q", "warm")
    # Started with the worker, on the queue of choice; a coroutine function.
    eventually(lambda: app.kit.warmups["start"].status().runs == 1)
    assert [text for _, text in any_broker.notes("prompt")] == ["x"]
    warmup = app.kit.warmups["limited"]
    assert warmup.send()
    assert not warmup.send()
    eventually(lambda: warmup.status().running is None)
    assert warmup.status().last == (10, 0, 0, 0)
    assert sorted(int(text) for _, text in any_broker.notes("limited")) == list(range(10))
    assert worker.output.count("Task workerkit.warm.run[") >= 2 * 3
    assert app.kit.waitlist.count() == 0
