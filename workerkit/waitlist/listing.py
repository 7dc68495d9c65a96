"""What stands on the waitlist, for whoever looks: listings and where one task waits. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote, unquote

from workerkit.core.call import Call, as_is
from workerkit.core.flow import Flow
from workerkit.waitlist.line import HIGHEST, Line
from workerkit.waitlist.waitlist import Waitlist, line_of, texts

State = Literal["waiting", "returning", "quarantined"]
BITS = 48  # of a score; those above are the priority


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """One parked task. It is "waiting" for its turn, or "returning": published, and not begun yet; or "quarantined",
    for a `reason`.

    `key` is shown as a digest, unless its limiter was defined with `name_keys`. `parks`: how often it was parked;
    `since`: when first (seconds since 1970); `ahead`: how many wait before it, where it is waiting.
    """

    task_id: str
    task: str
    state: State
    limiter: str
    key: str
    priority: int
    parks: int
    since: float
    ahead: int | None = None
    bound_by: str = ""
    reason: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """Who waits for one key of a limiter: how many are `waiting` and `returning`, and what refused the last."""

    limiter: str
    key: str
    waiting: int
    returning: int
    bound_by: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task waits. `wait`: seconds until its turn, about (None where nobody can say)."""

    parked: ParkedTask
    wait: float | None

    def __str__(self) -> str:
        parked = self.parked
        if parked.state == "quarantined":
            return f"in quarantine: {parked.reason}; kit.waitlist.restore({parked.task_id!r}) publishes it again"
        if parked.state == "returning":
            return "its turn has come: it is on its way to a worker"
        place = f"{parked.limiter}/{parked.key}" if parked.key else parked.limiter or "a limit"
        why = f": {parked.bound_by}" if parked.bound_by else ""
        about = ""
        if self.wait is not None:
            about = f", about {datetime.fromtimestamp(datetime.now().timestamp() + self.wait):%H:%M:%S}"  # noqa: DTZ005, DTZ006 - for who looks at a clock here
        return f"waits on {place}{why}, {parked.ahead} ahead{about}"


def line_list(waitlist: Waitlist, limiter: str | None = None) -> Flow[list[tuple[str, Line]]]:
    """The lines in which somebody waits, by name."""
    found = yield from Call("waitlist.lines", "guard", _lines, args=("HGETALL", waitlist.lines))
    return sorted((name, line) for name, line in found if limiter is None or line.limiter == limiter)


def lengths(waitlist: Waitlist, name: str, line: Line) -> Flow[WaitingLine]:
    _, waiting, flights, _ = waitlist.of_line(name)
    counts = []
    for key in (waiting, flights):
        counts.append((yield from Call("waitlist.length", "guard", int, args=("ZCARD", key))))  # noqa: PERF401 - a flow
    return WaitingLine(line.limiter, line.label, counts[0], counts[1], line.bound_by)


def waiting(waitlist: Waitlist, limiter: str | None, first: int, most: int) -> Flow[list[ParkedTask]]:
    """Those who wait, line by line, in the order in which they will go."""
    found: list[ParkedTask] = []
    skip = first
    for name, line in (yield from line_list(waitlist, limiter)):
        key = waitlist.of_line(name)[1]
        length = yield from Call("waitlist.length", "guard", int, args=("ZCARD", key))
        if skip < length and len(found) < most:
            last = skip + most - len(found) - 1
            ids = yield from Call("waitlist.page", "guard", _names, args=("ZRANGE", key, skip, last))
            found += yield from _tasks(waitlist, "waiting", ids, line=line, ahead=skip)
        skip = max(0, skip - length)
    return found


def waiting_ids(waitlist: Waitlist, limiter: str | None) -> Flow[list[tuple[str, str]]]:
    """All who wait now, each with the name of its line."""
    found = []
    for name, _ in (yield from line_list(waitlist, limiter)):
        key = waitlist.of_line(name)[1]
        ids = yield from Call("waitlist.page", "guard", _names, args=("ZRANGE", key, 0, -1))
        found += [(id_, name) for id_ in ids]
    return found


