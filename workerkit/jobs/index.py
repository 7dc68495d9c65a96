"""Which jobs there are: an index by owner, tag and root, beside the records, so that no listing ever scans.

A job's record is the truth, and in a slot of its own. The index is told afterwards, and whoever reads it compares and
repairs. In each of its zsets a job's score is its status, then when it was created: one ZADD moves it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple

from workerkit.core.call import Call, Word, as_is
from workerkit.core.flow import Batch, Flow
from workerkit.core.keys import Keys, escape
from workerkit.core.lua import Script
from workerkit.jobs.policy import Place, place
from workerkit.jobs.record import DEFAULT_BEAT_MS, MISSED, Record, Status, text, utf8

Known = Status | Literal["LOST"]
# By number. Under one fence a status only grows.
BANDS: tuple[Known, ...] = ("RUNNING", "RETRY", "SUCCESS", "FAILURE", "CANCELLED", "POISONED", "LOST")
NUMBERS = {status: number for number, status in enumerate(BANDS, 1)}

DAY_MS = 86_400_000  # how long a lost job is remembered
LOT = 20  # jobs whose time is over are looked after in lots of this size
MOST_LOOKS = 2000  # how many a page looks at in one script, when it must be somewhere else, too
TOP = 2**44 - 1  # the highest offset in a band
LAST_MS = 2**52

_PUT = Script("workerkit.jobs", "index")
_PAGE = Script("workerkit.jobs", "page")
_DROP = Script("workerkit.jobs", "unindex")
_HEAD = (
    *("status", "fence", "version", "attempt", "heartbeat", "created", "started", "ended", "expires", "task", "owner"),
    *("tags", "root", "error", "reason", "cached", "cancel", "beat", "done", "total", "message", "rate", "rated"),
)


class Labels(NamedTuple):
    """What a job is found by, and the name of its task."""

    task: str = ""
    owner: str | None = None
    tags: tuple[str, ...] = ()
    root_id: str | None = None


class Entry(NamedTuple):
    """How a job stands. `heard_ms`: when it was last heard of, None for now; `quiet_ms`: how long until it is stuck."""

    job_id: str
    fence: int
    status: Known
    created_ms: int
    labels: Labels
    heard_ms: int | None = None
    quiet_ms: int = 0
    expires_ms: int = LAST_MS  # no record lives longer


class Spot(NamedTuple):
    """Where a page's job is: ordered as pages are, backwards."""

    offset: int
    member: bytes
    band: int

    @property
    def job_id(self) -> str:
        return text(self.member)

    @property
    def unfinished(self) -> bool:
        """Whether the index takes it for one that has not ended."""
        return self.band <= NUMBERS["RETRY"]


class Spots(NamedTuple):
    """A page of ids at `now_us`; `after` is where to go on, None at the end."""

    now_us: int
    found: list[Spot]
    after: tuple[int, bytes] | None


class _Told(NamedTuple):
    """The index's answer to a write: other labels that it had, and jobs whose time is over, with what is known."""

    before: Labels | None
    finished: list[tuple[str, bytes]]
    unfinished: list[tuple[str, bytes]]


def entry_of(job_id: str, record: Record) -> Entry:
    """A job as its record says."""
    get = record.get
    labels = Labels(
        get("task", text) or "", get("owner", text), tuple(get("tags", json.loads) or ()), get("root", text)
    )
    return Entry(
        job_id,
        get("fence", int),
        get("status", text),
        get("created", int) // 1000,
        labels,
        get("heartbeat", int) // 1000,
        MISSED * (get("beat", int) or DEFAULT_BEAT_MS),
        get("expires", int) // 1000,
    )


def known_entry(job_id: str, known: bytes | None, status: Known) -> Entry:
    """A job as the index knows it."""
    fence, heard, created, labels = (known or b"0 0 0 []").split(b" ", 3)
    return Entry(job_id, int(fence), status, int(created), _labels(labels), int(heard))


def _labels(data: bytes) -> Labels:
    task, owner, tags, root = json.loads(data) or Labels()
    return Labels(task, owner, tuple(tags), root)


