"""Everything that can happen to parked tasks, in any order: against a model that knows what must come.

Workers die or sleep between entering and beginning, messages are lost, doubled and delivered again, pumps die between
claiming and publishing, answers get lost, and the clock jumps. The broker's queue, the executions under way and the
waitlist are the model's.
"""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.server.waitlist_rig import LINE, OTHER, START, Queue, S, Task, World, decoded, ticket, world_on
from workerkit.waitlist.line import Line
from workerkit.waitlist.ticket import CANCELLED, Ticket
from workerkit.waitlist.waitlist import PUBLICATIONS, Entry

HEAVY = os.environ.get("WORKERKIT_HEAVY") == "1"
EVERY = 0.5
BAND, FRONT = 2**48, 2**20
ENTERED = 30.0  # seconds that an entered ticket stays before it is published again
LINES = (LINE, OTHER)


lines, seconds = st.sampled_from(LINES), st.sampled_from([0.0, 0.05, 0.2, 1.0, 3.0])
fates = st.sampled_from(["sent", "sent", "sent", "sent", "doubled", "lost"])
ends = st.sampled_from(["begun", "parked", "parked", "parked again", "elsewhere", "begun and parked", "under way"])
keeps = st.sampled_from([True, True, True, False])  # a memoized task begins as it enters
meanwhile = st.sampled_from(["", "", "", "sleep", "sleep", "cancel", "quarantine"])
mosts = st.sampled_from([100, 100, 2])
nth = st.integers(-4, 8)  # the newest are tried most often


