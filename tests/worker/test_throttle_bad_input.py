"""What throttled tasks are refused for, and tickets that cannot be sent: kept, reported, in nobody's way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, shared_task
from kombu import Connection

from tests.worker.gate_rig import Gated
from workerkit import WorkerKit
from workerkit.errors import DefinitionError, WaitlistFull

if TYPE_CHECKING:
    from collections.abc import Callable

# Each module imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")


# Definitions


def f(a: int) -> int:
    return a


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": "{b}"}, r"throttle: key: there is no argument 'b'; there are: a"),
        ({"key": lambda b: b}, r"throttle: key: there is no argument 'b'"),
        ({"fairness_key": "{b}"}, r"throttle: fairness_key: there is no argument 'b'"),
        ({"priority": 10}, r"throttle: priority=10 must be a whole number from 0 to 9"),
        ({"weight": 0}, r"throttle: weight=0 must be a number above 0"),
        ({"cost": 0}, r"cost"),
        ({"tokens": 5}, r"tokens"),
    ],
)
def test_options_that_will_not_do_are_refused_where_they_are_written(options: Any, says: str) -> None:
    kit = WorkerKit(url="redis://localhost/0")
    with pytest.raises(DefinitionError, match=says):
        kit.throttle(kit.limiter("some", "10/s"), **options)(f)


@pytest.mark.parametrize("limiter", ["some", 10, f])
def test_something_that_is_no_limiter_is_refused(limiter: Any) -> None:
    with pytest.raises(DefinitionError, match="is no limiter; write"):
        WorkerKit(url="redis://localhost/0").throttle(limiter)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate_limit": "10/s"}, r"has rate_limit='10/s'.*take it out, @kit.throttle limits the whole fleet"),
        ({"acks_late": False}, r"take acks_late=False out"),
        ({"reject_on_worker_lost": False}, r"take reject_on_worker_lost=False out"),
    ],
)
@pytest.mark.parametrize("way", ["kit", "app", "shared"])
def test_task_options_that_will_not_do_are_refused_when_the_app_is_finalized(way: str, options: Any, says: str) -> None:
    app = Celery("bad", broker="memory://", set_as_current=False)
    kit = WorkerKit(app, url="redis://localhost/0")
    throttled = kit.throttle(kit.limiter("some", "10/s"))(f)
    with pytest.MonkeyPatch.context() as patch:
        # A shared task is not for the apps of other tests.
        patch.setattr("celery._state._on_app_finalizers", set())
        patch.setattr("celery._state._get_active_apps", lambda: [app])
        {"kit": kit.task, "app": app.task, "shared": shared_task}[way](name="bad.f", **options)(throttled)
        with pytest.raises(DefinitionError, match=f"bad.f .*{says}"):
            app.finalize()


def test_worker_does_not_start_with_a_task_that_has_celery_s_limit(broker: Any) -> None:
    worker = broker.worker("refused", ready="take it out, @kit.throttle limits the whole fleet")
    assert worker.process.wait(20) != 0
    assert " ready." not in worker.output


# Tickets

WRONG = {
    "no json": lambda ticket: b"\xff{",
    "no ticket": lambda ticket: b"[1]",
    "parts missing": lambda ticket: json.dumps({"task": "parking.step"}).encode(),
    "part too many": lambda ticket: changed(ticket, surplus=1),
    "no headers": lambda ticket: changed(ticket, headers=5),
    "no body": lambda ticket: changed(ticket, body="\u00e9"),
    "no priority": lambda ticket: changed(ticket, properties={"priority": "high"}),
    "no routing key": lambda ticket: changed(ticket, routing_key=["celery"]),
    "no type": lambda ticket: changed(ticket, headers={"x": {"__type__": "none", "__value__": 1}}),
}


def changed(ticket: bytes, **parts: Any) -> bytes:
    return json.dumps({**json.loads(ticket), **parts}).encode()


@pytest.fixture(scope="module")
def gated(shared_broker: Any, eventually: Callable[..., None]) -> Gated:
    return Gated(shared_broker, eventually)


def quarantined(gated: Gated) -> dict[str, str]:
    """Why, by task id."""
    return {task.task_id: task.reason for task in gated.waitlist.tasks(state="quarantined")}


def test_undecodable_tickets_are_kept_and_reported_once_and_hold_up_nobody(gated: Gated) -> None:
    gated.app.gate.pause("wrong", 60)
    results = {name: gated.app.step.delay(name, "wrong", "!") for name in [*WRONG, "right"]}
    gated.await_parked("wrong", len(results))
    tickets, cli = gated.app.kit.engine.waitlist.tickets, gated.broker.server.cli
    ids = {task.task_id: task.id for task in gated.parked("wrong")}
    for name, spoil in WRONG.items():
        id_ = ids[results[name].id]
        cli("HSET", tickets, id_, spoil(cli("HGET", tickets, id_)))
    gated.app.gate.reset("wrong")
    assert results["right"].get(timeout=20) == "right!"
    spoiled = {results[name].id for name in WRONG}
    gated.eventually(lambda: quarantined(gated).keys() == spoiled)
    assert gated.waitlist.count() == len(WRONG)
    gated.eventually(lambda: gated.log.count("throttle.quarantine ") >= len(WRONG))  # told once it is done
    assert gated.log.count("throttle.quarantine ") == len(WRONG)
    again = results["no ticket"].id
    assert str(gated.waitlist.explain(again)).startswith("in quarantine: ")
    assert gated.waitlist.restore(again)
    gated.eventually(lambda: gated.log.count("throttle.quarantine ") == len(WRONG) + 1)
    assert quarantined(gated).keys() == spoiled
    assert all(gated.waitlist.cancel(task_id) for task_id in spoiled)
    assert gated.waitlist.count() == 0
    assert len(gated.notes("wrong")) == 1


def test_task_that_a_worker_does_not_know_waits_for_one_that_does(
    any_broker: Any, eventually: Callable[..., None]
) -> None:
    gated = Gated(any_broker, eventually, worker=False)
    parks = gated.start_worker()
    gated.app.gate.pause("soon", 3)
    gated.close("late")
    soon, late = gated.app.step.delay("soon", "soon", "!"), gated.app.step.delay("late", "late", "!")
    eventually(lambda: gated.waiting().total() == 2)
    parks.stop()
    stranger = gated.start_worker(module="stranger")
    eventually(lambda: quarantined(gated) == {soon.id: "unknown task parking.step"})  # found out before it was sent
    assert "unregistered" not in stranger.output
    gated.waitlist.drain("gate")  # by an app that knows the task, and is not asked who else reads the queue
    eventually(lambda: quarantined(gated).keys() == {soon.id, late.id})
    assert stranger.output.count("Received unregistered task") == 1
    assert stranger.output.count("throttle.quarantine ") == 2
    stranger.kill()
    gated.app.gate.reset("late")
    gated.start_worker()
    assert soon.get(timeout=20) == "soon!"
    eventually(lambda: gated.notes("late") == ["late 1"])  # Celery has told who waits that it is NotRegistered
    eventually(lambda: gated.waitlist.count() == 0)
    any_broker.kill()


@pytest.mark.parametrize("any_broker", ["rabbitmq"], indirect=True)
def test_ticket_that_no_queue_takes_is_kept(any_broker: Any, eventually: Callable[..., None]) -> None:
    gated = Gated(any_broker, eventually, worker=False)
    parks = gated.start_worker("-Q", "celery,gone")
    gated.close("gone")
    lost, kept = (gated.app.step.apply_async((name, "gone", "!"), queue=name) for name in ("gone", "celery"))
    gated.await_parked("gone", 2)
    parks.kill()
    with Connection(any_broker.url) as link:
        link.default_channel.queue_delete("gone")
    gated.start_worker("-Q", "celery")
    gated.app.gate.reset("gone")
    assert kept.get(timeout=20) == "celery!"
    eventually(lambda: quarantined(gated).keys() == {lost.id})
    assert "NO_ROUTE" in quarantined(gated)[lost.id]
    gated.start_worker("-Q", "gone")
    assert gated.waitlist.restore(lost.id)
    assert lost.get(timeout=20) == "gone!"
    eventually(lambda: gated.waitlist.count() == 0)
    any_broker.kill()


# The end of the list


def filled(broker: Any, eventually: Callable[..., None], policy: str, closed: float) -> tuple[Gated, list[Any]]:
    """Two tasks that are parked for so many seconds, and three that find no place."""
    broker.environment |= {"WORKERKIT_WAITLIST_MAX": "2", "WORKERKIT_WAITLIST_FULL": policy}
    gated = Gated(broker, eventually, concurrency=1)
    gated.app.gate.pause("full", closed)
    results = [gated.app.step.delay(n, "full") for n in range(5)]
    gated.await_parked("full", 2)
    return gated, results


def test_full_waitlist_refuses_where_it_is_told_to(any_broker: Any, eventually: Callable[..., None]) -> None:
    gated, results = filled(any_broker, eventually, "refuse", 60)
    for result in results[2:]:
        with pytest.raises(WaitlistFull, match=r"2 tasks are parked.*workerkit_waitlist_max"):
            result.get(timeout=20)
    gated.open("full")
    assert [result.get(timeout=20) for result in results[:2]] == [0, 1]
    any_broker.kill()


@pytest.mark.heavy
def test_full_waitlist_sends_the_others_away_for_a_while(any_broker: Any, eventually: Callable[..., None]) -> None:
    gated, results = filled(any_broker, eventually, "countdown", 4)
    eventually(lambda: gated.log.count("throttle.postponed ") == 3)
    assert {result.state for result in results} == {"THROTTLED"}
    assert [result.get(timeout=60) for result in results] == [*range(5)]
    assert gated.waitlist.count() == 0
    for result in results:
        messages = gated.received(result.id)
        assert len(messages) >= 2
        assert {message["headers"]["retries"] for message in messages} == {0}
