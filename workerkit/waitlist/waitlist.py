"""The waitlist, as Calls: parking tasks, claiming those whose turn has come, and admitting each delivery once.

All of it is in one slot: a task's record, its ticket and its place in a line change together or not at all.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple
from urllib.parse import quote

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.waitlist.line import HIGHEST, Line, Place
from workerkit.waitlist.ticket import Ticket

DAY_MS = 86_400_000
RECORD_MS = 2 * DAY_MS  # beyond twice any visibility timeout
LATE_US = 100_000  # a publication that nobody has entered by for so long lies in a queue
RECHECK_US = 5_000_000  # a limit may be raised, reset or no longer be paused
HOLD_US = 100_000  # how long a pump has a line to itself
PUBLICATIONS = 10  # over about three hours


def _scripts(*names: str) -> tuple[Script, ...]:
    return tuple(Script("workerkit.waitlist", name) for name in names)


_ENTER, _PARK, _LOOK, _CLAIM, _TAKE = _scripts("enter", "park", "look", "claim", "take")
_MARK, _DROP, _QUARANTINE, _RESTORE, _MOVE, _BEGIN = _scripts("mark", "drop", "quarantine", "restore", "move", "begin")


class Entry(IntEnum):
    """What a delivery may do."""

    DROP = 0
    GO_ON = 1
    JOIN = 2
    CANCELLED = 3
    ASK = 4  # go on, but do not wait in place: others do so in the line


class Entered(NamedTuple):
    """What a delivery may do; for those who join a line, the seconds until its turn."""

    entry: Entry
    wait: float


class Parked(NamedTuple):
    """Seconds until its turn, about, and how many are ahead. `full`: it was not parked."""

    wait: float
    ahead: int

    @property
    def full(self) -> bool:
        return self.wait < 0


class Look(NamedTuple):
    """Seconds until there is more to do (None: nothing is parked); the lines to look at; ids that are overdue, each
    with the name of its line."""

    wait: float | None
    lines: list[tuple[str, Line]]
    overdue: list[tuple[str, str]]


class Taken(NamedTuple):
    """A ticket to be published; without `ticket` it went to quarantine instead."""

    ticket: bytes
    cancelled: bool


class Claimed(NamedTuple):
    """Tickets to be published, by id; seconds until the line is to be looked at again (None: it is empty), and how far
    `ahead` of then its room should be counted."""

    tickets: list[tuple[str, bytes]]
    wait: float | None
    ahead: float = 0.0


class Waitlist:
    """Makes the Calls of one kit's waitlist. A line is given by its name."""

    def __init__(self, keys: Keys) -> None:
        self._make = keys.key
        names = ("tickets", "infos", "ids", "due", "lines", "out", "expiring", "quarantine")
        self._keys = tuple(self._key(name) for name in names)
        self.tickets, self.infos, self.ids, self.due, self.lines, self.out, _, self.quarantined = self._keys

    # A task

    def enter(self, ticket: Ticket, line: str, *, keep: bool = False) -> Call[Entered]:
        """What this delivery may do; it takes its ticket off the list, or has `begin` do so (`keep`). Idempotent by
        publication.

        `line` is for those who come for the first time; the others know theirs.
        """
        name = ticket.line or line
        args = (ticket.id, ticket.generation, ticket.publication, RECORD_MS, name, LATE_US, int(keep))
        return self._call("enter", _entered, _ENTER, *args, line=name, of=ticket.id)

    def park(self, ticket: Ticket, line: Line, place: Place, *, wait: float, most: int) -> Call[Parked]:
        """Park the next generation of `ticket`, unless `most` are parked already. Idempotent by generation.

        `wait`: seconds until the limiter has room, as far as it knows.
        """
        parked = ticket.next(line.name)
        return self._call(
            "park", _parked, _PARK,
            ticket.id, parked.generation, parked.dump(), max(0, int(wait * 1e6)), place.every_us,
            HIGHEST - place.priority, place.group, place.step, ticket.expires_us, most,
            line.name, line.dump(), quote(ticket.task, safe=""), quote(ticket.task_id, safe=""), RECHECK_US,
            ticket.publication,
            line=line.name, of=ticket.id,
        )  # fmt: skip

    def begin(self, ticket: Ticket) -> Call[bool]:
        """Take the ticket of a delivery that is let go on off the list; False when another one may go on in its place.
        Idempotent."""
        args = (ticket.id, ticket.generation, ticket.publication)
        return self._call("begin", bool, _BEGIN, *args, line=ticket.line, of=ticket.id)

    def drop(self, ticket: Ticket) -> Call[bool]:
        """Forget a ticket whose task was ended without entering."""
        return self._call("drop", bool, _DROP, ticket.id, line=ticket.line, of=ticket.id)

    # The pump

    def look(self, most: int) -> Call[Look]:
        return self._call("look", _look, _LOOK, most, HOLD_US)

    def claim(
        self, line: str, most: int, room: int = -1, wait: float = 0.0, *, paced: bool = True, ahead: float = 0.0
    ) -> Call[Claimed]:
        """Tickets of `line` to be published. `room`: for how many its limiter has room, `ahead` seconds from now (-1:
        nobody here knows), or in how many seconds it will (`wait`); `paced` says that it has a rate."""
        args = (line, room, max(0, int(wait * 1e6)), int(paced), most, RECHECK_US, int(ahead * 1e6))
        return self._call("claim", _claimed, _CLAIM, *args, line=line)

    def take(self, id_: str, line: str, *, whatever: bool = False) -> Call[Taken | None]:
        """One ticket out of its turn; None when there is nothing to take. `whatever` takes it even if it is not
        overdue."""
        return self._call("take", _taken, _TAKE, id_, PUBLICATIONS, int(whatever), line=line, of=id_)

    def quarantine(self, id_: str, line: str, why: str) -> Call[bool]:
        """Keep a ticket that cannot be published, and publish it no more; whether that is news."""
        return self._call("quarantine", bool, _QUARANTINE, id_, why, line=line, of=id_)

    # Whoever runs it

    def cancel(self, *task_ids: str) -> Call[int]:
        """Have parked tasks revoked; how many of them were parked."""
        return self._call("cancel", int, _MARK, *(quote(each, safe="") for each in task_ids))

    def restore(self, *ids: str) -> Call[int]:
        return self._call("restore", int, _RESTORE, *ids)

    def move(self, id_: str, line: str, priority: int) -> Call[bool]:
        return self._call("move", bool, _MOVE, id_, HIGHEST - priority, line=line, of=id_)

    def quarantine_reasons(self) -> Call[dict[str, str]]:
        """Why each quarantined ticket is there, by id."""
        return Call("waitlist.quarantined", "guard", texts, args=("HGETALL", self.quarantined))

    def count(self) -> Call[int]:
        """How many tasks are parked, those on their way back included."""
        return Call("waitlist.count", "guard", int, args=("HLEN", self.tickets))

    def of_line(self, line: str) -> tuple[str, ...]:
        """The keys of one line: what is known of it, who waits, who is on the way, and the shares of its groups."""
        return tuple(self._key(f"line:{line}:{suffix}") for suffix in ("l", "w", "f", "t"))

    def _call(
        self, name: str, parse: Any, script: Script, *args: Word, line: str | None = None, of: str = ""
    ) -> Call[Any]:
        keys = self._keys if line is None else (*self._keys, *self.of_line(line), self._key(f"record:{of}"))
        return Call(f"waitlist.{name}", "guard", parse, script=script, keys=keys, args=args)

    def _key(self, suffix: str) -> str:
        return self._make("waitlist", "all", suffix)


