"""A waitlist on a real server whose clock the test sets, and what a model knows of its tasks and lines."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from workerkit.core.call import Call
from workerkit.core.flow import Batch
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.waitlist.line import Line, Place
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Claimed, Entered, Look, Parked, Taken, Waitlist

S = 1_000_000
START = 1_700_000_000 * S
IMMORTAL = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = redis.call('PTTL', key) < 0 and key or nil
end
return found"""
CLOCK = "local now_us = tonumber(ARGV[1])\n"  # where a deadline would be
LINE = Line("api", "k", "k", (1,), "10/s")
OTHER = Line("api", "other", "other", (1,), "10/s")


@functools.cache
def clocked(script: Script) -> Script:
    """The same script, told the time in place of its deadline."""
    return Script(script.package, script.name, replace={"not_after": CLOCK, "now": CLOCK})


def ticket(name: str = "id", **headers: Any) -> Ticket:
    return Ticket(
        task="t",
        body=b"[]",
        content_type="application/json",
        content_encoding="utf-8",
        headers={"id": name, "retries": 0, **headers},
        properties={},
        exchange="",
        routing_key="celery",
    )


def names(tickets: list[Ticket]) -> list[str]:
    return [each.task_id for each in tickets]


def decoded(reply: Any) -> dict[str, Any]:
    pairs = reply.items() if isinstance(reply, dict) else reply
    return {name.decode(): value.decode() if isinstance(value, bytes) else value for name, value in pairs}


@contextmanager
def world_on(url: str) -> Iterator[World]:
    with redis.Redis.from_url(url) as client:
        yield World(client)


class World:
    """The waitlist; `now` is what its server's clock says, in us."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.now = START
        self.waitlist = Waitlist(Keys("t", "w"))

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * S)

    def call(self, call: Call[Any]) -> Any:
        if call.script is None:
            return call.parse(self.client.execute_command(*call.args))
        script = clocked(call.script)
        words = (len(call.keys), *call.keys, self.now, *call.args)
        if script not in self._loaded:
            self.client.script_load(script.source)
            self._loaded.add(script)
        return call.parse(self.client.execute_command("EVALSHA", script.sha, *words))

    @functools.cached_property
    def _loaded(self) -> set[Script]:
        return set()

    def run(self, flow: Generator[Any, Any, Any]) -> Any:
        """A Flow of Calls."""
        try:
            step = next(flow)
            while True:
                answer = [self.call(each) for each in step.calls] if isinstance(step, Batch) else self.call(step)
                step = flow.send(answer)
        except StopIteration as done:
            return done.value

    # The Calls

    def enter(self, ticket: Ticket, line: Line = LINE, *, keep: bool = False) -> Entered:
        return self.call(self.waitlist.enter(ticket, line.name, keep=keep))

    def begin(self, ticket: Ticket) -> bool:
        return self.call(self.waitlist.begin(ticket))

    def park(
        self,
        ticket: Ticket,
        *,
        line: Line = LINE,
        wait: float = 1.0,
        every: float = 0.1,
        most: int = 100_000,
        **place: Any,
    ) -> Parked:
        where = Place(every_us=round(every * S), **place)
        return self.call(self.waitlist.park(ticket, line, where, wait=wait, most=most))

    def look(self, most: int = 100) -> Look:
        return self.call(self.waitlist.look(most))

    def claim(
        self,
        line: Line = LINE,
        *,
        most: int = 100,
        room: int = -1,
        wait: float = 0.0,
        paced: bool = True,
        ahead: float = 0.0,
    ) -> list[Ticket]:
        found = self.claimed(line, most, room, wait, paced=paced, ahead=ahead)
        return [Ticket.load(data) for _, data in found.tickets]

    def claimed(
        self, line: Line, most: int, room: int, wait: float, *, paced: bool = True, ahead: float = 0.0
    ) -> Claimed:
        return self.call(self.waitlist.claim(line.name, most, room, wait, paced=paced, ahead=ahead))

    def take(self, ticket: Ticket, line: Line = LINE, *, whatever: bool = False) -> Taken | None:
        return self.call(self.waitlist.take(ticket.id, line.name, whatever=whatever))

    def quarantine(self, ticket: Ticket, why: str = "why", line: Line = LINE) -> bool:
        return self.call(self.waitlist.quarantine(ticket.id, line.name, why))

    def drop(self, ticket: Ticket) -> bool:
        return self.call(self.waitlist.drop(ticket))

    def cancel(self, *task_ids: str) -> int:
        return self.call(self.waitlist.cancel(*task_ids))

    def restore(self, *tickets: Ticket) -> int:
        return self.call(self.waitlist.restore(*(each.id for each in tickets)))

    def move(self, ticket: Ticket, priority: int, line: Line = LINE) -> bool:
        return self.call(self.waitlist.move(ticket.id, line.name, priority))

    def count(self) -> int:
        return self.call(self.waitlist.count())

    def reasons(self) -> dict[str, str]:
        return self.call(self.waitlist.quarantine_reasons())

    # What is there

    def stored(self) -> list[str]:
        return sorted(key.decode() for key in self.client.keys("*"))

    def dump(self) -> dict[str, Any]:
        """Every byte and every expiry."""
        return {key: (self.client.dump(key), self.client.pexpiretime(key)) for key in self.stored()}

    def immortal(self) -> list[str]:
        """Keys without a TTL."""
        return sorted(key.decode() for key in self.client.eval(IMMORTAL, 0))

    def due_in(self, ticket: Ticket) -> float | None:
        """Seconds until a published ticket is published again."""
        at = self.client.zscore(self.waitlist.out, ticket.id)
        return None if at is None else (at - self.now) / S


@dataclass
class Task:
    """One execution as a model knows it. `newest` and `entered` are its record; `state` says where its ticket is."""

    first: Ticket
    priority: int
    group: str
    weight: float
    expires: int  # us
    newest: int = -1
    entered: str = ""
    revoked: bool = False  # by its record
    home: Line | None = None
    start: float = 0.0  # its place there
    state: str = ""  # "", "waiting", "out", "quarantine"
    sent: int = 0
    again: int = 0  # us
    overdue: int | None = None  # us; when it is to be published whatever its line says
    cancelled: bool = False
    begun: dict[int, str] = field(default_factory=dict)  # generation -> publication

    @property
    def place(self) -> Place:
        return Place(self.priority, self.group, self.weight)


@dataclass
class Queue:
    """One line: what was served last and what each group's next turn starts with, by priority; who was let go when."""

    served: dict[int, float] = field(default_factory=dict)
    tags: dict[tuple[int, str], float] = field(default_factory=dict)
    flights: dict[str, int] = field(default_factory=dict)
    ghosts: set[str] = field(default_factory=set)  # forgotten by who thought that they wait elsewhere
    paced: list[tuple[int, int]] = field(default_factory=list)  # when how many were let go by the pace alone
    touched: int = 0  # when somebody was parked or let go
