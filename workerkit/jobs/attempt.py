"""One attempt of a job as its process sees it: what it knows of the record, and each of its verbs as a Flow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from workerkit.core.call import Call, Word
from workerkit.core.durations import Duration, seconds
from workerkit.core.flow import Flow
from workerkit.errors import (
    CodecError,
    DefinitionError,
    JobCancelled,
    JobConflict,
    JobError,
    JobMissing,
    StoreError,
)
from workerkit.jobs import policy
from workerkit.jobs.index import Entry, entry_of
from workerkit.jobs.policy import Place, Terms, Write, settled
from workerkit.jobs.record import (
    FIELD,
    MAX_COUNT,
    TERMINAL,
    Number,
    Record,
    Shape,
    Status,
    clipped,
    dump_cursor,
    text,
    trace,
    utf8,
)

S = TypeVar("S", bound=BaseModel)
Change = Callable[[S], Mapping[str, object]]
TRIES = 20  # of a modification that others interfere with
Listed = Callable[[Entry, int], Flow[None]]  # tells the index how a job stands, and for how many ms its record lives


class Batch:
    """Items of a loop that were handled since the last save: the cursor after them, and what was counted for them.

    One write saves it all, so that whoever resumes finds a cursor and counters that belong together; the number makes
    that write harmless to repeat.
    """

    __slots__ = ("counts", "cursor", "items", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.cursor: str | None = None
        self.items = 0
        self.counts: dict[str, Number] = {}


class Attempt(Generic[S]):
    """Begun with `record`. Its writes carry its fence; the first that is refused ends it."""

    def __init__(
        self, where: Place, shape: Shape[S], life: Terms, record: Record, listed: Listed | None = None
    ) -> None:
        self.where = where
        self.fence: int = record.get("fence", int)
        self.number: int = record.get("attempt", int)
        self.task: str = record.get("task", text)
        self.cursor: Any = record.get("cursor", json.loads)
        self.data = shape.load(record.fields)
        self.ended = False
        self.outcome = ""  # how it ended, or why a write was refused
        self.stop: JobError | None = self._cancelled() if record.get("cancel", bool) else None
        self._shape = shape
        self.life = life
        self._entry = entry_of(where.job_id, record)
        self._listed = listed
        self._batch = Batch(record.get("batch", int) + 1)
        self._sent: Batch | None = None
        self._loop: Loop[S] | None = None
        self._lock = threading.Lock()

    def update(self, values: Mapping[str, object]) -> Flow[None]:
        yield from self._set(self.data, values, "update")

    def modify(self, change: Change[S]) -> Flow[None]:
        """Read, change and write, as often as it takes for nothing else to be written in between."""
        for _ in range(TRIES):
            found = yield from policy.read(self.where, self._shape, lambda _, shape, record: record)
            if found is None:
                raise JobMissing(job_id=self.where.job_id)
            state = self._shape.load(found.fields)
            values = change(state)
            if not isinstance(values, Mapping):
                raise DefinitionError(
                    f"job.modify: change must answer a dict of fields, not {type(values).__qualname__}"
                )
            try:
                return (yield from self._set(state, values, "modify", found.get("version", int)))
            except JobConflict:
                continue
        raise JobConflict(
            f"job {self.where.job_id} was written to meanwhile each of {TRIES} times", job_id=self.where.job_id
        )

    def _set(self, state: S, values: Mapping[str, object], verb: str, version: int | None = None) -> Flow[None]:
        changed, parts = self._shape.patch(state, values, verb)
        cancelled = yield from self._write(Write(_fields(parts), version=version))
        with self._lock:
            self.data = self.data.model_copy(update={name: getattr(changed, name) for name in values})
        self._heed(cancelled)

    def add(self, amounts: Mapping[str, Number]) -> Flow[None]:
        with self._lock:
            self._shape.check_counts(self.data, amounts)
            loop = self._loop
            if loop is not None and loop.active:
                _count(loop.counts, amounts)
                self.data = self._shape.counted(self.data, amounts)
                return
        cancelled = yield from self._write(Write(counts=self._kinds(amounts)))
        with self._lock:
            self.data = self._shape.counted(self.data, amounts)
        self._heed(cancelled)

    def progress(self, done: int | None, total: int | None, message: str | None) -> Flow[None]:
        sets: dict[str, Word] = {}
        for name, value in (("done", done), ("total", total)):
            if value is not None:
                sets[name] = _not_negative(value, f"job.progress: {name}")
        if message is not None:
            if not isinstance(message, str):
                raise DefinitionError(f"job.progress: message must be text, not {type(message).__qualname__}")
            sets["message"] = utf8(clipped(message))
        self._heed((yield from self._write(Write(sets))))

    def heartbeat(self) -> Flow[None]:
        self._heed((yield from self._write(Write())))

    def beat(self) -> Call[None]:
        """A heartbeat from the background: it raises nothing, but the loop stops at the next item."""
        call = policy.write(self.where, self.fence, self.life.ttl_ms, Write())

        def parse(reply: Any) -> None:
            try:
                if call.parse(reply):
                    self.stop = self._cancelled()
            except JobError as refused:
                self.stop = refused

        return Call("job.heartbeat", call.store, parse, script=call.script, keys=call.keys, args=call.args)

    def list_as(self, status: Status) -> Flow[None]:
        """Tell the index how the job stands, if there is one."""
        if self._listed is not None:
            yield from self._listed(self._entry._replace(status=status, heard_ms=None), self._ttl_ms(status))

    def check(self) -> Flow[None]:
        yield from policy.check(self.where, self.fence)

    def flush(self) -> Flow[None]:
        """Save what the loop has handled, exactly once, however often it must be sent."""
        cancelled = False
        while (batch := self._next_batch()) is not None:
            sets: dict[str, Word] = {} if batch.cursor is None else {"cursor": batch.cursor}
            counts = {"done": ("i", batch.items), **self._kinds(batch.counts)}
            try:
                cancelled = yield from self._write(Write(sets, counts, batch=batch.number))
            except CodecError:
                self._saved(batch)  # no repetition would make it fit
                raise
            self._saved(batch)
            self.cursor = self.cursor if batch.cursor is None else json.loads(batch.cursor)
        self._heed(cancelled)

    def _next_batch(self) -> Batch | None:
        """A batch that was sent stays as it was, until it is known to be saved; what comes after is another one."""
        with self._lock:
            if self._sent is None and (self._batch.items or self._batch.counts):
                self._sent, self._batch = self._batch, Batch(self._batch.number + 1)
            return self._sent

    def _saved(self, batch: Batch) -> None:
        with self._lock:
            if self._sent is batch:
                self._sent = None

    def enter(self, loop: Loop[S], total: int | None) -> Flow[Any]:
        """Begin a loop; answers the cursor to go on from, None at the beginning."""
        yield from self.flush()
        if total is not None:
            self._heed((yield from self._write(Write({"total": total}, {"done": ("i", 0)}))))
        self._loop = loop
        return self.cursor

    def handled(self, cursor: str, counts: Mapping[str, Number]) -> int:
        """An item is handled; answers how many of them wait to be saved."""
        with self._lock:
            batch = self._batch
            batch.cursor = cursor
            batch.items += 1
            _count(batch.counts, counts)
        return batch.items

    def finish(self) -> Flow[None]:
        with self._lock:
            if self._loop is not None:
                # Left by `break`: the item was not asked past, but what was counted for it did happen.
                _count(self._batch.counts, self._loop.counts)
                self._loop.counts = {}
        yield from self.end("SUCCESS", None)

    def end(self, status: Status, error: BaseException | None) -> Flow[None]:
        """Write how the attempt ended. What was counted for an item that is not handled is left out: it comes again."""
        try:
            yield from self.flush()
        except JobCancelled:
            pass  # the flush was done, and this is the end that was asked for
        sets: dict[str, Word] = {}
        if error is not None:
            sets = {"error": type(error).__name__, "reason": utf8(clipped(_said(error)))}
            if self.life.traceback:
                sets["trace"] = utf8(trace(error))
        yield from self._write(Write(sets, status=status))
        self.ended, self.outcome = True, status.lower()
        yield from self.list_as(status)

    def exit(self, error: BaseException | None, status: Status) -> Flow[None]:
        """The end of a block or function that left with `error`; `status` is for an error of the user's own.

        Such an error is never replaced by trouble with Redis, but by JobFenced it is: nobody must hear what became of
        an attempt that was replaced.
        """
        if self.ended or (self.owns(error) and not isinstance(error, JobCancelled)):
            return
        if error is None:
            yield from self.finish()
            return
        try:
            yield from self.end("CANCELLED" if self.owns(error) else status, error)
        except StoreError as trouble:
            error.add_note(f"the record of job {self.where.job_id} could not be closed: {trouble}")

    def owns(self, error: BaseException | None) -> bool:
        """Whether `error` is about this job."""
        return isinstance(error, JobError) and getattr(error, "job_id", None) == self.where.job_id

    def _write(self, what: Write) -> Flow[bool]:
        call = policy.write(self.where, self.fence, self._ttl_ms(what.status), what)
        try:
            return (yield from settled(call) if what.batch or what.status else call)
        except JobError as refused:
            self.outcome = type(refused).__name__.removeprefix("Job").lower()
            raise

    def _ttl_ms(self, status: Status | None) -> int:
        return self.life.keep_ms if status in TERMINAL else self.life.ttl_ms

    def _kinds(self, amounts: Mapping[str, Number]) -> dict[str, tuple[str, Number]]:
        return {FIELD + name: (self._shape.kind(name), amount) for name, amount in amounts.items()}

    def _heed(self, cancelled: bool) -> None:
        if cancelled:
            raise self._cancelled()

    def _cancelled(self) -> JobCancelled:
        return JobCancelled(job_id=self.where.job_id)


class Loop(Generic[S]):
    """One run of `each`: when an item counts as handled, and when what was handled is saved."""

    def __init__(self, attempt: Attempt[S], total: int | None, every: int, within: Duration) -> None:
        self.counts: dict[str, Number] = {}  # of the item that is being handled
        self.active = False
        self._attempt = attempt
        self._total = None if total is None else _not_negative(total, "each: total")
        self._every = _not_negative(every, "each: every")
        self._within = seconds(within, what="each: within")
        self._saved = 0.0

    def begin(self) -> Flow[Any]:
        cursor = yield from self._attempt.enter(self, self._total)
        self.active, self._saved = True, time.monotonic()
        return cursor

    def item(self) -> None:
        """An item goes out. Raises what the heartbeat has learned meanwhile: JobFenced, JobCancelled."""
        if self._attempt.stop is not None:
            raise self._attempt.stop
        self.counts = {}

    def handled(self, cursor: object) -> bool:
        """The item that was out is handled; whether to flush now. Raises CodecError for a cursor that will not do."""
        data, counts = dump_cursor(cursor), self.counts
        self.counts = {}
        waiting = self._attempt.handled(data, counts)
        now = time.monotonic()
        if waiting < self._every and now - self._saved < self._within:
            return False
        self._saved = now
        return True

    def end(self) -> Flow[None]:
        self.active = False
        yield from self._attempt.flush()

    def leave(self) -> Flow[None]:
        """The end by an error, or because the caller asks for no more; perhaps long after the attempt has ended."""
        self.active = False
        if not self._attempt.outcome:
            yield from self._attempt.flush()


def _count(into: dict[str, Number], amounts: Mapping[str, Number]) -> None:
    for name, amount in amounts.items():
        into[name] = into.get(name, 0) + amount


def _fields(parts: Mapping[str, bytes]) -> dict[str, Word]:
    return {FIELD + name: part for name, part in parts.items()}


def _not_negative(value: int, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise DefinitionError(f"{what} must be an int of 0 or more, not {value!r:.40}")
    return value


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - whatever a user's __str__ raises must not hide the error itself
        return ""
