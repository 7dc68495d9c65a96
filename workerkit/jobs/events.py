"""What happens to a job, as it happens: a watcher reads the stream of its events, page by page.

An event says only what it changed. Each page comes with the record's state of the same moment, so that the state after
each event can be told exactly.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Any, Literal, NamedTuple, cast

from workerkit.core.call import Call
from workerkit.core.durations import Duration, seconds
from workerkit.core.flow import Flow, Sleep
from workerkit.core.lua import Script
from workerkit.errors import DefinitionError, JobMissing
from workerkit.jobs.policy import Place
from workerkit.jobs.record import TERMINAL, Failure, Progress, Record, Status, info, text

Kind = Literal["now", "began", "progress", "changed", "again", "cancelling", "ended"]
Id = tuple[int, int]
State = dict[bytes, bytes | None]  # None: taken away

_WATCH = Script("workerkit.jobs", "watch")
_HEAD = (b"version", b"status", b"attempt", b"done", b"total", b"message", b"error", b"reason", b"rate", b"rated")
_RATE = (b"rate", b"rated")  # what no event tells
_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")  # Redis refuses what passes 64 bits


class JobUpdate(NamedTuple):
    """Something has happened to a job, and how it stood then.

    Given as `after=`, `id` goes on behind this update (it can be the id of a server-sent event). `at`: seconds since
    1970, by the server's clock. `kind`: "now" (nothing new: the job as it was found), "began" (an attempt), "progress",
    "changed" (its data, or its cursor), "again" (the attempt is to be repeated), "cancelling" (it was asked to stop),
    "ended". `fields` names the data fields that changed. `progress` has the newest rate known.
    """

    id: str
    at: float
    kind: Kind
    status: Status
    progress: Progress
    attempt: int
    fields: tuple[str, ...]
    error: Failure | None


class Event(NamedTuple):
    """An entry of the stream."""

    id: Id
    kind: Kind
    told: State
    fields: tuple[str, ...]


class Page(NamedTuple):
    """What one reading found: how many events are kept, the first and the last of them, and those asked for."""

    now_us: int
    kept: int
    first: Id
    last: Id
    head: State
    events: list[Event]

    @property
    def version(self) -> int:
        """How many events there have been: each moves the record's version by one."""
        return int(self.head[b"version"] or 0)

    @property
    def whole(self) -> bool:
        """Whether all events since the record was made are kept."""
        return self.kept >= self.version

    def anew(self, seen: Id) -> bool:
        """Whether all that ever happened came after `seen`, which may be of a record that has expired since."""
        return self.whole and seen < self.first

    def lacks(self, seen: Id, known: Page | None) -> bool:
        """Whether some of what came after `seen`, the end of the page `known`, is gone."""
        if self.anew(seen):
            return False
        if known is not None:
            return self.version - known.version != len(self.events)
        return not (0, 0) < self.first <= seen <= self.last

    def before(self) -> State:
        """The state before the first event, if all that are kept were asked for.

        Of a stream that was trimmed it lacks what only trimmed events told and later ones have changed.
        """
        if self.whole:
            return {}
        told = {name for event in self.events for name in event.told}
        attempt = next((int(event.told[b"attempt"] or 0) for event in self.events if b"attempt" in event.told), 0)
        # A job that does not run is begun, cancelled or ended next: what else comes first happened to one that ran.
        state: State = {b"status": b"RUNNING", b"attempt": b"%d" % (attempt - 1)}
        return state | {name: value for name, value in self.head.items() if name not in told}


class Watcher:
    """One who watches the job at `where`: `more` fills `ready`, until `over`."""

    def __init__(self, where: Place, after: str, poll: Duration, wait: Duration, timeout: Duration | None) -> None:
        self.ready: deque[JobUpdate] = deque()
        self.over = False
        self._where = where
        self._seen = _parsed(after)
        self._page: Page | None = None  # the last one: it ends at `_seen`
        self._poll = seconds(poll, what="watch: poll")
        lasting = float("inf") if timeout is None else seconds(timeout, what="watch: timeout", zero_ok=True)
        now = monotonic()
        self._due, self._until = 0.0, now + lasting
        self._begun_by = now + seconds(wait, what="watch: wait", zero_ok=True)

    def more(self) -> Flow[None]:
        """Read until there is an update, or there will be none. Raises JobMissing when no record came in time."""
        while not (self.ready or self.over):
            pause = min(self._due, self._until) - monotonic()
            if pause > 0:
                yield from Sleep(pause)
            now = monotonic()
            last, self._due = now >= self._until, now + self._poll
            page = yield from _reading(self._where, self._from)
            if page is not None:
                self._take(page)
            elif self._page is None:
                if last or now >= self._begun_by:
                    raise JobMissing(job_id=self._where.job_id)
                continue
            self.over = self.over or last or page is None

    @property
    def _from(self) -> str:
        if self._seen is None:
            return ""
        return "-" if self._page is None else f"({_text(self._seen)}"

    def _take(self, page: Page) -> None:
        seen, now = self._seen, _update(page.last, page.now_us, "now", page.head)
        found = [now] if seen is None or page.lacks(seen, self._page) else list(self._since(seen, page))
        self.over = now.status in TERMINAL or any(update.kind == "ended" for update in found)
        self._seen, self._page = page.last, page
        self.ready.extend(found)

    def _since(self, seen: Id, page: Page) -> Iterator[JobUpdate]:
        """What is told of a page, to the end of the job: it may have been begun again, for others to watch."""
        state = page.before() if self._page is None or page.anew(seen) else self._page.head
        state = state | {name: page.head[name] for name in _RATE}
        for event in page.events:
            state |= event.told
            if event.id > seen:
                yield _update(event.id, event.id[0] * 1000, event.kind, state, event.fields)
                if event.kind == "ended":
                    return


def _parsed(after: str) -> Id | None:
    if after == "":
        return None
    match = _ID.fullmatch(after) if isinstance(after, str) else None
    if match is None:
        raise DefinitionError(
            f'watch: after={after!r:.60} is not the id of an update; write after=update.id, or "" for the job as it is'
        )
    return int(match[1]), int(match[2])


def _reading(where: Place, start: str) -> Call[Page | None]:
    return Call("job.watch", "guard", _page, script=_WATCH, keys=where.keys, args=(start, *_HEAD))


def _page(reply: Any) -> Page | None:
    if reply is None:
        return None
    now_us, kept, first, last, values, entries = reply
    head = dict(zip(_HEAD, values, strict=True))
    events = [_event(_id(name), dict(zip(words[::2], words[1::2], strict=True))) for name, words in entries]
    return Page(now_us, kept, _id(first), _id(last), head, events)


def _event(at: Id, said: dict[bytes, bytes]) -> Event:
    kind, fields = cast(Kind, text(said.pop(b"kind"))), text(said.pop(b"fields", b""))
    told: State = {**said}
    if said.get(b"status") == b"SUCCESS":  # the record forgets what went wrong before
        told |= {b"error": None, b"reason": None}
    return Event(at, kind, told, tuple(fields.split(",")) if fields else ())


def _update(at: Id, now_us: int, kind: Kind, state: State, fields: tuple[str, ...] = ()) -> JobUpdate:
    known = [word for name, value in state.items() if value is not None for word in (name, value)]
    job = info("", Record(now_us, known))
    return JobUpdate(_text(at), now_us / 1e6, kind, job.status, job.progress, job.attempt, fields, job.error)


def _id(said: bytes) -> Id:
    ms, number = said.split(b"-")
    return int(ms), int(number)


def _text(at: Id) -> str:
    return f"{at[0]}-{at[1]}"