class Index:
    """The Calls and Flows on one kit's index; all of its keys are in one slot."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.all, self.infos, self.alive, self.expiring = map(self._key, ("all", "infos", "alive", "expiring"))

    def _key(self, name: str) -> str:
        return self._keys.key("jobs", "index", name)

    def owner(self, owner: str) -> str:
        return self._key(f"o.{escape(owner)}")

    def tag(self, tag: str) -> str:
        return self._key(f"t.{escape(tag)}")

    def root(self, root_id: str) -> str:
        return self._key(f"c.{escape(root_id)}")

    def _by(self, labels: Labels) -> list[str]:
        found = [self.tag(tag) for tag in labels.tags]
        if labels.owner is not None:
            found.append(self.owner(labels.owner))
        if labels.root_id is not None:
            found.append(self.root(labels.root_id))
        return found

    # Writing

    def put(self, entry: Entry, left_ms: int) -> Flow[None]:
        """Write how a job stands; its record lives `left_ms` unless it is written to. Looks after others in lots."""
        told = (yield from self._write([(entry, left_ms)]))[0]
        if told.finished:
            yield from Batch(*(self.drop(job_id, known) for job_id, known in told.finished))
        if told.unfinished:
            spots = [Spot(0, utf8(job_id), NUMBERS["RUNNING"]) for job_id, _ in told.unfinished]
            yield from self.repair(spots, (yield from self.heads(spots, 0)))

    def refresh(self, where: Place) -> Flow[None]:
        """Write what a job's record says."""
        yield from self._put_records([(where, (yield from self._head(where, 0)))])

    def _write(self, entries: Iterable[tuple[Entry, int]], source: str | None = None) -> Flow[list[_Told]]:
        """Write them, and take them out of the labels that they had before, and out of `source` where that is wrong."""
        entries = list(entries)
        told: list[_Told] = yield from Batch(*(self._put(entry, left_ms) for entry, left_ms in entries))
        left = [
            self._leave(key, entry.job_id)
            for (entry, _), answer in zip(entries, told, strict=True)
            for key in {*self._by(answer.before or entry.labels), source or self.all}
            if key not in (self.all, *self._by(entry.labels))
        ]
        yield from Batch(*left)
        return told

    def _put(self, entry: Entry, left_ms: int) -> Call[_Told]:
        args: tuple[Word, ...] = (
            *(utf8(entry.job_id), entry.fence, NUMBERS[entry.status], entry.created_ms, left_ms, entry.expires_ms),
            *("" if entry.heard_ms is None else entry.heard_ms, entry.quiet_ms, json.dumps(entry.labels), LOT),
        )
        keys = (self.all, self.infos, self.alive, self.expiring, *self._by(entry.labels))
        return Call("job.index", "guard", _told, script=_PUT, keys=keys, args=args)

    def drop(self, job_id: str, known: bytes | None, source: str | None = None) -> Call[bool]:
        """Take a job out, unless more than `known` is known of it by now."""
        labels = known_entry(job_id, known, "LOST").labels
        keys = dict.fromkeys((self.all, self.infos, self.alive, self.expiring, *self._by(labels), source or self.all))
        args = (utf8(job_id), known or b"")
        return Call("job.unindex", "guard", bool, script=_DROP, keys=tuple(keys), args=args)

    @staticmethod
    def _leave(key: str, job_id: str) -> Call[Any]:
        return Call("job.unlabel", "guard", as_is, args=("ZREM", key, utf8(job_id)))

    # Reading

    def page(
        self,
        sources: Iterable[str],
        bands: Collection[int],
        most: int,
        after: tuple[int, bytes] | None = None,
        *,
        until_now: bool = False,
    ) -> Call[Spots]:
        """At most `most` jobs of `bands` that are in each of `sources`, newest first; perhaps fewer than there are.

        `until_now`: offsets are moments to come, and those that have come are asked for.
        """
        offset, member = after or ("" if until_now else TOP, b"")
        # One more than asked for, to know whether it is the end.
        args = (most + 1, offset, member, MOST_LOOKS, *bands)
        return Call(
            "job.page", "guard", lambda reply: _spots(reply, bands, most), script=_PAGE, keys=(*sources,), args=args
        )

    def heads(self, spots: Iterable[Spot], now_us: int) -> Flow[list[Record | None]]:
        """The records of jobs, at `now_us`, without their fields; None where there is none."""
        found: list[Record | None] = yield from Batch(*(self.head(spot, now_us) for spot in spots))
        return found

    def head(self, spot: Spot, now_us: int) -> Call[Record | None]:
        """One of them."""
        return self._head(place(self._keys, spot.job_id), now_us)

    def size(self, status: Known) -> Call[int]:
        """How many jobs have this status, as far as the index was told."""
        low = NUMBERS[status] * (TOP + 1)
        return Call("job.size", "guard", int, args=("ZCOUNT", self.all, low, low + TOP))

    @staticmethod
    def _head(where: Place, now_us: int) -> Call[Record | None]:
        def parse(reply: list[bytes | None]) -> Record | None:
            if reply[0] is None:
                return None
            return Record.of_head(now_us, dict(zip(_HEAD, reply, strict=True)))

        return Call("job.head", "guard", parse, args=("HMGET", where.key, *_HEAD))

    def known(self, spots: Iterable[Spot]) -> Call[list[bytes | None]]:
        """What the index knows of jobs."""
        return Call("job.known", "guard", as_is, args=("HMGET", self.infos, *(spot.member for spot in spots)))

    # Repairing

    def repair(self, spots: list[Spot], records: list[Record | None], source: str | None = None) -> Flow[None]:
        """Write what the records of jobs say. Without one a job that had not ended is lost, and others are gone."""
        gone = [spot for spot, record in zip(spots, records, strict=True) if record is None]
        if gone:
            known = list(zip(gone, (yield from self.known(gone)), strict=True))
            lost = [(spot, each) for spot, each in known if each is not None and spot.unfinished]
            dead = [(spot, each) for spot, each in known if each is None or not spot.unfinished]
            yield from self._write([(known_entry(spot.job_id, each, "LOST"), DAY_MS) for spot, each in lost], source)
            yield from Batch(*(self.drop(spot.job_id, each, source) for spot, each in dead))
        found = [(place(self._keys, spot.job_id), record) for spot, record in zip(spots, records, strict=True)]
        yield from self._put_records(found, source)

    def _put_records(self, found: Iterable[tuple[Place, Record | None]], source: str | None = None) -> Flow[None]:
        there = [(where, record) for where, record in found if record is not None]
        left: list[int] = yield from Batch(
            *(Call("job.left", "guard", int, args=("PTTL", where.key)) for where, _ in there)
        )
        entries = [(entry_of(where.job_id, record), ms) for (where, record), ms in zip(there, left, strict=True)]
        yield from self._write([(entry, ms) for entry, ms in entries if ms > 0], source)


def _told(reply: Any) -> _Told:
    before, finished, unfinished = reply
    return _Told(_labels(before) if before else None, _pairs(finished), _pairs(unfinished))


def _pairs(flat: list[bytes]) -> list[tuple[str, bytes]]:
    return [(text(job_id), known) for job_id, known in zip(flat[::2], flat[1::2], strict=True)]


def _spots(reply: Any, bands: Iterable[int], most: int) -> Spots:
    """The bands as one page. Nothing is known of a band beyond where it stopped, so the page stops there, too."""
    now_us, *parts = reply
    found = [
        Spot(offset, member, band)
        for band, flat in zip(bands, parts[::2], strict=True)
        for member, offset in zip(flat[::2], flat[1::2], strict=True)
    ]
    stopped = max(((offset, member) for member, offset in filter(None, parts[1::2])), default=None)
    found = sorted((spot for spot in found if stopped is None or spot[:2] >= stopped), reverse=True)
    page = found[:most]
    return Spots(now_us, page, page[-1][:2] if len(found) > most else stopped)