def returning(waitlist: Waitlist, first: int, most: int) -> Flow[list[ParkedTask]]:
    """Those who were published and have not begun."""
    ids = yield from Call(
        "waitlist.page", "guard", _names, args=("ZRANGE", waitlist.out, first, first + most - 1)
    )  # fmt: skip
    return (yield from _tasks(waitlist, "returning", ids))


def quarantined(waitlist: Waitlist, first: int, most: int) -> Flow[list[ParkedTask]]:
    reasons = yield from waitlist.quarantine_reasons()
    ids = sorted(reasons)[first : first + most]
    return (yield from _tasks(waitlist, "quarantined", ids, reasons=reasons))


def find(waitlist: Waitlist, task_id: str) -> Flow[ParkedTask | None]:
    """The parked task of this id."""
    ids = yield from Call("waitlist.find", "guard", as_is, args=("HGET", waitlist.ids, quote(task_id, safe="")))
    if ids is None:
        return None
    id_ = ids.decode()
    reasons = yield from waitlist.quarantine_reasons()
    if id_ in reasons:
        tasks = yield from _tasks(waitlist, "quarantined", [id_], reasons=reasons)
        return tasks[0] if tasks else None
    fields = yield from _fields(waitlist, [id_])
    if not fields:
        return None
    name = fields[0][1][0]
    rank = yield from Call(
        "waitlist.rank", "guard", as_is, args=("ZRANK", waitlist.of_line(name)[1], id_)
    )  # fmt: skip
    if rank is None:
        tasks = yield from _tasks(waitlist, "returning", [id_])
        return tasks[0] if tasks else None
    line = dict((yield from line_list(waitlist))).get(name)
    return _task("waiting", id_, fields[0][1], line=line, ahead=rank)


def place(waitlist: Waitlist, id_: str) -> Flow[tuple[str, int] | None]:
    """The name of the line that a ticket is in, and the microseconds between two turns of its cost."""
    fields = yield from _fields(waitlist, [id_])
    return (fields[0][1][0], int(fields[0][1][5])) if fields else None


def _tasks(
    waitlist: Waitlist,
    state: State,
    ids: list[str],
    *,
    line: Line | None = None,
    ahead: int | None = None,
    reasons: dict[str, str] | None = None,
) -> Flow[list[ParkedTask]]:
    found = []
    for at, (id_, fields) in enumerate((yield from _fields(waitlist, ids))):
        position = None if ahead is None else ahead + at
        found.append(_task(state, id_, fields, line=line, ahead=position, reason=(reasons or {}).get(id_, "")))
    return found


def _fields(waitlist: Waitlist, ids: list[str]) -> Flow[list[tuple[str, list[str]]]]:
    if not ids:
        return []
    texts = yield from Call("waitlist.infos", "guard", as_is, args=("HMGET", waitlist.infos, *ids))
    return [(id_, text.decode().split(" ")) for id_, text in zip(ids, texts, strict=True) if text is not None]


def _task(
    state: State, id_: str, fields: list[str], *, line: Line | None = None, ahead: int | None = None, reason: str = ""
) -> ParkedTask:
    """`fields` are as state.lua writes them."""
    name, generation, since, _, score, _, _, _, _, task, task_id = fields
    limiter, _, part = name.partition(":")
    return ParkedTask(
        task_id=unquote(task_id),
        task=unquote(task),
        state=state,
        limiter=line.limiter if line is not None else limiter,
        key=line.label if line is not None else part,
        priority=HIGHEST - (int(score) >> BITS),
        parks=int(generation),
        since=int(since) / 1e6,
        ahead=ahead,
        bound_by=line.bound_by if line is not None else "",
        reason=reason,
        id=id_,
    )


def _names(reply: Any) -> list[str]:
    return [each.decode() for each in reply]


def _lines(reply: Any) -> list[tuple[str, Line]]:
    return [(name, line_of(name, text.encode())) for name, text in texts(reply).items()]
