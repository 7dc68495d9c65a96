"""`kit.waitlist`: parked tasks listed, explained, moved, cancelled, restored, drained; by threads and coroutines."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server.waitlist_rig import ticket
from workerkit import WorkerKit
from workerkit.api.host import NoHost
from workerkit.api.limiter import Limiter
from workerkit.errors import DefinitionError, StoreUnavailable
from workerkit.waitlist.line import Line, Place
from workerkit.waitlist.listing import Explanation, ParkedTask, WaitingLine
from workerkit.waitlist.ticket import CANCELLED, Ticket
from workerkit.waitlist.waitlist import PUBLICATIONS

HOUR_US = 3_600_000_000


class Broker(NoHost):
    """A host whose messages stay here; `then` is done with each."""

    def __init__(self) -> None:
        self.sent: list[Ticket] = []
        self.then: Callable[[Ticket], Any] = lambda ticket: None

    def publish(self, ticket: Ticket) -> None:
        self.sent.append(ticket)
        self.then(ticket)


class Rig:
    """A kit, whose waitlist is asked from one side or the other, and limiters with tasks that wait."""

    def __init__(self, url: str, side: str) -> None:
        self.kit = WorkerKit(url=url, hooks=[])
        self.broker = self.kit.engine.host = Broker()
        self.stripe = self.kit.limiter("stripe", "5/h", name_keys=True)
        self.secret = self.kit.limiter("hidden", "100/s")
        self._loop = asyncio.Runner() if side == "aio" else None

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if self._loop is None:
            return getattr(self.kit.waitlist, verb)  # type: ignore[no-any-return]  # whatever it is
        loop = self._loop
        return lambda *args, **options: loop.run(getattr(self.kit.waitlist.aio, verb)(*args, **options))

    def run(self, call: Any) -> Any:
        return self.kit.engine.runner.call(call)

    def line(self, limiter: Limiter, key: str, bound_by: str = "5/h") -> Line:
        return Line(limiter.name, limiter.part(key), limiter.label(key), limiter.definition.ones, bound_by)

    def park(self, name: str, key: str = "acct_7", limiter: Limiter | None = None, **place: Any) -> Ticket:
        """Park a task as a worker would."""
        line = self.line(limiter or self.stripe, key)
        where = Place(**{"every_us": HOUR_US // 5, **place})
        self.run(self.kit.engine.waitlist.park(ticket(name), line, where, wait=0.0, most=100_000))
        return ticket(name).next(line.name)

    def publish(self, key: str = "acct_7", *, room: int = 1) -> None:
        """Have so many of them go."""
        line = self.line(self.stripe, key)
        self.run(self.kit.engine.waitlist.claim(line.name, 100, room, paced=False))

    def quarantine(self, parked: Ticket, why: str = "no queue") -> None:
        self.run(self.kit.engine.waitlist.quarantine(parked.id, parked.line, why))

    def ids(self, **options: Any) -> list[str]:
        return [each.task_id for each in self.tasks(**options)]

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run(self.kit.aio.close())
            self._loop.close()
        self.kit.close()


@pytest.fixture(params=["sync", "aio"])
def rig(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Rig]:
    made = Rig(redis_url, request.param)
    yield made
    made.close()


def test_an_empty_list(rig: Rig) -> None:
    assert (rig.count(), rig.lines(), rig.tasks(), rig.drain()) == (0, [], [], 0)
    assert (rig.tasks(state="returning"), rig.tasks(state="quarantined")) == ([], [])
    assert rig.explain("id") is None
    assert (rig.cancel("id"), rig.restore("id"), rig.move("id", priority=3)) == (False, False, False)


# Listing


def test_lines_say_who_waits_for_what(rig: Rig) -> None:
    for n in range(3):
        rig.park(f"a{n}")
    rig.park("b", "acct_8")
    rig.park("c", "x", rig.secret)
    rig.publish()
    assert rig.count() == 5
    hidden = WaitingLine("hidden", rig.secret.part("x"), 1, 0, "5/h")
    mine = [WaitingLine("stripe", "acct_7", 2, 1, "5/h"), WaitingLine("stripe", "acct_8", 1, 0, "5/h")]
    assert [line for line in rig.lines() if line.limiter == "hidden"] == [hidden]
    assert len(rig.lines()) == 3
    assert rig.lines("hidden") == [hidden]
    assert sorted(rig.lines("stripe"), key=lambda line: line.key) == mine
    assert rig.lines("other") == []


def test_a_task_as_it_is_listed(rig: Rig) -> None:
    before = time.time()
    parked = rig.park("id/1 %", priority=7)
    (found,) = rig.tasks()
    assert before - 60 <= found.since <= time.time() + 60
    assert found == ParkedTask(
        "id/1 %", "t", "waiting", "stripe", "acct_7", 7, 1, found.since, ahead=0, bound_by="5/h", id=parked.id
    )


def test_tasks_by_their_states(rig: Rig) -> None:
    made = [rig.park(str(n)) for n in range(6)]
    rig.publish(room=3)
    rig.quarantine(made[0], "first")
    rig.quarantine(made[4], "second")
    assert rig.ids() == ["3", "5"]
    assert sorted(rig.ids(state="returning")) == ["1", "2"]
    kept = rig.tasks(state="quarantined")
    assert {(each.task_id, each.reason, each.state) for each in kept} == {
        ("0", "first", "quarantined"),
        ("4", "second", "quarantined"),
    }
    assert {each.ahead for each in kept} == {None}
    assert [each.ahead for each in rig.tasks()] == [0, 1]
    assert rig.count() == 6


def test_waiting_tasks_are_listed_line_by_line_as_they_will_go(rig: Rig) -> None:
    for n in range(4):
        rig.park(f"a{n}", priority=9 if n == 2 else 0)
        rig.park(f"b{n}", "acct_8", group=f"g{n % 2}")
    found = rig.tasks()
    a, b = ([each.task_id for each in found if each.key == key] for key in ("acct_7", "acct_8"))
    assert [each.task_id for each in found] in (a + b, b + a)
    assert a == ["a2", "a0", "a1", "a3"]
    assert b in (["b0", "b1", "b2", "b3"], ["b1", "b0", "b3", "b2"], ["b1", "b0", "b2", "b3"], ["b0", "b1", "b3", "b2"])
    assert [each.ahead for each in found] == [0, 1, 2, 3] * 2
    assert rig.ids(limiter="stripe") == [each.task_id for each in found]
    assert rig.ids(limiter="hidden") == []


@pytest.mark.parametrize("state", ["waiting", "returning", "quarantined"])
def test_pages_are_parts_of_the_whole(rig: Rig, state: str) -> None:
    made = [rig.park(f"{key}{n}", key) for key, count in (("a", 3), ("b", 1), ("c", 5)) for n in range(count)]
    for key in "abc" if state != "waiting" else "":
        rig.publish(key, room=9)
    for each in made if state == "quarantined" else []:
        rig.quarantine(each)
    whole = rig.tasks(state=state)
    assert sorted(each.task_id for each in whole) == sorted(each.task_id for each in made)
    for first, most in itertools.product(range(11), (1, 2, 4, 100)):
        assert rig.tasks(state=state, first=first, most=most) == whole[first : first + most]


def test_nothing_of_a_task_is_shown_that_may_be_a_secret(rig: Rig) -> None:
    parked = rig.park("id", "secret-key", rig.secret)
    seen = [*rig.lines(), *rig.tasks(), rig.explain("id"), str(rig.explain("id"))]
    rig.quarantine(parked)
    seen += [*rig.tasks(state="quarantined"), str(rig.explain("id"))]
    assert all("secret" not in repr(each) for each in seen)
    assert rig.secret.part("secret-key") in repr(rig.lines() + rig.tasks(state="quarantined"))


def test_what_another_version_wrote_is_listed(rig: Rig) -> None:
    parked = rig.park("id")
    with rig.kit.client() as client:
        client.hset(rig.kit.engine.waitlist.lines, parked.line, "{}")
    assert rig.ids() == ["id"]
    assert len(rig.lines()) == 1
    assert str(rig.explain("id")).endswith("0 ahead")


# Explaining


def test_why_a_task_waits_and_until_when(rig: Rig) -> None:
    for _ in range(5):
        rig.stripe.try_acquire("acct_7")
    for n in range(4):
        rig.park(str(n))
    for n in range(4):
        found = rig.explain(str(n))
        assert found.parked == rig.tasks(first=n, most=1)[0]
        assert found.wait == pytest.approx(3600 + n * 720, abs=60)
        check_text(found, f"waits on stripe/acct_7: 5/h, {n} ahead, about ")


def check_text(found: Explanation, begins: str) -> None:
    assert found.wait is not None
    text, at = str(found), time.time() + found.wait
    assert text in {begins + time.strftime("%H:%M:%S", time.localtime(at + late)) for late in range(-30, 3)}


def test_a_limit_with_room_says_soon(rig: Rig) -> None:
    rig.park("a", every_us=10_000_000)
    rig.park("b", every_us=10_000_000)
    assert [rig.explain(name).wait for name in "ab"] == [0.0, 10.0]
    assert re.fullmatch(r"waits on stripe/acct_7: 5/h, 0 ahead, about \d\d:\d\d:\d\d", str(rig.explain("a")))


def test_where_the_limiter_is_not_known_nobody_can_say_when(rig: Rig) -> None:
    rig.park("id")
    del rig.stripe
    assert not rig.kit.engine.limiters.get("stripe")
    found = rig.explain("id")
    assert found.wait is None
    assert str(found) == "waits on stripe/acct_7: 5/h, 0 ahead"


def test_a_limiter_without_keys_is_named_alone(rig: Rig) -> None:
    whole = rig.kit.limiter("whole", "1/h", name_keys=True)
    rig.park("id", "", whole)
    assert str(rig.explain("id")).startswith("waits on whole: 5/h, 0 ahead, about ")


def test_who_returns_or_is_in_quarantine_is_told_so(rig: Rig) -> None:
    parked = rig.park("id")
    rig.publish()
    found = rig.explain("id")
    assert (found.parked.state, found.wait) == ("returning", None)
    assert str(found) == "its turn has come: it is on its way to a worker"
    rig.quarantine(parked, "no queue")
    found = rig.explain("id")
    assert (found.parked.state, found.parked.reason) == ("quarantined", "no queue")
    assert str(found) == "in quarantine: no queue; kit.waitlist.restore('id') publishes it again"


# Moving, cancelling, restoring


def test_moving(rig: Rig) -> None:
    for n in range(4):
        rig.park(str(n))
    assert rig.move("2", priority=4)
    assert rig.ids() == ["2", "0", "1", "3"]
    assert rig.explain("2").parked.priority == 4
    assert rig.move("3", priority=0)
    assert rig.ids() == ["2", "3", "0", "1"]
    rig.publish()
    assert not rig.move("2", priority=9)


def test_cancelling(rig: Rig) -> None:
    for n in range(3):
        rig.park(str(n))
    assert rig.cancel("1")
    look = rig.run(rig.kit.engine.waitlist.look(9))
    assert [id_ for id_, _ in look.overdue] == [ticket("1").id]
    taken = rig.run(rig.kit.engine.waitlist.take(*look.overdue[0]))
    assert taken.cancelled
    rig.publish()
    assert rig.cancel("0")
    parked = rig.park("kept", "acct_8")
    rig.quarantine(parked)
    assert rig.cancel("kept")
    assert rig.explain("kept") is None
    assert rig.count() == 3


def test_restoring(rig: Rig) -> None:
    parked = rig.park("id")
    assert not rig.restore("id")
    rig.quarantine(parked)
    assert rig.restore("id")
    assert rig.ids(state="returning") == ["id"]
    assert not rig.restore("id")
    assert rig.run(rig.kit.engine.waitlist.look(9)).overdue == [(parked.id, parked.line)]


# Draining


def test_draining_sends_everything_as_it_was(rig: Rig) -> None:
    made = [rig.park(f"{key}{n}", key) for key in "ab" for n in range(120)]
    assert rig.drain() == 240
    assert rig.count() == 240  # until they have begun
    assert rig.tasks() == []
    sent = {message.task_id: message for message in rig.broker.sent}
    assert len(sent) == len(rig.broker.sent) == 240
    assert len({message.publication for message in rig.broker.sent}) == 240
    for each in made:
        assert sent[each.task_id].published_as("") == each
    assert [name for name in sent if name[0] == "a"] == [f"a{n}" for n in range(120)]
    for message in rig.broker.sent:
        rig.run(rig.kit.engine.waitlist.enter(message, message.line))
    assert rig.count() == 0


def test_draining_one_limiter(rig: Rig) -> None:
    rig.park("a")
    rig.park("b", "x", rig.secret)
    assert rig.drain("hidden") == 1
    assert [message.task_id for message in rig.broker.sent] == ["b"]
    assert rig.ids() == ["a"]
    assert rig.drain("other") == 0


def test_draining_tells_cancelled_tasks_so(rig: Rig) -> None:
    rig.park("a")
    rig.park("b")
    rig.cancel("a")
    rig.drain()
    assert {message.task_id: message.headers.get(CANCELLED) for message in rig.broker.sent} == {"a": True, "b": None}


def test_a_broker_that_fails_while_draining_is_told_of_and_nothing_is_lost(rig: Rig) -> None:
    for n in range(5):
        rig.park(str(n))

    def fail(message: Ticket) -> None:
        if len(rig.broker.sent) == 3:
            raise ConnectionError("the broker is gone")

    rig.broker.then = fail
    with pytest.raises(ConnectionError):
        rig.drain()
    assert rig.count() == 5
    assert rig.ids() == ["3", "4"]
    assert sorted(rig.ids(state="returning")) == ["0", "1", "2"]  # the third is published again in 10 s
    assert rig.drain() == 2


@pytest.mark.filterwarnings("ignore:workerkit. a sync call inside a running event loop")  # the worker's, here
def test_draining_sends_each_once_though_workers_park_them_again(rig: Rig) -> None:
    for n in range(5):
        rig.park(str(n))

    def park_again(message: Ticket) -> None:
        waitlist, line = rig.kit.engine.waitlist, rig.line(rig.stripe, "acct_7")
        rig.run(waitlist.enter(message, message.line))
        if len(rig.broker.sent) < 50:
            rig.run(waitlist.park(message, line, Place(), wait=0.0, most=100))

    rig.broker.then = park_again
    assert rig.drain() == 5
    assert rig.count() == 5


def test_outside_of_an_app_there_is_nowhere_to_drain_to(redis_url: str) -> None:
    rig = Rig(redis_url, "sync")
    rig.park("id")
    rig.kit.engine.host = NoHost()
    try:
        with pytest.raises(DefinitionError, match=r"write kit = WorkerKit\(app\)"):
            rig.drain()
        assert rig.count() == 1
    finally:
        rig.close()


def test_a_ticket_that_is_none_drains_to_the_pump(rig: Rig) -> None:
    parked = rig.park("id")
    with rig.kit.client() as client:
        client.hset(rig.kit.engine.waitlist.tickets, parked.id, b"no ticket")
    rig.drain()
    assert rig.broker.sent == []
    assert rig.ids(state="returning") == ["id"]


def test_a_ticket_that_no_worker_begins_goes_to_quarantine_and_says_so(rig: Rig) -> None:
    parked = rig.park("id")
    for _ in range(PUBLICATIONS + 1):
        rig.run(rig.kit.engine.waitlist.take(parked.id, parked.line, whatever=True))
    assert str(rig.explain("id")).startswith("in quarantine: published 10 times, and no worker has begun it; ")


# Bad input


WRONG_PRIORITIES = [-1, 10, 1.0, True, "3", None, [1]]


@pytest.mark.parametrize("priority", WRONG_PRIORITIES)
def test_a_priority_that_will_not_do(rig: Rig, priority: Any) -> None:
    rig.park("id")
    with pytest.raises(DefinitionError, match=r"waitlist.move: priority=.* whole number from 0 to 9"):
        rig.move("id", priority=priority)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"first": -1}, "first=-1 must be at least 0"),
        ({"most": 0}, "most=0 at least 1"),
        ({"most": -5}, "most=-5 at least 1"),
        ({"state": "lost"}, "state='lost' must be 'waiting', 'returning' or 'quarantined'"),
        ({"state": None}, "state=None must be"),
    ],
)
def test_a_listing_that_will_not_do(rig: Rig, options: dict[str, Any], says: str) -> None:
    rig.park("id")
    with pytest.raises(DefinitionError, match=says):
        rig.tasks(**options)


def test_without_redis_every_verb_says_so(private_server: Any) -> None:
    server = private_server()
    rig = Rig(server.url, "sync")
    rig.park("id")
    server.kill()
    verbs: list[Callable[[], Any]] = [rig.count, rig.lines, rig.tasks, rig.drain]
    verbs += [lambda: rig.explain("id"), lambda: rig.cancel("id"), lambda: rig.restore("id")]
    for verb in (*verbs, lambda: rig.move("id", priority=1)):
        with pytest.raises(StoreUnavailable):
            verb()
    rig.close()
