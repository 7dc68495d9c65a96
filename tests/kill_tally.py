"""What became of throttled tasks whose processes were killed: counted from the notes of a witness that never was."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

SEEN = {"before-park", "parked", "dropped", "entered-first", "entered-back"}  # a delivery, in a child
SERVER = "server"
WAY_BACK = 20.0  # seconds: a message that goes back to its broker takes up to 15 to return
NOTED = 0.5  # seconds from the note of a kill to the death
OUTAGE = 3.0  # seconds before and after a server's kill in which what is called cannot be acknowledged for good


class Note(NamedTuple):
    """A line of the witness: at which second `who` came to `step` with `tasks`."""

    at: float
    step: str
    tasks: tuple[str, ...]
    who: str


class Kill(NamedTuple):
    """A SIGKILL: of whom, at which step, with which tasks in his hands."""

    at: float
    step: str
    victim: str
    tasks: tuple[str, ...]
    who: str

    @property
    def row(self) -> tuple[str, str]:
        return self.step, self.victim


def note_of(line: bytes) -> Note:
    at, step, tasks, who = line.decode().split(" ")
    return Note(int(at) / 1e6, step, () if tasks == "-" else tuple(tasks.split(",")), who)


@dataclass
class Row:
    """What the kills of one kind have done."""

    kills: int = 0
    parked_lost: int = 0
    first_lost: int = 0
    duplicates: int = 0
    seconds: list[float] = field(default_factory=list)


class Tally:
    """The counts of one run: `sent` are the task ids in the order they were sent."""

    def __init__(self, sent: list[str], lines: list[bytes]) -> None:
        notes = [note_of(line) for line in lines]
        self.sent = sent
        self.parked = {task for note in notes if note.step == "parked" for task in note.tasks}
        self.calls: dict[str, list[Note]] = defaultdict(list)
        self.by_account: dict[str, list[float]] = defaultdict(list)
        self.seen: dict[str, list[float]] = defaultdict(list)
        self.postponed: dict[str, list[float]] = defaultdict(list)
        self.backs: list[float] = []
        self.kills: list[Kill] = []
        for note in notes:
            self._read(note)
        lost = [task for task in sent if task not in self.calls]
        self.workers_killed = sum(kill.victim in {"main", "worker"} for kill in self.kills)
        self.parked_lost = [task for task in lost if task in self.parked]
        self.first_lost = [task for task in lost if task not in self.parked]
        self.rows: dict[tuple[str, str], Row] = defaultdict(Row)
        self.unexplained: list[str] = []
        self._blame()

    def _read(self, note: Note) -> None:
        if note.step.startswith("kill:"):
            _, step, victim = note.step.split(":")
            self.kills.append(Kill(note.at, step, victim, note.tasks, note.who))
        elif note.step.startswith("called-"):
            self.calls[note.tasks[0]].append(note)
            self.by_account[note.step].append(note.at)
        elif note.step == "postponed":
            self.postponed[note.tasks[0]].append(note.at)
        elif note.step == "back":
            self.backs.append(note.at)
        if note.step in SEEN or note.step.startswith("called-"):
            for task in note.tasks:
                self.seen[task].append(note.at)

    def most_in_any(self, seconds: float) -> int:
        """The most calls of one account in any so many seconds."""
        most = 0
        for times in self.by_account.values():
            times.sort()
            most = max(most, *(bisect_left(times, at + seconds) - n for n, at in enumerate(times)))
        return most

    @property
    def duplicates(self) -> int:
        return sum(len(calls) - 1 for calls in self.calls.values())

    def _blame(self) -> None:
        for kill in self.kills:
            row = self.rows[kill.row]
            row.kills += 1
            row.seconds += self._recovery(kill)
        for task in self.parked_lost:
            self.rows[self._loss_of(task)].parked_lost += 1
        for task in self.first_lost:
            self.rows[self._loss_of(task)].first_lost += 1
        for task, calls in self.calls.items():
            for first, second in pairwise(calls):
                kill = self._cause(task, first, second)
                if kill is None:
                    self.unexplained.append(task)
                else:
                    self.rows[kill.row].duplicates += 1

    def _recovery(self, kill: Kill) -> list[float]:
        """Seconds until whatever was in hand was in hand again; of a server's, from its return to the next call."""
        if kill.victim == SERVER:
            back = next((at for at in self.backs if at > kill.at), None)
            calls = [at for times in self.by_account.values() for at in times if back is not None and at > back]
            return [min(calls) - back] if back is not None and calls else []
        again = [next((at for at in self.seen[task] if at > kill.at), None) for task in kill.tasks]
        known = [at - kill.at for at in again if at is not None]
        return [max(known)] if known else []

    def _cause(self, task: str, first: Note, second: Note) -> Kill | None:
        """The first kill that can have brought the second call about: with the task in hand after its call, of the
        worker that had called, or of a server while the task was called, or before, if its message went back meanwhile.
        A kill before the call is no excuse: of whatever that left, one message may go on."""
        worker = first.who.partition(":")[0]
        back = any(at < second.at for at in self.postponed[task])

        def fits(kill: Kill) -> bool:
            if kill.at > second.at:
                return False
            if kill.victim == SERVER:
                return first.at - (WAY_BACK if back else OUTAGE) < kill.at < first.at + OUTAGE
            if kill.victim != "child" and kill.who.partition(":")[0] == worker:
                return kill.at > first.at - NOTED
            return task in kill.tasks and kill.at >= first.at

        fitting = [kill for kill in self.kills if fits(kill)]
        return next((kill for kill in fitting if kill.at > first.at - NOTED), fitting[-1] if fitting else None)

    def _loss_of(self, task: str) -> tuple[str, str]:
        """The last kill with the task in hand; for one that was never seen, the last before its successor was."""
        named = [kill for kill in self.kills if task in kill.tasks]
        if named:
            return named[-1].row
        after = self.sent[self.sent.index(task) + 1 :]
        at = next((self.seen[other][0] for other in after if self.seen.get(other)), float("inf"))
        before = [kill for kill in self.kills if kill.victim != "child" and kill.at <= at + 0.1]
        return before[-1].row if before else ("?", "?")

    def table(self, broker: str) -> str:
        """Every count by step and victim, and all together."""
        lines, total = [HEAD], Row()
        for (step, victim), row in sorted(self.rows.items(), key=lambda each: each[0][::-1]):
            lines.append(_line(broker, step, victim, row))
            for name in ("kills", "parked_lost", "first_lost", "duplicates", "seconds"):
                setattr(total, name, getattr(total, name) + getattr(row, name))
        return "\n".join([*lines, _line(broker, "all", "", total)])


HEAD = """\
broker    step           victim   kills  parked   first   dupli-   seconds to recover
                                           lost    lost    cates     median      most"""


def _line(broker: str, step: str, victim: str, row: Row) -> str:
    counts = f"{row.kills:6} {row.parked_lost:7} {row.first_lost:7} {row.duplicates:8}"
    times = f"{median(row.seconds):10.2f} {max(row.seconds):9.2f}" if row.seconds else ""
    return f"{broker:<9} {step:<14} {victim:<7} {counts} {times}".rstrip()
