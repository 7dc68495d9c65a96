"""The waitlist while real tasks are parked: looked at, moved, sent back; and revokes before a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError

from tests.worker.gate_rig import CLOSED, Gated
from workerkit.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

# Each module imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")


@pytest.fixture(scope="module")
def gated(shared_broker: Any, eventually: Callable[..., None]) -> Gated:
    return Gated(shared_broker, eventually, concurrency=1)  # so they come in the order in which they were sent


def revoked(result: Any, by: str) -> None:
    with pytest.raises(TaskRevokedError, match=by):
        result.get(timeout=20)
    assert result.state == "REVOKED"


def test_parked_task_is_revoked_and_cancelled_at_once(gated: Gated) -> None:
    gated.close("ended")
    first, second, third = (gated.app.step.delay(n, "ended") for n in range(3))
    gated.await_parked("ended", 3)
    first.revoke()
    revoked(first, "revoked")
    assert gated.waitlist.cancel(second.id)
    revoked(second, "revoked")
    assert not gated.waitlist.cancel("nobody")
    gated.await_parked("ended", 1)
    gated.open("ended")
    assert third.get(timeout=20) == 2
    assert gated.notes("ended") == ["2 1"]
    assert not gated.waitlist.cancel(third.id)  # it has ended


def test_chord_whose_parked_header_is_cancelled_fails(gated: Gated) -> None:
    gated.close("chord")
    result = chord((gated.app.step.s(n, "chord") for n in range(2)), gated.app.joined.s()).apply_async()
    gated.await_parked("chord", 2)
    gated.waitlist.cancel(gated.parked("chord")[0].task_id)
    gated.open("chord")
    gated.eventually(lambda: result.state == "FAILURE")


def test_listing_explanation_and_moving(gated: Gated) -> None:
    gated.close("listed")
    results = [gated.app.ranked.delay(n, "listed", priority=n // 3) for n in range(6)]
    gated.await_parked("listed", 6)
    found = gated.parked("listed")
    assert [task.task_id for task in found] == [results[n].id for n in (3, 4, 5, 0, 1, 2)]
    assert [task.ahead for task in found] == [*range(6)]
    assert {(task.task, task.state, task.limiter, task.bound_by) for task in found} == {
        ("parking.ranked", "waiting", "gate", "pause")
    }
    (line,) = [line for line in gated.waitlist.lines("gate") if line.key == "listed"]
    assert (line.waiting, line.returning) == (6, 0)
    explanation = gated.waitlist.explain(results[1].id)
    assert str(explanation).startswith("waits on gate/listed: pause, 4 ahead, about ")
    assert CLOSED - 30 < explanation.wait < CLOSED + 1
    assert gated.waitlist.move(results[2].id, priority=9)
    assert not gated.waitlist.move("nobody", priority=9)
    with pytest.raises(DefinitionError, match="from 0 to 9"):
        gated.waitlist.move(results[2].id, priority=10)
    assert [task.task_id for task in gated.parked("listed")] == [results[n].id for n in (2, 3, 4, 5, 0, 1)]
    assert gated.parked("listed")[0].priority == 9
    assert gated.waitlist.tasks(limiter="gate", first=1, most=2) == gated.waitlist.tasks(limiter="gate")[1:3]
    gated.open("listed")
    assert [result.get(timeout=20) for result in results] == [*range(6)]
    assert gated.waitlist.explain(results[0].id) is None


def test_drained_tasks_that_are_still_denied_are_parked_again(gated: Gated) -> None:
    gated.close("drained")
    results = [gated.app.step.delay(n, "drained") for n in range(4)]
    gated.await_parked("drained", 4)
    assert gated.waitlist.drain("another") == 0
    assert gated.waitlist.drain("gate") >= 4
    gated.await_parked("drained", 4, parks=2)
    gated.open("drained")
    assert [result.get(timeout=20) for result in results] == [*range(4)]


def test_revoked_while_no_worker_could_end_it_even_if_the_one_who_heard_of_it_is_gone(
    any_broker: Any, eventually: Callable[..., None]
) -> None:
    gated = Gated(any_broker, eventually, worker=False)
    parks = gated.start_worker()
    gated.close("unheard")
    result = gated.app.step.delay(1, "unheard")
    gated.await_parked("unheard", 1)
    parks.kill()
    listens = gated.start_worker("-Q", "other")  # hears of the revoke, and gets no message of the task
    result.revoke()
    eventually(lambda: any_broker.queued() and gated.waitlist.tasks(state="returning"))
    listens.kill()
    gated.app.gate.reset("unheard")
    gated.start_worker()
    revoked(result, "revoked")
    eventually(lambda: gated.waitlist.count() == 0)
    assert gated.notes("unheard") == []
    gated.broker.kill()
