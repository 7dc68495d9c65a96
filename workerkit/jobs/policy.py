"""Job records as Calls: begin an attempt, write under its fence, read, cancel.

Every refusal is a value of the script's reply and becomes its own error here; a refused write has changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel

from workerkit.core.call import Call, Word
from workerkit.core.durations import Duration, seconds
from workerkit.core.flow import Flow
from workerkit.core.keys import Keys, escape
from workerkit.core.lua import Script
from workerkit.errors import (
    CodecError,
    DefinitionError,
    JobCancelled,
    JobConflict,
    JobError,
    JobFenced,
    JobFinished,
    JobMissing,
    JobPoisoned,
    OutcomeUnknown,
    StoreError,
)
from workerkit.jobs.record import FIELD, JobInfo, Record, Shape, Status, info, utf8

T = TypeVar("T")
S = TypeVar("S", bound=BaseModel)
MAX_ID = 1000
MAX_LABEL = 200  # characters of an owner or a tag
MAX_TAGS = 16

_BEGIN = Script("workerkit.jobs", "begin")
_WRITE = Script("workerkit.jobs", "write")
_READ = Script("workerkit.jobs", "read")
_CANCEL = Script("workerkit.jobs", "cancel")


class Terms(NamedTuple):
    """How long a record lives: after a write, in all, and after its end; the seconds between heartbeats; how many
    attempts it may cost, and whether it keeps tracebacks."""

    ttl_ms: int
    max_age_ms: int
    keep_ms: int
    heartbeat: float | None  # None: the kit's
    crashes: int = 0  # attempts that may be killed one after the other; 0: any number
    traceback: bool = False


class About(NamedTuple):
    """What a record says of its job."""

    task: str = ""
    owner: str | None = None
    tags: tuple[str, ...] = ()
    root_id: str | None = None


class Place(NamedTuple):
    """A record: its job's id, its key, and that of what happens to it."""

    job_id: str
    key: str
    events: str

    @property
    def keys(self) -> tuple[str, str]:
        return self.key, self.events


def terms(
    ttl: Duration,
    max_age: Duration,
    keep: Duration | None,
    heartbeat: Duration | None,
    crashes: int | None = None,
    *,
    traceback: bool = False,
) -> Terms:
    """Raises DefinitionError for a duration or a number that will not do."""
    life, most = seconds(ttl, what="job: ttl"), seconds(max_age, what="job: max_age")
    if life > most:
        raise DefinitionError(f"job: ttl ({life:g} s) is longer than max_age ({most:g} s); lower it, or raise that")
    kept = life if keep is None else seconds(keep, what="job: keep")
    beat = None if heartbeat is None else seconds(heartbeat, what="job: heartbeat")
    if crashes is not None and (type(crashes) is not int or crashes < 1):
        raise DefinitionError(
            f"job: max_crashes must be an int of 1 or more, or None for any number, not {crashes!r:.40}"
        )
    return Terms(_ms(life), _ms(most), _ms(kept), beat, crashes or 0, traceback)


def _ms(duration: float) -> int:
    return max(1, int(duration * 1000))  # PEXPIRE 0 would delete


def place(keys: Keys, job_id: str) -> Place:
    """Where the record of `job_id` is. Raises DefinitionError for an id that will not do."""
    if not isinstance(job_id, str) or not 0 < len(job_id) <= MAX_ID:
        raise DefinitionError(f"a job's id is text of 1 to {MAX_ID} characters, not {job_id!r:.60}")
    safe = escape(job_id)
    return Place(job_id, keys.key("job", safe, "r"), keys.key("job", safe, "e"))