def _entered(reply: Any) -> Entered:
    return Entered(Entry(reply[0]), reply[1] / 1e6)


def _parked(reply: Any) -> Parked:
    return Parked(int(reply[0]) / 1e6, reply[1])


def _pairs(reply: Any) -> list[tuple[str, bytes]]:
    return [(reply[i].decode(), reply[i + 1]) for i in range(0, len(reply), 2)]


def _claimed(reply: Any) -> Claimed:
    wait = int(reply[0])
    return Claimed(_pairs(reply[2:]), None if wait < 0 else wait / 1e6, int(reply[1]) / 1e6)


def _look(reply: Any) -> Look:
    wait = int(reply[0])
    lines = [(name, line_of(name, data)) for name, data in _pairs(reply[1])]
    overdue = [(id_, line.decode()) for id_, line in _pairs(reply[2])]
    return Look(None if wait < 0 else wait / 1e6, lines, overdue)


def texts(reply: Any) -> dict[str, str]:
    """RESP3 answers a map."""
    pairs = reply.items() if isinstance(reply, dict) else [(reply[i], reply[i + 1]) for i in range(0, len(reply), 2)]
    return {name.decode(): text.decode("utf-8", "replace") for name, text in pairs}


def line_of(name: str, data: bytes) -> Line:
    """What is known of the line of this name."""
    try:
        return Line.load(data)
    except (ValueError, TypeError, KeyError):
        return Line("", "", name)  # of another version: its tickets go at the pace that the line knows


def _taken(reply: Any) -> Taken | None:
    return None if reply is None else Taken(reply[0], bool(reply[1]))
