"""Throttled tasks in real workers: never over the limit, nothing lost, no retry burned."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group

if TYPE_CHECKING:
    from collections.abc import Callable

# Each test imports the app anew for a server of its own; Celery remembers the shared tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")


def most_in_any(times: list[float], window: float) -> int:
    return max(sum(1 for other in times if first <= other < first + window) for first in times)


def parked(module: Any) -> int:
    from workerkit.waitlist.waitlist import Waitlist

    return int(module.kit.engine.runner.call(Waitlist(module.kit.engine.keys("w")).count()))


def test_never_over_the_limit_and_no_retry_burned(broker: Any) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", concurrency=4)
    results = [app.call.delay(n) for n in range(200)]
    assert [result.get(timeout=60) for result in results] == list(range(200))
    calls = broker.notes("calls")
    assert sorted(int(text) for _, text in calls) == list(range(200))  # each once, with max_retries=0
    # Noted after admission, by four processes: 20 ms of margin cover the spread of that.
    assert most_in_any([at for at, _ in calls], 1.0) <= 50
    assert parked(app) == 0


def test_message_is_kept_whole(broker: Any) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", "-Q", "celery,other")
    results = [
        app.bound.apply_async((n,), queue="other", headers={"mine": f"h{n}"}, priority=3, task_id=f"id-{n}")
        for n in range(12)
    ]
    found = [result.get(timeout=40) for result in results]
    assert found == [[n, 0, "other", f"h{n}"] for n in range(12)]
    assert [result.id for result in results] == [f"id-{n}" for n in range(12)]


def test_parked_task_says_throttled(broker: Any, eventually: Callable[..., None]) -> None:
    app = broker.load("throttled")
    broker.worker("throttled")
    results = [app.bound.delay(n) for n in range(8)]
    eventually(lambda: any(result.state == "THROTTLED" for result in results))
    assert [result.get(timeout=30)[0] for result in results] == list(range(8))


def test_canvas_survives_parking(broker: Any) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", concurrency=2)
    assert chord(group(app.awaited.s(n) for n in range(9)), app.add.s()).apply_async().get(timeout=40) == sum(range(9))
    assert chain(app.call.s(3), app.call.si(4)).apply_async().get(timeout=20) == 4
    assert group(app.balance.s("acct", n % 3) for n in range(9)).apply_async().get(timeout=40) == [
        n % 3 for n in range(9)
    ]


def test_memoized_hit_spends_no_token_and_takes_its_ticket_off(broker: Any, eventually: Callable[..., None]) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", concurrency=4)
    # 40 calls of 8 entries at 5 per 2 s: whoever comes back meets a hit, and must leave no ticket behind.
    results = [app.balance.delay("acct", n % 8) for n in range(40)]
    assert [result.get(timeout=60) for result in results] == [n % 8 for n in range(40)]
    assert sorted(int(text) for _, text in broker.notes("balance")) == list(range(8))
    eventually(lambda: parked(app) == 0)


def test_concurrency_cap_holds_over_processes(broker: Any) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", concurrency=4)
    results = [app.alone.delay(n) for n in range(20)]
    assert sorted(result.get(timeout=60) for result in results) == list(range(20))
    enters, leaves = broker.notes("enter"), broker.notes("leave")
    marks = sorted([(at, 1) for at, _ in enters] + [(at, -1) for at, _ in leaves])
    inside = 0
    for _, step in marks:
        inside += step
        assert inside <= 1


def test_child_killed_in_its_task_the_task_comes_back(broker: Any) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", concurrency=2)
    results = [app.dies_once.delay(n) for n in range(3)]
    assert [result.get(timeout=60) for result in results] == [0, 1, 2]


def test_worker_killed_while_tasks_are_parked(broker: Any, eventually: Callable[..., None]) -> None:
    app = broker.load("throttled")
    first = broker.worker("throttled", concurrency=2)
    results = [app.bound.delay(n) for n in range(14)]
    eventually(lambda: parked(app) >= 5)
    first.kill()
    assert parked(app) >= 1
    broker.worker("throttled", concurrency=2)
    done = {result.id for result in results if result.ready()}
    tickets = parked(app)
    # Those that were parked all come back; those in the killed worker's hands come back after the visibility timeout.
    eventually(lambda: len({r.id for r in results if r.ready()} - done) >= tickets, seconds=40)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools(broker: Any, pool: str) -> None:
    app = broker.load("throttled")
    broker.worker("throttled", pool=pool, concurrency=4)
    results = [app.call.delay(n) for n in range(120)]
    assert [result.get(timeout=60) for result in results] == list(range(120))
    times = [at for at, _ in broker.notes("calls")]
    assert len(times) == 120
    assert most_in_any(times, 1.0) <= 50


def test_units_are_charged_by_key_in_one_decision_with_the_calls(broker: Any) -> None:
    app = broker.load("metered")
    broker.worker("metered", concurrency=4)
    began = time.time()
    results = [app.complete.delay(model, n) for n in range(12) for model in ("large", "small")]
    assert [result.get(timeout=60) for result in results] == [n for n in range(12) for _ in range(2)]
    for model in ("large", "small"):
        times = sorted(at for at, _ in broker.notes(model))
        assert len(times) == 12
        # 250 tokens each of 1000/s: four a second, noted after their admission.
        assert [n for n, at in enumerate(times) if at < began + n // 4 * 1.02] == []


def test_counted_by_response_a_task_counts_until_a_period_after_its_end(broker: Any) -> None:
    app = broker.load("metered")
    broker.worker("metered", pool="threads", concurrency=10)
    sent = time.time()
    results = [app.slow.delay(n) for n in range(18)]
    assert sorted(result.get(timeout=60) for result in results) == list(range(18))
    began, ended = ({int(n): at for at, n in broker.notes(name)} for name in ("began", "ended"))
    for n, at in began.items():
        counting = [other for other in began if began[other] <= at < ended[other] + 1.0]
        assert n in counting
        assert len(counting) <= 6
    # Each counts for the 0.3 s that it takes, and a second: six in 1.3 s.
    assert [n for n, at in enumerate(sorted(began.values())) if at < sent + n // 6 * 1.3] == []


def test_a_killed_task_that_never_answered_counts_until_its_lease_ends_and_comes_back(broker: Any) -> None:
    app = broker.load("metered")
    broker.worker("metered", concurrency=2)
    results = [app.dies_unanswered.delay(n) for n in range(3)]
    assert sorted(result.get(timeout=60) for result in results) == [0, 1, 2]
    assert sorted(int(n) for _, n in broker.notes("lived")) == [0, 1, 2]
    limiter = app.answered
    until_free = time.monotonic() + 30
    while limiter.usage().rates[0].remaining < 6:
        assert time.monotonic() < until_free, "what the killed held never came back"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["nested", "nested_coroutine"])
def test_a_slot_inside_its_own_throttle_takes_no_second_place(broker: Any, name: str) -> None:
    app = broker.load("metered")
    broker.worker("metered", concurrency=2)
    results = [getattr(app, name).delay(n) for n in range(8)]
    assert [result.get(timeout=60) for result in results] == [[n, 1, 1] for n in range(8)]
    assert app.single.usage().holders == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_slots_within_a_task_are_one_place_and_between_tasks_they_are_not(broker: Any, pool: str) -> None:
    app = broker.load("metered")
    broker.worker("metered", pool=pool, concurrency=4)
    results = [app.beside.delay(n) for n in range(24)]
    assert [result.get(timeout=60) for result in results] == [[True, False]] * 24
    inside = highest = 0
    steps = [(at, 1) for at, _ in broker.notes("enter")] + [(at, -1) for at, _ in broker.notes("leave")]
    for _, step in sorted(steps):
        inside += step
        highest = max(highest, inside)
    assert highest == 2


def test_eager_mode_waits_in_place(broker: Any) -> None:
    app = broker.load("throttled")
    assert [app.call.apply((n,)).get() for n in range(3)] == [0, 1, 2]


def test_worker_with_throttled_tasks_refuses_a_guard_store_that_evicts(broker: Any) -> None:
    broker.server.cli("CONFIG", "SET", "maxmemory", "100mb")
    broker.server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    worker = broker.worker("throttled", ready="workerkit_guard_eviction='warn'")
    assert worker.process.wait(20) != 0
    assert " ready." not in worker.output