def labels(owner: str | None, tags: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """Check an owner and tags. Raises DefinitionError, naming which will not do."""
    if isinstance(tags, str):
        raise DefinitionError(f"job: tags must be a list of texts: write tags=[{tags!r:.60}]")
    given = tuple(tags)
    for what, label in (("owner", owner), *(("tags", tag) for tag in given)):
        if label is not None and not (isinstance(label, str) and 0 < len(label) <= MAX_LABEL):
            raise DefinitionError(f"job: {what} must be text of 1 to {MAX_LABEL} characters, not {label!r:.60}")
    checked = tuple(dict.fromkeys(given))
    if len(checked) > MAX_TAGS:
        raise DefinitionError(f"job: {len(checked)} tags are more than {MAX_TAGS}")
    return owner, checked


def begin(
    where: Place, token: str, shape: Shape[Any], life: Terms, about: About, *, again: bool = False
) -> Call[Record]:
    """Begin an attempt: a new fence, and the record as it is to go on from. `again`: also a job that has failed.

    Idempotent by `token`. Raises JobFinished (its `status` says how), JobFenced when a newer attempt has begun since
    the first begin with this token, DefinitionError when the record is another model's.
    """
    return Call(
        "job.begin",
        "guard",
        lambda reply: _begun(where, shape, reply),
        script=_BEGIN,
        keys=where.keys,
        args=(token, life.ttl_ms, *_beginning(where, shape, life, about, again=again, status="RUNNING")),
    )


def close_cached(where: Place, token: str, shape: Shape[Any], life: Terms, about: About) -> Call[Record | None]:
    """End a job with SUCCESS in one write because its result was cached; None when it had ended already.

    An attempt that still runs elsewhere is fenced off. Raises DefinitionError when the record is another model's.
    """

    def parse(reply: Any) -> Record | None:
        return None if reply[0] == b"FINISHED" else _begun(where, shape, reply)

    return Call(
        "job.close_cached",
        "guard",
        parse,
        script=_BEGIN,
        keys=where.keys,
        args=(token, life.keep_ms, *_beginning(where, shape, life, about, again=True, status="SUCCESS")),
    )


def _beginning(
    where: Place, shape: Shape[Any], life: Terms, about: About, *, again: bool, status: Status
) -> tuple[Word, ...]:
    beat = None if life.heartbeat is None else str(_ms(life.heartbeat))
    said = {"id": where.job_id, "task": about.task, "owner": about.owner, "root": about.root_id, "beat": beat}
    known = {name: utf8(value) for name, value in said.items() if value is not None}
    if about.tags:
        known["tags"] = json.dumps(about.tags).encode()
    pairs = [*_flat(known), *_flat(shape.fresh(), FIELD)]
    return (life.max_age_ms, shape.name, int(again), status, life.crashes, len(known), *pairs)


def _flat(values: Mapping[str, Word], prefix: str = "") -> list[Word]:
    return [word for name, value in values.items() for word in (prefix + name, value)]


def _begun(where: Place, shape: Shape[Any], reply: Any) -> Record:
    verdict, *rest = reply
    if verdict == b"OK":
        return Record(*rest)
    if verdict == b"MODEL":
        _other_model(where, shape, rest[0].decode())
    if verdict == b"FINISHED":
        status = rest[0].decode()
        if status == "POISONED":
            raise JobPoisoned(
                f"job {where.job_id} was given up: too many of its attempts were killed without getting any further",
                job_id=where.job_id, status=status,
            )  # fmt: skip
        raise JobFinished(f"job {where.job_id} has ended ({status})", job_id=where.job_id, status=status)
    raise JobFenced(job_id=where.job_id)


def _other_model(where: Place, shape: Shape[Any], name: str) -> NoReturn:
    raise DefinitionError(f"job {where.job_id} is a record of the model {name}, not {shape.name}; use another id")


class Write(NamedTuple):
    """What one write changes. `counts` are (kind, amount) by field; `batch` numbers a batch of `each`, 0 is none;
    `version` is the one that the record must have."""

    sets: Mapping[str, Word] = {}
    counts: Mapping[str, tuple[str, int | float]] = {}
    status: Status | None = None
    batch: int = 0
    version: int | None = None


def write(where: Place, fence: int, ttl_ms: int, what: Write) -> Call[bool]:
    """One atomic write under a fence; whether the job was asked to cancel (the write was done all the same).

    Without anything to change it is a heartbeat. Raises JobFenced, JobFinished, JobMissing, JobConflict when the record
    has another version than is expected, and CodecError, naming the field, for a counter that passes what can be
    counted exactly; then nothing has changed.
    """
    counters = [word for name, (kind, amount) in what.counts.items() for word in (name, kind, repr(amount))]
    return Call(
        "job.write",
        "guard",
        lambda reply: _written(where, reply),
        script=_WRITE,
        keys=where.keys,
        args=(
            *(fence, ttl_ms, what.status or "", what.batch, "" if what.version is None else what.version),
            *(len(what.sets), *_flat(what.sets), *counters),
        ),
    )


def _written(where: Place, reply: Any) -> bool:
    if isinstance(reply, int):
        return reply == 1
    said = bytes(reply).decode()
    if said.startswith("COUNTER"):
        name = said.removeprefix("COUNTER").removeprefix(FIELD)
        raise CodecError(f"job {where.job_id}: {name} would pass what can be counted exactly, or is no number")
    raise _refusal(where, said)


_REFUSALS: dict[str, type[JobError]] = {
    "MISSING": JobMissing,
    "FENCED": JobFenced,
    "FINISHED": JobFinished,
    "VERSION": JobConflict,
}


def _refusal(where: Place, verdict: str) -> JobError:
    return _REFUSALS[verdict](job_id=where.job_id)


def check(where: Place, fence: int) -> Call[None]:
    """Whether the attempt may go on; nothing is written. Raises JobMissing, JobFenced, JobFinished or JobCancelled."""

    def parse(reply: Any) -> None:
        current, ended, cancel = reply
        if current is None:
            raise _refusal(where, "MISSING")
        if int(current) != fence:
            raise _refusal(where, "FENCED")
        if ended is not None:
            raise _refusal(where, "FINISHED")
        if cancel is not None:
            raise JobCancelled(job_id=where.job_id)

    return Call("job.check", "guard", parse, args=("HMGET", where.key, "fence", "ended", "cancel"))


def read(where: Place, shape: Shape[S], parse: Callable[[str, Shape[S], Record], T]) -> Call[T | None]:
    """The record as `parse` makes it; None when there is none. Raises DefinitionError when it is another model's."""

    def parsed(reply: Any) -> T | None:
        if reply is None:
            return None
        record = Record(*reply)
        if record.model != shape.name:
            _other_model(where, shape, record.model)
        return parse(where.job_id, shape, record)

    return Call("job.read", "guard", parsed, script=_READ, keys=(where.key,))


def look(where: Place) -> Call[JobInfo | None]:
    """The record without its data, whatever its model; None when there is none."""

    def parsed(reply: Any) -> JobInfo | None:
        return None if reply is None else info(where.job_id, Record(*reply))

    return Call("job.read", "guard", parsed, script=_READ, keys=(where.key,))


def cancel(where: Place) -> Call[bool]:
    """Ask a job to stop; False when there is none, or it has ended."""
    return Call("job.cancel", "guard", bool, script=_CANCEL, keys=where.keys)


def settled(call: Call[T]) -> Flow[T]:
    """A Call that does nothing the second time (a begin, a batch, an end), sent again once if no answer came."""
    try:
        return (yield from call)
    except OutcomeUnknown as unknown:
        try:
            return (yield from call)
        except StoreError:
            raise unknown from None  # whatever stopped the second, the first may have been executed
