"""`kit.jobs`: job records from anywhere, and jobs outside of tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel

from workerkit.api.engine import Engine
from workerkit.api.held import AioHeld
from workerkit.api.job import Job, beginning, holding_begun
from workerkit.api.joblist import JobPage, JobTree, asked, listing, tree
from workerkit.api.watching import Updates
from workerkit.core.call import Call
from workerkit.core.durations import Duration
from workerkit.core.flow import Flow
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt
from workerkit.jobs.events import JobUpdate
from workerkit.jobs.index import Index
from workerkit.jobs.policy import About, Terms
from workerkit.jobs.record import JobInfo, JobView, Shape, Status, view

S = TypeVar("S", bound=BaseModel)


class Jobs:
    """Reads, begins and cancels jobs. When Redis is down every verb raises StoreError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[type[BaseModel], Shape[Any]] = {}

    @cached_property
    def aio(self) -> AioJobs:
        """The same verbs as coroutines; `watch` and `begin` as async iterator and context manager."""
        return AioJobs(self._engine, self)

    @overload
    def get(self, job_id: str) -> JobInfo | None: ...
    @overload
    def get(self, job_id: str, model: type[S]) -> JobView[S] | None: ...
    def get(self, job_id: str, model: type[S] | None = None) -> JobInfo | None:
        """The job as it is now, with its data if their `model` is given; None when there is no record (never begun, or
        expired).

        Raises DefinitionError when the record is another model's, CodecError when what is stored does not fit `model`.
        """
        return self._engine.runner.call(self.getting(job_id, model))

    def begin(
        self,
        job_id: str,
        model: type[S],
        *,
        ttl: Duration = "1d",
        max_age: Duration = "30d",
        keep: Duration | None = None,
        owner: str | None = None,
        tags: Iterable[str] = (),
        task: str = "",
        retry: bool = False,
        heartbeat: Duration | None = None,
        traceback: bool = False,
    ) -> Job[S]:
        """Begin an attempt of a job outside a task; one that still runs elsewhere is fenced off.

        The record lives `ttl` after its last write, `max_age` at most and `keep` (default: `ttl`) after its end.
        `retry` goes on with a job that has failed. As a `with` block it sends a heartbeat every `heartbeat` seconds
        (`workerkit_heartbeat` by default) and ends with the block. `traceback` keeps that of an error, too.

        Raises JobFinished when the job has ended, DefinitionError when the record is another model's.
        """
        life, about = (
            policy.terms(ttl, max_age, keep, heartbeat, traceback=traceback),
            About(task, *policy.labels(owner, tags)),
        )
        return Job(self._engine, self._engine.runner.run(self.beginning(job_id, model, life, about, retry)))

    def cancel(self, job_id: str) -> bool:
        """Ask a job to stop: its next write or `job.check()` raises JobCancelled. False when there is none to stop."""
        return self._engine.runner.call(self.cancelling(job_id))

    def watch(
        self,
        job_id: str,
        *,
        after: str = "",
        poll: Duration = "250ms",
        wait: Duration = 0,
        timeout: Duration | None = None,
    ) -> Iterator[JobUpdate]:
        """What happens to the job, each event once and in order, until it ends, its record expires or time is up.

        The first update is the job as it is ("now"), unless `after` is the `id` of an update to go on behind. Who lags
        by more than the last 200 events gets one "now" for what is gone. Redis is asked every `poll` seconds, and no
        connection is held in between. `wait`: seconds in which a job whose task is still in its queue may begin.
        `timeout`: seconds from this call; 0 answers what has happened by now.

        Raises DefinitionError here for a wrong argument, and in the loop JobMissing when there is no record by then.
        When Redis is down the loop gets StoreError; the same iterator then goes on where it was, and loses nothing.
        """
        return Updates(self._engine, job_id, after=after, poll=poll, wait=wait, timeout=timeout)

    def list(
        self,
        *,
        owner: str | None = None,
        tag: str | None = None,
        status: Status | None = None,
        stuck: bool = False,
        lost: bool = False,
        after: str = "",
        most: int = 50,
    ) -> JobPage:
        """A page of at most `most` (1 to 1,000) jobs that have all that is asked for; newest first, to the millisecond.

        Go on with `after=page.next` until that is "". While jobs change, none is left out and none comes twice, but for
        those that get or lose the very status that is asked for. `stuck`: jobs that run, and were not heard of for
        three heartbeats, those first that fell silent last. `lost`: jobs that never ended and whose record has
        expired, in the page's `lost`, for about a day after that was seen. The index is told after the record: for a
        moment, or after trouble with Redis until a job is heard of again, it may lack a job or its newest status.

        Raises DefinitionError for arguments that will not do, StoreError when Redis is down.
        """
        return self._engine.runner.run(self.listing(owner, tag, status, stuck, lost, after, most))

    def tree(self, root_id: str) -> JobTree:
        """All jobs of one root (the first task of a workflow, whose id is also in `JobInfo.root_id`), added up.

        Empty when there are none. Raises DefinitionError for an id that will not do, StoreError when Redis is down.
        """
        return self._engine.runner.run(self.growing(root_id))

    def listing(
        self, owner: str | None, tag: str | None, status: Status | None, stuck: bool, lost: bool, after: str, most: int
    ) -> Flow[JobPage]:
        return listing(self._index, *asked(owner, tag, status, stuck, lost, after, most))

    def growing(self, root_id: str) -> Flow[JobTree]:
        policy.place(self._engine.keys("j"), root_id)
        return tree(self._index, root_id)

    @cached_property
    def _index(self) -> Index:
        return Index(self._engine.keys("j"))

    def getting(self, job_id: str, model: type[S] | None) -> Call[JobInfo | None]:
        where = policy.place(self._engine.keys("j"), job_id)
        return policy.look(where) if model is None else policy.read(where, self._shape(model), view)

    def cancelling(self, job_id: str) -> Call[bool]:
        return policy.cancel(policy.place(self._engine.keys("j"), job_id))

    def beginning(self, job_id: str, model: type[S], life: Terms, about: About, retry: bool) -> Flow[Attempt[S]]:
        where = policy.place(self._engine.keys("j"), job_id)
        return beginning(self._engine, where, self._shape(model), life, about, again=retry)

    def _shape(self, model: type[S]) -> Shape[S]:
        shape = self._shapes.get(model)
        if shape is None:
            shape = self._shapes[model] = Shape(model)
        return shape


