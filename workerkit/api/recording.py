"""`kit.job`: a function whose runs are recorded; the record is handed in as its first parameter."""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from pydantic import BaseModel

from workerkit.api import layers
from workerkit.api.engine import Engine
from workerkit.api.held import AioHeld, Held, Plan
from workerkit.api.job import Job, beginning, holding, new_token
from workerkit.api.joblist import listed
from workerkit.core.binding import Binder
from workerkit.core.durations import Duration
from workerkit.core.flow import Flow
from workerkit.core.template import Template
from workerkit.errors import DefinitionError, JobCancelled, JobError, JobFenced
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt
from workerkit.jobs.index import entry_of
from workerkit.jobs.policy import About, Terms
from workerkit.jobs.record import Shape

S = TypeVar("S", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")
Task = TypeVar("Task")


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
        task = about.task if self._running is None else self._running.task
        self._about = about._replace(task=task, root_id=engine.host.root())
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

    def closing(self) -> Flow[bool] | None:
        """End this task's record for a memoized hit; False when it had ended already. None outside a task, where nobody
        asks for it."""
        return None if self._running is None else self._close()

    def _close(self) -> Flow[bool]:
        life = self._recorder.life
        record = yield from policy.close_cached(self.where, new_token(), self._recorder.shape, life, self._about)
        if record is None:
            return False
        yield from listed(self._engine, entry_of(self.where.job_id, record), life.keep_ms)
        return True

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
    max_crashes: int | None = 5,
    traceback: bool = False,
) -> JobDecorator[S]:
    """The decorator behind `kit.job`."""
    shape, life = Shape(model), policy.terms(ttl, max_age, keep, heartbeat, max_crashes, traceback=traceback)

    def decorate(fn: Callable[..., Any]) -> Any:
        layers.check(fn, "job")
        recorder = Recorder(engine, shape, life, fn, owner, tags)
        wrapper = (_async_wrapper if inspect.iscoroutinefunction(fn) else _sync_wrapper)(recorder, fn)
        functools.update_wrapper(wrapper, fn)
        wrapper.__signature__ = recorder.signature  # what is injected must not be asked of the caller
        kept = {*recorder.signature.parameters, "return"}
        wrapper.__annotations__ = {name: hint for name, hint in fn.__annotations__.items() if name in kept}
        setattr(wrapper, layers.CLOSING, lambda args, kwargs: recorder.execution(wrapper, args, kwargs).closing())
        setattr(wrapper, layers.MODEL, model)
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