class Machine(RuleBasedStateMachine):
    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.world = World(self.client)
        self.tasks: dict[str, Task] = {}
        self.queues = {line.name: Queue() for line in LINES}
        self.messages: list[Ticket] = []
        self.running: list[Ticket] = []
        self.numbers = itertools.count()
        self.strays = False

    @property
    def now(self) -> int:
        return self.world.now

    def at(self, state: str, line: Line | None = None) -> list[Task]:
        return [each for each in self.tasks.values() if each.state == state and (line is None or each.home == line)]

    def parked(self) -> list[Task]:
        return [each for each in self.tasks.values() if each.state]

    def waiting(self, line: Line) -> list[Task]:
        """In the order in which they will go."""
        return sorted(self.at("waiting", line), key=lambda each: (-each.priority, each.start, each.first.id))

    def pick(self, among: list[Any], number: int) -> Any:
        return among[number % len(among)] if among else None

    # Deliveries

    @initialize(
        several=st.lists(st.tuples(st.sampled_from([0, 0, 5]), st.sampled_from(["", "a"]), lines), max_size=8),
        back=st.booleans(),
    )
    def backlog(self, several: list[tuple[int, str, Line]], back: bool) -> None:
        for n, (priority, group, line) in enumerate(several):
            self.send(priority, group, 1.0, 300 if n % 2 else None)
            self.work(-1, line, "parked", dies=n % 3 == 2)
        if back:
            self.claim(LINE, 4, 0.0, False, "sent")

    @precondition(lambda self: len(self.tasks) < 12)
    @rule(
        priority=st.sampled_from([0, 0, 0, 5, 9]),
        group=st.sampled_from(["", "a", "b"]),
        weight=st.sampled_from([1.0, 1.0, 2.5]),
        lives=st.sampled_from([None, None, None, 5, 300]),
    )
    def send(self, priority: int, group: str, weight: float, lives: int | None) -> None:
        headers = {}
        if lives is not None:
            headers["expires"] = (datetime.fromtimestamp(self.now // S, UTC) + timedelta(seconds=lives)).isoformat()
        made = ticket(f"t{next(self.numbers)}", **headers)
        self.tasks[made.task_id] = Task(made, priority, group, weight, made.expires_us)
        self.messages.append(made)

    @precondition(lambda self: self.messages)
    @rule(number=nth, line=lines, end=ends, dies=st.booleans(), keep=keeps, then=meanwhile, most=mosts)
    def work(
        self, number: int, line: Line, end: str, dies: bool = False, keep: bool = True, then: str = "", most: int = 100
    ) -> None:
        """A worker gets a message. If it dies before it has acknowledged it, the message is delivered again."""
        message = self.pick(self.messages, number)
        if not dies:
            self.messages.remove(message)
        if self.enter(message, line, keep):
            self.happen(then, self.tasks[message.task_id])
            self.end(message, end, line, most=most)

    def happen(self, what: str, task: Task) -> None:
        """Between entering and the limiter's answer."""
        if what == "sleep":
            self.clock(ENTERED)
            self.look("sent")
            self.work_off(1)
        elif what and task.state:
            (self.cancel if what == "cancel" else self.quarantine)(self.parked().index(task))

    def work_off(self, most: int) -> None:
        for _ in range(min(most, len(self.messages))):
            self.work(-1, LINE, "begun")

    def enter(self, message: Ticket, line: Line, keep: bool) -> bool:
        if CANCELLED in message.headers:
            self.ended(message)  # its worker has read that before it would begin
            return False
        task, generation, publication = self.tasks[message.task_id], message.generation, message.publication
        late = self.look_at(line) < self.now - 0.1 * S
        entry = self.world.enter(message, line, keep=keep).entry
        if generation < task.newest or (generation == task.newest and task.entered not in {"", publication}):
            assert entry is Entry.DROP
            return False
        if generation == 0:
            there = bool(self.at("waiting", line) or self.queues[line.name].ghosts)
            allowed = {Entry.ASK} if there and late else {Entry.ASK, Entry.JOIN} if there else {Entry.GO_ON}
            assert entry in allowed
            return True
        forgotten = not task.state and generation == task.newest and not task.entered  # cancelled in quarantine
        task.revoked = task.revoked or forgotten or (task.state != "" and task.cancelled)
        assert entry is (Entry.CANCELLED if task.revoked else Entry.GO_ON)
        task.newest, task.entered = generation, publication
        if keep and task.state and not task.revoked:
            task.state, task.sent, task.again = "out", 0, self.now + round(ENTERED * S)
            self.queues[message.line].flights.pop(task.first.id, None)
            return True
        self.begun(task, message)
        return not task.revoked

    def begin(self, message: Ticket) -> bool:
        """The limiter lets it go on."""
        task = self.tasks[message.task_id]
        if message.generation == 0:
            return True
        mine = (task.newest, task.entered) == (message.generation, message.publication) and not task.cancelled
        assert self.world.begin(message) == mine
        if mine:
            self.begun(task, message)
        return mine

    def begun(self, task: Task, message: Ticket) -> None:
        generation, publication = message.generation, message.publication
        assert generation >= max(task.begun, default=0), "an older generation goes on"
        assert task.begun.setdefault(generation, publication) == publication, "two publications of one go on"
        self.forget(task, message.line)

    def look_at(self, line: Line) -> float:
        at: float = self.client.zscore(self.world.waitlist.due, line.name) or 0.0
        return at

    def forget(self, task: Task, line: str) -> None:
        if task.state == "waiting" and task.home is not None and task.home.name != line:
            self.queues[task.home.name].ghosts.add(task.first.id)
        task.state, task.cancelled, task.overdue = "", False, None
        self.queues[line].flights.pop(task.first.id, None)

    @precondition(lambda self: self.running)
    @rule(number=nth, line=lines, end=ends, wait=seconds, most=mosts)
    def end_one(self, number: int, line: Line, end: str, wait: float, most: int) -> None:
        """An execution that took long goes on."""
        self.end(self.running.pop(number % len(self.running)), end, line, wait, most)

    def end(self, message: Ticket, end: str, line: Line, wait: float = 0.0, most: int = 100) -> None:
        """What becomes of an execution that has entered: let go on, denied and parked, or both."""
        if end in {"under way", "parked again"}:
            self.running.append(message)
        if (end.startswith("begun") and not self.begin(message)) or end in {"begun", "under way"}:
            return
        if message.line and end != "elsewhere":
            line = LINE if message.line == LINE.name else OTHER
        self.park(message, line, wait, most)

    def park(self, message: Ticket, line: Line, wait: float, most: int) -> None:
        task, next_one = self.tasks[message.task_id], message.generation + 1
        full = not task.state and len(self.parked()) >= most
        place = {"priority": task.priority, "group": task.group, "weight": task.weight}
        answer = self.world.park(message, line=line, wait=wait, every=EVERY, most=most, **place)
        other = message.generation > 0 and task.entered not in {"", message.publication}
        if task.newest >= next_one or other:
            assert not answer.full
            return
        assert answer.full == full
        if full:
            return
        if task.home != line:
            task.start = self.next_start(task, line)
        queue = self.queues[line.name]
        queue.touched = max(self.now, queue.touched)
        task.newest, task.entered, task.home, task.state = next_one, "", line, "waiting"
        task.sent = 0
        task.overdue = 0 if task.cancelled else task.expires or None
        order = [each.first.id for each in self.waiting(line)]
        assert answer.ahead == order.index(task.first.id) + self.ghosts_before(line, task)

    def ghosts_before(self, line: Line, task: Task) -> int:
        ids = [each.decode() for each in self.client.zrange(self.world.waitlist.of_line(line.name)[1], 0, -1)]
        return sum(each in self.queues[line.name].ghosts for each in ids[: ids.index(task.first.id)])

    def next_start(self, task: Task, line: Line) -> float:
        """Start-time fair queueing: where the next turn of its group starts."""
        queue, place = self.queues[line.name], (task.priority, task.group)
        start = max(FRONT, queue.served.get(task.priority, 0), queue.tags.get(place, 0))
        queue.tags[place] = start + task.place.step
        return start

    # The pump

    def publish(self, task: Task, data: bytes, fate: str, *, cancelled: bool = False) -> None:
        found = Ticket.load(data)
        assert found == self.parked_as(task)
        message = found.published_as(f"p{next(self.numbers)}", cancelled=cancelled)
        self.messages += {"sent": [message], "doubled": [message, message], "lost": []}[fate]

    def parked_as(self, task: Task) -> Ticket:
        assert task.home is not None
        made = task.first
        for _ in range(task.newest):
            made = made.next(task.home.name)
        return made

    def sent(self, task: Task, lag: float) -> None:
        task.state, task.sent = "out", task.sent + 1
        task.again = self.now + round(min(max(10 * S, 2 * lag) * 2 ** (task.sent - 1), 3600 * S))

    def lag(self, line: Line) -> float:
        return float(self.client.hget(self.world.waitlist.of_line(line.name)[0], "lag") or 0)

    @rule(line=lines, room=st.integers(-1, 4), wait=seconds, paced=st.booleans(), fate=fates)
    def claim(self, line: Line, room: int, wait: float, paced: bool, fate: str) -> None:
        wait = 0.0 if room else wait
        queue, order, lag = self.queues[line.name], self.waiting(line), self.lag(line)
        flying = sum(at > self.now - 2 * S for at in queue.flights.values())
        claimed = self.world.claimed(line, 100, room, wait, paced=paced)
        assert [id_ for id_, _ in claimed.tickets] == [each.first.id for each in order[: len(claimed.tickets)]]
        beyond = len(claimed.tickets) - max(0, room - flying)
        silent = self.now - queue.touched > 60 * S
        if order and ((room > 0 and not queue.flights) or (room < 0 and paced and silent)):
            assert claimed.tickets, "somebody could go"
        queue.touched = max(self.now, queue.touched)
        if room >= 0 and not paced:
            assert beyond <= 0, "more than there was room for"
        if room == 0 and wait > 0.1:
            assert not claimed.tickets
        self.check_pace(queue, max(0, beyond))
        for task, (_, data) in zip(order, claimed.tickets, strict=False):
            queue.served[task.priority] = max(task.start, queue.served.get(task.priority, 0))
            queue.flights[task.first.id] = self.now
            self.sent(task, lag)
            self.publish(task, data, fate)
        ids = {each.decode() for each in self.client.zrange(self.world.waitlist.of_line(line.name)[1], 0, -1)}
        queue.ghosts &= ids
        assert (claimed.wait is None) == (not ids)

    def check_pace(self, queue: Queue, beyond: int) -> None:
        """Beyond the room they go at the rate, after a silence at most a second's worth of it at once."""
        queue.paced.append((max(self.now, *(at for at, _ in queue.paced), 0), beyond))
        total = 0
        for at, count in reversed(queue.paced):
            total += count
            assert total <= 1 + (queue.paced[-1][0] - at + S) / (EVERY * S)

    @rule(
        line=lines,
        room=st.integers(1, 4),
        paced=st.booleans(),
        fate=fates,
        works=st.lists(st.tuples(ends, st.booleans()), max_size=6),
    )
    def work_on(self, line: Line, room: int, paced: bool, fate: str, works: list[tuple[str, bool]]) -> None:
        """A pump and the workers go on for a while."""
        self.clock(0.3)
        self.claim(line, room, 0.0, paced, fate)
        for end, dies in works:
            if self.messages:
                self.work(-1, line, end, dies)

    @rule(fate=fates)
    def look(self, fate: str) -> None:
        """A pump looks, and publishes what is overdue."""
        known = self.client.hkeys(self.world.waitlist.lines)
        due = {line.name for line in LINES if line.name.encode() in known and self.look_at(line) <= self.now}
        overdue = {each.first.id for each in self.parked() if self.is_overdue(each)}
        found = self.world.look()
        assert {name for name, _ in found.lines} == due
        assert {id_ for id_, _ in found.overdue} == overdue
        assert (found.wait is None) <= (not self.at("waiting") and not self.at("out"))
        for id_, name in dict(found.overdue).items():
            self.take(next(each for each in self.parked() if each.first.id == id_), fate, line=name)

    def is_overdue(self, task: Task) -> bool:
        if task.state == "quarantine":
            return False
        ended = task.overdue is not None and task.overdue <= self.now
        return ended or (task.state == "out" and task.again <= self.now)

    @precondition(lambda self: self.parked())
    @rule(number=nth, whatever=st.booleans(), fate=fates)
    def take_one(self, number: int, whatever: bool, fate: str) -> None:
        self.take(self.pick(self.parked(), number), fate, whatever=whatever)

    def take(self, task: Task, fate: str, *, whatever: bool = False, line: str = "") -> None:
        assert task.home is not None
        assert line in {"", task.home.name}
        lag = self.lag(task.home)
        taken = self.world.take(task.first, task.home, whatever=whatever)
        if task.state == "quarantine" or not (whatever or self.is_overdue(task)):
            assert taken is None
            return
        assert taken is not None
        if task.overdue is not None and task.overdue <= self.now:
            task.overdue = None
        if task.sent >= PUBLICATIONS:
            assert taken.ticket == b""
            task.state, task.overdue = "quarantine", None
            return
        assert taken.cancelled == task.cancelled
        task.entered = ""
        self.sent(task, lag)
        self.publish(task, taken.ticket, fate, cancelled=taken.cancelled)

    # Trouble

    @precondition(lambda self: self.messages)
    @rule(number=nth)
    def lose(self, number: int) -> None:
        """A broker loses a message that came from the list; of the others it is said to."""
        message = self.pick([each for each in self.messages if each.generation], number)
        if message is not None:
            self.messages.remove(message)

    @precondition(lambda self: self.messages)
    @rule(number=nth)
    def ended_by_celery(self, number: int) -> None:
        """A message's task was revoked or has expired: it never enters."""
        message = self.pick([each for each in self.messages if each.generation], number)
        if message is not None:
            self.messages.remove(message)
            self.ended(message)

    def ended(self, message: Ticket) -> None:
        task = self.tasks[message.task_id]
        assert self.world.drop(message) == (task.state != "")
        if task.state:
            self.strays |= task.home is None or message.line != task.home.name
            task.entered = "ended"
            self.forget(task, message.line)

    @rule(number=nth)
    def cancel(self, number: int) -> None:
        task = self.pick(self.parked() or list(self.tasks.values()), number)
        if task is None:
            return
        assert self.world.cancel(task.first.task_id) == (task.state != "")
        if task.state == "quarantine":
            task.state = ""
        elif task.state and not task.cancelled:
            task.cancelled, task.sent, task.overdue = True, 0, 0

    @precondition(lambda self: self.parked())
    @rule(number=nth)
    def quarantine(self, number: int) -> None:
        task = self.pick(self.parked(), number)
        assert self.world.quarantine(task.first, "why", task.home) == (task.state != "quarantine")
        task.state, task.overdue = "quarantine", None
        self.queues[task.home.name].flights.pop(task.first.id, None)

    @rule(number=nth)
    def restore(self, number: int) -> None:
        task = self.pick(self.at("quarantine") or list(self.tasks.values()), number)
        if task is None:
            return
        assert self.world.restore(task.first) == (task.state == "quarantine")
        if task.state == "quarantine":
            task.state, task.sent, task.again = "out", 0, self.now

    @rule(number=nth, priority=st.sampled_from([0, 5, 9]))
    def move(self, number: int, priority: int) -> None:
        task = self.pick([each for each in self.tasks.values() if each.home is not None], number)
        if task is None:
            return
        there = [each.start for each in self.at("waiting", task.home) if each.priority == priority]
        there += [start for each, start in self.ghosts_of(task.home) if each == priority]
        assert self.world.move(task.first, priority, task.home) == (task.state == "waiting")
        if task.state == "waiting":
            front = min(there) if there else self.queues[task.home.name].served.get(priority, 0)
            task.priority, task.start = priority, max(0, front - 1)

    def ghosts_of(self, line: Line) -> list[tuple[int, float]]:
        """Their priorities and places."""
        scored = self.client.zrange(self.world.waitlist.of_line(line.name)[1], 0, -1, withscores=True)
        ghosts = self.queues[line.name].ghosts
        return [(9 - int(score) // BAND, int(score) % BAND) for id_, score in scored if id_.decode() in ghosts]

    @rule(seconds=st.sampled_from([0.03, 0.15, 0.15, 0.7, 2.5, 11.0, 45.0, 4000.0, -0.01, -0.4, -2.0]))
    def clock(self, seconds: float) -> None:
        """Time passes; or the server's clock is set back."""
        self.world.now = max(START, self.now + round(seconds * S))

    # What always holds

    @invariant()
    def every_ticket_is_where_it_belongs(self) -> None:
        waitlist = self.world.waitlist
        pipeline = self.client.pipeline(transaction=False)
        for key in (waitlist.tickets, waitlist.infos, waitlist.ids, waitlist.lines, waitlist.quarantined):
            pipeline.hgetall(key)
        for key in (waitlist.out, waitlist.due, *(waitlist.of_line(line.name)[1] for line in LINES)):
            pipeline.zrange(key, 0, -1, withscores=True)
        tickets, infos, ids, known, kept, out, due, *there = map(decoded, pipeline.execute())
        parked = {each.first.id: each for each in self.parked()}
        assert self.world.count() == len(parked)
        assert tickets.keys() == infos.keys() == parked.keys() == set(ids.values())
        assert kept.keys() == {each.first.id for each in self.at("quarantine")}
        assert out == {each.first.id: each.again for each in self.at("out")}
        for line, waiting in zip(LINES, there, strict=True):
            ghosts = self.queues[line.name].ghosts
            assert {id_: score for id_, score in waiting.items() if id_ not in ghosts} == {
                each.first.id: (9 - each.priority) * BAND + each.start for each in self.at("waiting", line)
            }
            if waiting:
                assert line.name in due, "nobody would ever look at it"
                assert line.name in known

    @invariant()
    def every_key_has_a_ttl(self) -> None:
        assert self.world.immortal() == []

    # The end: workers and pumps work on, and nothing is left

    def teardown(self) -> None:
        for _ in range(40):
            for task in self.at("quarantine"):
                self.world.restore(task.first)
                task.state, task.sent, task.again = "out", 0, self.now
            self.world.wait(4000.0)
            self.look("sent")
            for line in LINES:
                self.claim(line, 100, 0.0, True, "sent")
            self.work_off(len(self.messages))
            if not self.parked() and self.world.look().wait is None:
                break
        assert self.parked() == []
        assert self.world.look() == (None, [], [])
        left = {key.partition("}:")[2] for key in self.world.stored()}
        mine = {f"line:{line.name}:{kind}" for line in LINES for kind in ("lft" if self.strays else "lt")}
        assert {key for key in left if not key.startswith("record:")} <= mine
        assert {key for key in left if key.startswith("record:")} == {
            f"record:{each.first.id}" for each in self.tasks.values() if each.newest > 0
        }


@pytest.mark.timeless
def test_no_order_of_events_breaks_a_promise(fresh_server: Any) -> None:
    with world_on(fresh_server.url) as world:  # what another test left behind must write nothing here
        machine = type("Tried", (Machine,), {"client": world.client})
        steps = settings(
            max_examples=600 if HEAVY else 50,
            stateful_step_count=60,
            deadline=None,
            report_multiple_bugs=False,  # each takes minutes to shrink
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine, settings=steps)
