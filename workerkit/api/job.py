"""`Job`: one attempt's handle on its typed, fenced, resumable record."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from workerkit.api.engine import Engine
from workerkit.api.held import Held, Plan
from workerkit.api.joblist import listed, refreshed
from workerkit.core.durations import Duration
from workerkit.core.events import JobAttempt
from workerkit.core.flow import Flow
from workerkit.errors import DefinitionError, JobCancelled, JobFinished, WorkerKitError
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt, Loop
from workerkit.jobs.policy import About, Place, Terms, settled
from workerkit.jobs.record import Number, Shape, Status

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")


class Job(Generic[S]):
    """One attempt of a job. Each verb is one round trip, every write carries the fence; `.aio` has the same, awaited.

    All of them raise JobFenced when a newer attempt has begun, JobFinished when the job has ended and JobMissing when
    the record has expired (then nothing was written), and JobCancelled after writing when the job was asked to stop.
    When Redis is down they raise StoreUnavailable, or OutcomeUnknown when an answer was lost.

    As a `with` block it sends heartbeats, finishes at the end, and fails when an error leaves the block.
    """

    def __init__(self, engine: Engine, attempt: Attempt[S]) -> None:
        self._engine = engine
        self._attempt = attempt

    @property
    def id(self) -> str:
        """The task's id, or the one given to `kit.jobs.begin`."""
        return self._attempt.where.job_id

    @property
    def task(self) -> str:
        """The name of the task or function."""
        return self._attempt.task

    @property
    def fence(self) -> int:
        """A number that only grows, one for each attempt: your own stores can refuse zombies by it."""
        return self._attempt.fence

    @property
    def attempt(self) -> int:
        """Which attempt of this record it is: 1 for the first."""
        return self._attempt.number

    @property
    def data(self) -> S:
        """The fields as last known here. Changing this object changes no record: `update` and `add` do."""
        return self._attempt.data

    @property
    def aio(self) -> AioJob[S]:
        """The same verbs as coroutines."""
        return AioJob(self._engine, self._attempt)

    def update(self, **fields: object) -> None:
        """Set fields, validated by the model, others untouched. In a loop of `each`, count a field or set it, not both.

        Raises DefinitionError for an unknown field or a value that does not validate, CodecError for one that JSON
        cannot hold or that makes the state larger than 64 KiB; the record is as it was.
        """
        self._engine.runner.run(self._attempt.update(fields))

    def modify(self, change: Callable[[S], Mapping[str, object]]) -> None:
        """Set the fields that `change(data)` answers, where `data` is as stored at that very moment.

        When anything else is written meanwhile (another thread, `kit.jobs.cancel`), `change` is called again with what
        is stored then (compare-and-set on the version), up to 20 times; so it should do nothing but calculate.

        Raises JobConflict when none of them came through, and as `update` does; the record is as it was.
        """
        self._engine.runner.run(self._attempt.modify(change))

    def add(self, **counters: Number) -> None:
        """Add to int and float fields, atomically. In a loop of `each` it costs no round trip: see there.

        Raises DefinitionError for a field that is no number; CodecError when a sum passes 2**53 - 1.
        """
        self._engine.runner.run(self._attempt.add(counters))

    def progress(self, done: int | None = None, total: int | None = None, message: str | None = None) -> None:
        """Say how far the job is; what is left out stays. A message is cut off after 1,000 characters."""
        self._engine.runner.run(self._attempt.progress(done, total, message))

    def check(self) -> None:
        """Raise JobCancelled, JobFenced, JobFinished or JobMissing if this attempt should stop; writes nothing."""
        self._engine.runner.run(self._attempt.check())

    def heartbeat(self) -> None:
        """Say that the attempt is alive. In a decorated function and a `with` block this happens by itself."""
        self._engine.runner.run(self._attempt.heartbeat())

    def finish(self) -> None:
        """End the job with SUCCESS."""
        self._engine.runner.run(self._attempt.finish())

    def fail(self, exc: BaseException) -> None:
        """End the job with FAILURE; the type and message of `exc` are kept."""
        self._engine.runner.run(self._attempt.end("FAILURE", exc))

    def each(
        self,
        source: Callable[[Any], Iterable[T]],
        *,
        cursor: Callable[[T], object],
        total: int | None = None,
        every: int = 100,
        within: Duration = 1.0,
    ) -> Iterator[T]:
        """The items of `source(cursor)` from where the last attempt was saved; `source(None)` gives all of them.

        An item is handled when the next one is asked for. After `every` items or `within` seconds, at the end and on
        any error, one write saves `cursor(item)` of the last handled item together with what `job.add` counted for the
        handled items. So after a crash at most one batch of items comes again, and counters are exact: what was added
        for an item that comes again is not in them. `cursor` gives a JSON value of at most 4 KiB. One loop a job, one
        item at a time.

        Raises DefinitionError for arguments that will not do, CodecError for such a cursor.
        """
        return self._each(Loop(self._attempt, total, every, within), source, cursor)

    def _each(self, loop: Loop[S], source: Callable[[Any], Iterable[T]], cursor: Callable[[T], object]) -> Iterator[T]:
        run = self._engine.runner.run
        start = run(loop.begin())
        try:
            for item in source(start):
                loop.item()
                yield item
                if loop.handled(cursor(item)):
                    run(self._attempt.flush())
        except BaseException:
            # Also when the caller left the loop. What cannot be saved now is kept for the attempt's last write.
            with suppress(WorkerKitError):
                run(loop.leave())
            raise
        run(loop.end())

    def __enter__(self) -> Job[S]:
        self._held = Held(self._engine, holding_begun(self._engine, self._attempt))
        self._held.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.__exit__(kind, error, at)