class AioJobs:
    """`kit.jobs.aio`: the same verbs, awaited."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs

    @overload
    async def get(self, job_id: str) -> JobInfo | None: ...
    @overload
    async def get(self, job_id: str, model: type[S]) -> JobView[S] | None: ...
    async def get(self, job_id: str, model: type[S] | None = None) -> JobInfo | None:
        """As `Jobs.get`."""
        return await self._engine.aio_runner.call(self._jobs.getting(job_id, model))

    def begin(
        self,
        job_id: str,
        model: type[S],
        *,
        ttl: Duration = "1d",
        max_age: Duration = "30d",
        keep: Duration | None = None,
        owner: str | None = None,
        tags: Iterable[str] = (),
        task: str = "",
        retry: bool = False,
        heartbeat: Duration | None = None,
        traceback: bool = False,
    ) -> Beginning[S]:
        """As `Jobs.begin`: `job = await kit.jobs.aio.begin(...)`, or `async with kit.jobs.aio.begin(...) as job`."""
        life, about = (
            policy.terms(ttl, max_age, keep, heartbeat, traceback=traceback),
            About(task, *policy.labels(owner, tags)),
        )
        return Beginning(self._engine, self._jobs.beginning(job_id, model, life, about, retry))

    async def cancel(self, job_id: str) -> bool:
        """As `Jobs.cancel`."""
        return await self._engine.aio_runner.call(self._jobs.cancelling(job_id))

    def watch(
        self,
        job_id: str,
        *,
        after: str = "",
        poll: Duration = "250ms",
        wait: Duration = 0,
        timeout: Duration | None = None,
    ) -> AsyncIterator[JobUpdate]:
        """As `Jobs.watch`: `async for update in kit.jobs.aio.watch(...)`. A wait that is cancelled loses nothing."""
        return Updates(self._engine, job_id, after=after, poll=poll, wait=wait, timeout=timeout)

    async def list(
        self,
        *,
        owner: str | None = None,
        tag: str | None = None,
        status: Status | None = None,
        stuck: bool = False,
        lost: bool = False,
        after: str = "",
        most: int = 50,
    ) -> JobPage:
        """As `Jobs.list`."""
        return await self._engine.aio_runner.run(self._jobs.listing(owner, tag, status, stuck, lost, after, most))

    async def tree(self, root_id: str) -> JobTree:
        """As `Jobs.tree`."""
        return await self._engine.aio_runner.run(self._jobs.growing(root_id))


class Beginning(Generic[S]):
    """An attempt about to begin: await it, or enter it."""

    def __init__(self, engine: Engine, flow: Flow[Attempt[S]]) -> None:
        self._engine = engine
        self._flow = flow

    def __await__(self) -> Generator[Any, Any, Job[S]]:
        return self._begin().__await__()

    async def _begin(self) -> Job[S]:
        return Job(self._engine, await self._engine.aio_runner.run(self._flow))

    async def __aenter__(self) -> Job[S]:
        attempt = await self._engine.aio_runner.run(self._flow)
        self._held = AioHeld(self._engine, holding_begun(self._engine, attempt))
        return Job(self._engine, await self._held.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._held.__aexit__(kind, error, at)
