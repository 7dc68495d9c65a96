"""Crowds of throttled tasks on each broker: a backlog delays no other, a large chord ends, an outage loses none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import chord

from tests.worker.conftest import Broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore:Task name .* is already registered")]

BACKLOG, MORE, FEW = 2000, 800, 20  # more, because some are done before all are sent
HEADERS = 500
SENT = 6


def most_in_any_second(times: list[float]) -> int:
    times = sorted(times)
    return max(sum(1 for other in times if at <= other < at + 1.0) for at in times)


def test_a_tenant_s_backlog_holds_up_no_other_under_one_limit(any_broker: Any, eventually: Callable[..., None]) -> None:
    rivalry("together", any_broker, eventually)


def test_a_tenant_s_backlog_holds_up_no_other_with_a_limit_of_its_own(
    broker: Any, eventually: Callable[..., None]
) -> None:
    rivalry("alone", broker, eventually)


def rivalry(kind: str, broker: Any, eventually: Callable[..., None]) -> None:
    """A few tasks without and with another tenant's backlog beside them."""
    app = broker.load("crowds")
    task, waitlist = getattr(app, kind), app.kit.waitlist
    for _ in range(2):
        broker.worker("crowds", "--without-mingle", "--without-gossip")

    def send(tenant: str, tasks: int) -> None:
        for n in range(tasks):
            task.delay(tenant, n)

    def seconds(tenant: str) -> float:
        """From sending a few to the start of the last."""
        began = time.time()
        send(tenant, FEW)
        eventually(lambda: len(broker.notes(tenant)) == FEW)
        return max(at for at, _ in broker.notes(tenant)) - began

    unrivalled = seconds("quiet")
    send("large", BACKLOG + MORE)
    eventually(lambda: broker.queued() == 0 and waitlist.count() >= BACKLOG, 60)
    rivalled = seconds("small")
    left = waitlist.count()
    print(f"\n{kind}: {FEW} tasks in {unrivalled:.2f} s alone, in {rivalled:.2f} s beside a backlog of {left}")
    assert left >= BACKLOG
    assert rivalled <= 3 * unrivalled


def test_a_chord_of_many_throttled_headers(any_broker: Any, eventually: Callable[..., None]) -> None:
    app = any_broker.load("crowds")
    for _ in range(2):
        any_broker.worker("crowds", "--without-mingle", "--without-gossip")
    result = chord((app.head.s(n) for n in range(HEADERS)), app.total.s()).delay()
    assert result.get(timeout=60) == sum(range(HEADERS))
    heads = any_broker.notes("heads")
    assert sorted(text for _, text in heads) == sorted(f"{n} 0" for n in range(HEADERS))
    assert most_in_any_second([at for at, _ in heads]) <= 200
    assert [text for _, text in any_broker.notes("total")] == [str(HEADERS)]
    eventually(lambda: app.kit.waitlist.count() == 0)


@pytest.fixture
def guarded(
    any_broker: Any, private_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A broker that lives on while the kit's Redis, which is no broker, is down."""
    store = private_server(args=("--appendonly", "yes"))
    monkeypatch.setenv("WORKERKIT_TIMEOUT", "1")
    made = Broker(store, tmp_path, monkeypatch, any_broker.url)
    for name in ("WORKERKIT_TIMEOUT", "WORKERKIT_POOL_TIMEOUT"):
        made.environment[name] = "1"
    yield made
    made.stop()


def test_while_redis_is_down_the_broker_keeps_them(guarded: Any, eventually: Callable[..., None]) -> None:
    app = guarded.load("crowds")
    worker = guarded.worker("crowds", "--without-mingle", "--without-gossip")
    guarded.server.kill()
    for n in range(SENT):
        app.together.delay("late", n)
    eventually(lambda: worker.output.count("throttle.postponed") >= SENT)
    assert guarded.notes("late") == []
    guarded.server.start()
    eventually(lambda: len(guarded.notes("late")) == SENT, 60)
    assert sorted(int(text) for _, text in guarded.notes("late")) == list(range(SENT))
    assert app.kit.waitlist.count() == 0