class AioJob(Generic[S]):
    """`job.aio`: the same verbs, awaited."""

    def __init__(self, engine: Engine, attempt: Attempt[S]) -> None:
        self._engine = engine
        self._attempt = attempt

    async def update(self, **fields: object) -> None:
        """As `Job.update`."""
        await self._engine.aio_runner.run(self._attempt.update(fields))

    async def modify(self, change: Callable[[S], Mapping[str, object]]) -> None:
        """As `Job.modify`; `change` is a plain function."""
        await self._engine.aio_runner.run(self._attempt.modify(change))

    async def add(self, **counters: Number) -> None:
        """As `Job.add`."""
        await self._engine.aio_runner.run(self._attempt.add(counters))

    async def progress(self, done: int | None = None, total: int | None = None, message: str | None = None) -> None:
        """As `Job.progress`."""
        await self._engine.aio_runner.run(self._attempt.progress(done, total, message))

    async def check(self) -> None:
        """As `Job.check`."""
        await self._engine.aio_runner.run(self._attempt.check())

    async def heartbeat(self) -> None:
        """As `Job.heartbeat`."""
        await self._engine.aio_runner.run(self._attempt.heartbeat())

    async def finish(self) -> None:
        """As `Job.finish`."""
        await self._engine.aio_runner.run(self._attempt.finish())

    async def fail(self, exc: BaseException) -> None:
        """As `Job.fail`."""
        await self._engine.aio_runner.run(self._attempt.end("FAILURE", exc))

    def each(
        self,
        source: Callable[[Any], AsyncIterable[T] | Iterable[T]],
        *,
        cursor: Callable[[T], object],
        total: int | None = None,
        every: int = 100,
        within: Duration = 1.0,
    ) -> AsyncIterator[T]:
        """As `Job.each`, for `async for`; `source` may give an async iterable or a plain one."""
        return self._each(Loop(self._attempt, total, every, within), source, cursor)

    async def _each(
        self, loop: Loop[S], source: Callable[[Any], AsyncIterable[T] | Iterable[T]], cursor: Callable[[T], object]
    ) -> AsyncIterator[T]:
        run = self._engine.aio_runner.run
        start = await run(loop.begin())
        try:
            async for item in _async(source(start)):
                loop.item()
                yield item
                if loop.handled(cursor(item)):
                    await run(self._attempt.flush())
        except BaseException:
            with suppress(WorkerKitError):
                await run(loop.leave())
            raise
        await run(loop.end())


async def _async(items: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def holding(engine: Engine, life: Terms, enter: Callable[[], Flow[Attempt[S]]]) -> Plan[Attempt[S]]:
    """How an attempt is held: heartbeats, and an end that fits what left the block or function.

    Raises DefinitionError when the record could expire between two heartbeats.
    """
    interval = engine.settings.heartbeat if life.heartbeat is None else life.heartbeat
    if life.ttl_ms < 2000 * interval:
        raise DefinitionError(
            f"job: ttl ({life.ttl_ms / 1000:g} s) must be at least two heartbeats ({interval:g} s each); "
            "raise ttl, or lower heartbeat= or workerkit_heartbeat"
        )

    def leave(attempt: Attempt[S], error: BaseException | None) -> Flow[None]:
        try:
            yield from attempt.exit(error, _ending(engine, error))
        finally:
            engine.hooks.emit(JobAttempt(attempt.task, attempt.outcome or "unclosed"))

    def renew(attempt: Attempt[S]) -> Flow[None]:
        yield from attempt.beat()
        if attempt.stop is None or isinstance(attempt.stop, JobCancelled):
            yield from attempt.list_as("RUNNING")

    return Plan("job heartbeat", enter, leave, renew=renew, interval=interval)


def holding_begun(engine: Engine, attempt: Attempt[S]) -> Plan[Attempt[S]]:
    """The same for an attempt that has begun already."""

    def enter() -> Flow[Attempt[S]]:
        yield from ()
        return attempt

    return holding(engine, attempt.life, enter)


def _ending(engine: Engine, error: BaseException | None) -> Status:
    """RETRY when the framework will run this execution again, or was told to stop in the middle of it."""
    again = not isinstance(error, Exception) or engine.host.comes_back(error)
    return "RETRY" if again else "FAILURE"


def beginning(
    engine: Engine, where: Place, shape: Shape[S], life: Terms, about: About, *, again: bool
) -> Flow[Attempt[S]]:
    """Begin an attempt. A begin whose answer was lost is sent again: its token makes it the same begin."""
    beat = engine.settings.heartbeat if life.heartbeat is None else life.heartbeat
    told = life._replace(heartbeat=beat)
    try:
        record = yield from settled(policy.begin(where, new_token(), shape, told, about, again=again))
    except JobFinished:  # perhaps by this begin: as poisoned
        yield from refreshed(engine, where)
        raise
    attempt = Attempt(where, shape, life, record, partial(listed, engine))
    engine.hooks.emit(JobAttempt(attempt.task, "began"))
    yield from attempt.list_as("RUNNING")
    return attempt


def new_token() -> str:
    return secrets.token_urlsafe(16)
