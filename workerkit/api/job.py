"""`kit.job`: the typed, fenced, resumable record of a function's run, handed in as its first parameter."""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from pydantic import BaseModel

from workerkit.api import layers
from workerkit.api.engine import Engine
from workerkit.api.held import AioHeld, Held, Plan
from workerkit.core.binding import Binder
from workerkit.core.call import Call
from workerkit.core.durations import Duration
from workerkit.core.events import JobEvent
from workerkit.core.flow import Flow
from workerkit.core.template import Template
from workerkit.errors import DefinitionError, JobCancelled, JobError, JobFenced, WorkerKitError
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt, Loop
from workerkit.jobs.policy import About, Place, Terms, settled
from workerkit.jobs.record import Number, Shape, Status

S = TypeVar("S", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Task = TypeVar("Task")


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
        return AioJob(self._engine, self._attempt)

    def update(self, **fields: object) -> None:
        """Set fields, validated by the model, others untouched. In a loop of `each`, count a field or set it, not both.

        Raises DefinitionError for an unknown field or a value that does not validate, CodecError for one that JSON
        cannot hold or that makes the state larger than 64 KiB; the record is as it was.
        """
        self._engine.runner.run(self._attempt.update(fields))

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
            engine.hooks.emit(JobEvent(attempt.task, attempt.outcome or "unclosed"))

    return Plan("job heartbeat", enter, leave, renew=lambda attempt: attempt.beat(), interval=interval)


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


class JobDecorator(Protocol[S]):
    """What `kit.job(...)` answers: the function without the parameter `job`, which is its first, or follows `self`."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Job[S], P], R]) -> Callable[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Task, Job[S], P], R]) -> Callable[Concatenate[Task, P], R]: ...


class Execution(Generic[S]):
    """One call of a decorated function: which record it has, and what its end means to the framework."""

    def __init__(self, recorder: Recorder[S], wrapper: Callable[..., Any], about: About) -> None:
        engine = self._engine = recorder.engine
        self._recorder = recorder
        self._running = engine.host.running() if engine.host.runs(wrapper) else None
        self._about = about
        if self._running is not None:
            self._about = about._replace(task=self._running.task, root_id=self._running.root_id)
        self.where = policy.place(engine.keys("j"), self._running.id if self._running else secrets.token_hex(16))

    @property
    def plan(self) -> Plan[Attempt[S]]:
        return holding(self._engine, self._recorder.life, self._enter)

    def _enter(self) -> Flow[Attempt[S]]:
        recorder = self._recorder
        # A task that failed is begun again by whoever retries it, or delivers it again, outside of this decorator.
        again = self._running is not None
        attempt = yield from beginning(
            self._engine, self.where, recorder.shape, recorder.life, self._about, again=again
        )
        if attempt.stop is not None:  # cancelled before it began
            yield from attempt.end("CANCELLED", attempt.stop)
            raise attempt.stop
        return attempt

    def closing(self) -> Call[bool] | None:
        """The write that ends this task's record for a memoized hit; None outside a task, where nobody asks for it."""
        recorder = self._recorder
        if self._running is None:
            return None
        return policy.close_cached(self.where, new_token(), recorder.shape, recorder.life, self._about)

    def stopped(self, error: JobError) -> BaseException:
        """What the framework is told of an attempt that must not go on; any other error is its own answer."""
        if self._running is None or error.job_id != self.where.job_id:
            return error
        status = getattr(error, "status", None)
        if isinstance(error, (JobFenced, JobCancelled)) or status is not None:
            cancelled = isinstance(error, JobCancelled) or status == "CANCELLED"
            return self._engine.host.stopped(error, cancelled=cancelled)
        return error


class Recorder(Generic[S]):
    """The checked options of one decorated function."""

    def __init__(
        self,
        engine: Engine,
        shape: Shape[S],
        life: Terms,
        fn: Callable[..., Any],
        owner: str | Callable[..., object] | None,
        tags: Iterable[str],
    ) -> None:
        self.engine = engine
        self.shape = shape
        self.life = life
        self.name = f"{fn.__module__}.{fn.__qualname__}"
        self.signature, self.at = _reduced(fn)
        # The rest of the call is bound before anything is written: a wrong call leaves no record.
        self._binder = Binder(_with_signature(self.signature, fn))
        names = self._binder.names
        self._owner = None if owner is None else Template(owner, names, "job: owner")
        self._tags = [Template(tag, names, "job: tags") for tag in _texts(tags)]

    def execution(self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Execution[S]:
        """Raises TypeError for a call that does not fit, EncodingError where no owner or tag can be made of it."""
        bound = self._binder(args, kwargs)
        owner = None if self._owner is None else self._owner(bound)
        owner, tags = policy.labels(owner, [tag(bound) for tag in self._tags])
        return Execution(self, wrapper, About(self.name, owner, tags))


def beginning(
    engine: Engine, where: Place, shape: Shape[S], life: Terms, about: About, *, again: bool
) -> Flow[Attempt[S]]:
    """Begin an attempt. A begin whose answer was lost is sent again: its token makes it the same begin."""
    record = yield from settled(policy.begin(where, new_token(), shape, life, about, again=again))
    attempt = Attempt(where, shape, life, record)
    engine.hooks.emit(JobEvent(attempt.task, "began"))
    return attempt


def new_token() -> str:
    return secrets.token_urlsafe(16)


def job(
    engine: Engine,
    model: type[S],
    *,
    ttl: Duration = "1d",
    max_age: Duration = "30d",
    keep: Duration | None = None,
    owner: str | Callable[..., object] | None = None,
    tags: Iterable[str] = (),
    heartbeat: Duration | None = None,
) -> JobDecorator[S]:
    """The decorator behind `kit.job`."""
    shape, life = Shape(model), policy.terms(ttl, max_age, keep, heartbeat)

    def decorate(fn: Callable[..., Any]) -> Any:
        layers.check(fn, "job")
        recorder = Recorder(engine, shape, life, fn, owner, tags)
        wrapper = (_async_wrapper if inspect.iscoroutinefunction(fn) else _sync_wrapper)(recorder, fn)
        functools.update_wrapper(wrapper, fn)
        wrapper.__signature__ = recorder.signature  # what is injected must not be asked of the caller
        kept = {*recorder.signature.parameters, "return"}
        wrapper.__annotations__ = {name: hint for name, hint in fn.__annotations__.items() if name in kept}
        wrapper.job_closing = lambda args, kwargs: recorder.execution(wrapper, args, kwargs).closing()
        layers.mark(wrapper, fn, "job")
        return wrapper

    return decorate


def _sync_wrapper(recorder: Recorder[Any], fn: Callable[..., Any]) -> Any:
    at = recorder.at

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        execution = recorder.execution(wrapper, args, kwargs)
        try:
            with Held(recorder.engine, execution.plan) as attempt:
                return fn(*args[:at], Job(recorder.engine, attempt), *args[at:], **kwargs)
        except JobError as error:
            stop = execution.stopped(error)
            if stop is error:
                raise
            raise stop from error

    return wrapper


def _async_wrapper(recorder: Recorder[Any], fn: Callable[..., Any]) -> Any:
    at = recorder.at

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        execution = recorder.execution(wrapper, args, kwargs)
        try:
            async with AioHeld(recorder.engine, execution.plan) as attempt:
                return await fn(*args[:at], Job(recorder.engine, attempt), *args[at:], **kwargs)
        except JobError as error:
            stop = execution.stopped(error)
            if stop is error:
                raise
            raise stop from error

    return wrapper


def _reduced(fn: Callable[..., Any]) -> tuple[inspect.Signature, int]:
    """The signature without the parameter for the job, and where that one is: first, or right after `self`."""
    full = inspect.signature(fn)
    parameters = list(full.parameters.values())
    at = int(bool(parameters) and parameters[0].name == "self")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"job: {fn.__qualname__} is a generator; a job is a def or an async def that returns")
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) <= at or parameters[at].kind not in positional:
        raise DefinitionError(
            f"job: {fn.__qualname__} has no parameter for the job; write def {fn.__name__}(job: Job[...], ...), "
            "or (self, job: Job[...], ...) for a bound task"
        )
    del parameters[at]
    return full.replace(parameters=parameters), at


def _with_signature(signature: inspect.Signature, fn: Callable[..., Any]) -> Callable[..., Any]:
    def call() -> None: ...

    call.__qualname__ = fn.__qualname__
    call.__signature__ = signature  # type: ignore[attr-defined]  # functions take attributes; inspect looks for this one
    return call


def _texts(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise DefinitionError(f'job: tags must be a list of texts: write tags=["{tags}"]')
    return tuple(tags)
