"""`WorkerKit`: the one object a project makes; everything else hangs on it."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from workerkit.api.cache import Cache
from workerkit.api.engine import Engine
from workerkit.api.limiter import Limiter
from workerkit.api.memo import Memo
from workerkit.api.memoize import Memoize, Memoized, memoize
from workerkit.api.options import Options, Refresh, Text, Ttl
from workerkit.api.standin import WhenDown
from workerkit.api.task import BoundTasks, KitTask, MemoTask, Tasks
from workerkit.api.throttle import Throttle, throttle
from workerkit.api.warmup import Warmup
from workerkit.api.warmups import Warmups
from workerkit.cache.local import L1
from workerkit.core.call import PING
from workerkit.core.durations import Duration
from workerkit.core.events import Event, Hook, Hooks
from workerkit.errors import DefinitionError
from workerkit.limits.definition import Algorithm, Count
from workerkit.warming.schedule import Missed

if TYPE_CHECKING:
    from typing import ParamSpec

    from celery import Celery
    from pydantic import BaseModel
    from redis.asyncio import Redis as AioClient

    from workerkit.api.jobs import Jobs
    from workerkit.api.parked import ParkedTasks
    from workerkit.api.recording import JobDecorator
    from workerkit.api.sessions import Sessions
    from workerkit.api.settings import Settings
    from workerkit.io.clients import Client

    P = ParamSpec("P")
    S = TypeVar("S", bound=BaseModel)

R = TypeVar("R")
V = TypeVar("V")


class WorkerKit:
    """Caching, limits, job state and warming on one Redis, for one Celery app or none.

    `WorkerKit(app)` reads `app.conf.workerkit_*` (and else `WORKERKIT_*`) at the first use, so the app may be
    configured later; `WorkerKit(url=...)` needs no Celery. Further keyword arguments are settings. `hooks` get every
    event; without any, events are logged by structlog. Nothing connects, and no thread starts, before the first use.
    """

    def __init__(
        self,
        app: Celery | None = None,
        *,
        url: str | None = None,
        hooks: Iterable[Hook] | None = None,
        **settings: Any,
    ) -> None:
        if url is not None:
            settings["redis_url"] = url
        self._given: Mapping[str, Any] = settings
        self._app = app
        self.engine = Engine(self._load, Hooks(*(_default_hooks() if hooks is None else hooks)))
        self.warmups = Warmups(self.engine)
        """The declared warmups, by name."""
        # By name: the API floor knows which adapter there is for an app, never what is in it.
        glue = importlib.import_module("workerkit.celery.glue").Glue if app is not None else None
        self._glue = glue and glue(self, app, settings)

    def _load(self) -> Settings:
        from workerkit.api.settings import load

        if self._glue is None:
            return load(self._given)
        settings = load(self._glue.settings())
        if "embedded://" in (settings.redis_url, settings.guard_url):
            raise DefinitionError(
                "embedded:// would give each process of the app a server of its own; "
                "write embedded:///some/directory, which they share"
            )
        return settings

    @property
    def settings(self) -> Settings:
        """The settings as checked. Raises DefinitionError for those that will not do."""
        return self.engine.settings

    @cached_property
    def cache(self) -> Cache:
        """Values under keys of your own, tags, and what the cache did."""
        return Cache(self.engine)

    @cached_property
    def waitlist(self) -> ParkedTasks:
        """The tasks that wait for their turn."""
        from workerkit.api.parked import ParkedTasks

        return ParkedTasks(self.engine)

    @cached_property
    def jobs(self) -> Jobs:
        """Job records, from anywhere."""
        from workerkit.api.jobs import Jobs

        return Jobs(self.engine)

    @cached_property
    def sessions(self) -> Sessions:
        """Sessions of a web application."""
        from workerkit.api.sessions import Sessions

        return Sessions(self.engine)

    @property
    def limiters(self) -> dict[str, Limiter]:
        """The limiters that this process has made, by name; those of warmups' budgets are `internal`."""
        return {name: each for name, each in sorted(self.engine.limiters.items()) if isinstance(each, Limiter)}

    @property
    def memos(self) -> dict[str, Memo[Any, Any]]:
        """The handles of the functions that this process has memoized, by name: "shop.tasks.price"."""
        return dict(sorted(self.engine.memos.items()))

    @cached_property
    def aio(self) -> AioKit:
        """The kit's own verbs as coroutines."""
        return AioKit(self)

    def memoize(
        self,
        ttl: Ttl,
        *,
        stale: Duration | None = None,
        stale_if_error: Duration | None = None,
        tags: Iterable[Text] = (),
        key: Text | None = None,
        ignore: Iterable[str] = (),
        version: str | int = "",
        negative: Mapping[type[Exception], Duration] | None = None,
        l1: bool | L1 = False,
        refresh: Refresh = "inline",
        wait: Duration | None = None,
        lease: Duration | None = None,
        early: float | None = None,
        jitter: float | None = None,
        codec: str | None = None,
        max_bytes: int | None = None,
    ) -> Memoize:
        """Keep a function's results, and compute each once for all processes.

        `ttl` is how long a result is fresh: seconds, text such as "10m", or a function of the result (None: keep not
        this one). For `stale` longer the old value is served while one caller computes anew: that caller itself, or
        with `refresh="queue"` a worker (unless a message would change the arguments). For `stale_if_error` after its
        ttl it is served when computing anew fails. `negative` remembers failures: `{NotFound: "30s"}`.

        `key` (a template such as "{account}", or a function of the arguments) says which calls have the same result,
        `ignore` names arguments that make no difference. `kit.cache.invalidate(tag=...)` forgets what is under one of
        `tags` (templates or functions too), another `version` forgets all; with "code" each change of the code does.

        `l1` keeps results in the process too, where a change in Redis is heard of. A leader's `lease` is renewed while
        it computes; others wait for it at most `wait`, then compute themselves. `early` is the beta of XFetch (0: never
        refresh before the time), `jitter` a share of the ttl that is taken off at random, `codec` "json" or a
        serializer that kombu knows, `max_bytes` the largest result. When Redis is down calls compute, once a process.

        Raises DefinitionError for an option that will not do.
        """
        options = Options(
            ttl,
            stale=stale,
            stale_if_error=stale_if_error,
            tags=tags,
            key=key,
            ignore=ignore,
            version=version,
            negative=negative,
            l1=l1,
            refresh=refresh,
            wait=wait,
            lease=lease,
            early=early,
            jitter=jitter,
            codec=codec,
            max_bytes=max_bytes,
        )
        return memoize(self.engine, options)

    def limiter(
        self,
        name: str,
        *rates: str,
        algorithm: Algorithm = "window",
        burst: int | None = None,
        concurrency: int | None = None,
        margin: Duration | None = None,
        lease: Duration = 10.0,
        count: Count = "request",
        when_down: WhenDown = "closed",
        lease_tokens: int | Literal["auto"] | None = None,
        name_keys: bool = False,
    ) -> Limiter:
        """A limit shared by all processes, such as `kit.limiter("stripe", "100/s", "5000/h", concurrency=20)`.

        All rates and the cap on slots held at once are decided in one atomic step. A rate may count units of its own:
        "90000 tokens/m". `algorithm`: "window" never admits more than N in any T; "gcra" paces calls evenly and lets
        `burst` of them run ahead (at most burst + rate x T in any T; a tenth of N by default); "fixed" counts by the
        clock's own windows, as some APIs do, so up to 2N around their boundaries. All of it may be changed with a
        deploy, a lease at most threefold at a time.

        `margin` is added to every T, to cover how much the delays on the way to the called API spread. With
        `count="response"` none is needed: a charge counts until its slot has ended, when the response has come, and a
        period longer. A slot's `lease` is renewed while it is held: how long a killed holder's stays taken.

        `when_down` is what Redis being down means: "closed" raises StoreUnavailable (or OutcomeUnknown: perhaps
        charged, not admitted); "open" admits, "local" admits this process's share of the limit, both told by an event
        and in `bound_by`.

        With `lease_tokens` a process takes that many tokens at once ("auto": by its demand), and `try_acquire` hands
        them out without asking Redis; they are good for a fiftieth of the shortest period (0.1 s at most), by which
        every period is counted longer. For windows of calls alone. With `name_keys` listings name the keys, which then
        stand in Redis as they are; otherwise there are only digests of them.

        Raises DefinitionError for a rate or option that will not do.
        """
        return Limiter(
            self.engine,
            name,
            *rates,
            algorithm=algorithm,
            burst=burst,
            concurrency=concurrency,
            margin=margin,
            lease=lease,
            count=count,
            when_down=when_down,
            lease_tokens=lease_tokens,
            name_keys=name_keys,
        )

    def throttle(
        self,
        limiter: Limiter | None = None,
        *,
        key: str | Callable[..., object] = "",
        cost: int = 1,
        wait: Duration | None = None,
        priority: int | Callable[..., int] = 0,
        fairness_key: str | Callable[..., object] | None = None,
        weight: float | Callable[..., float] = 1,
        **units: int,
    ) -> Throttle:
        """Admit each execution by `limiter`; a task over the limit is parked and comes back by itself, no retry burned.

        `key` is a template or function of the arguments; `cost` and units are what an execution counts for. A task that
        a RateLimited escapes from (out of a slot, a transport) is parked too; without a limiter that is all.

        Who waits for the same key goes by `priority` (9 first, 0 last), then in turns: each `fairness_key` gets its
        share of them by `weight`, whatever its backlog. All three may be functions of the arguments.

        Outside a task, and in a call of the task's function, it waits at most `wait` (seconds, or "5s") for its turn,
        then raises RateLimited; so does a task in eager mode, 10 s by default. Tasks need `acks_late` and
        `reject_on_worker_lost`, which the kit sets. When Redis is down a task goes back to its broker for a few
        seconds, unless the limiter's `when_down` lets it in; when its broker is down too, its message stays
        unacknowledged.

        Raises DefinitionError for a template that names no argument, or a wrong order of decorators.
        """
        return throttle(
            self.engine,
            limiter,
            key=key,
            cost=cost,
            wait=wait,
            units=units,
            priority=priority,
            fairness_key=fairness_key,
            weight=weight,
        )

    def job(
        self,
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
        """Give a function a typed, fenced, resumable record of its run, as its first parameter `job`.

        The record of a task is its id's, across retries and redeliveries; it lives `ttl` after its last write,
        `max_age` at most, and `keep` after its end. Every `heartbeat` (`workerkit_heartbeat` by default) it says that
        it is alive. After `max_crashes` attempts that were killed one after the other, none of which got any further,
        it ends as POISONED and its task fails with JobPoisoned (None: never). Of an error the type and message are
        kept, with `traceback` that too.

        Fields of pydantic's SecretStr, SecretBytes or Secret[...] are stored as they are, and shown to the task alone.

        `ttl`, `max_age`, `keep` and `heartbeat` are durations; `owner` (a template such as "{account}", or a function
        of the arguments) and `tags` are what `kit.jobs.list` finds it by. When Redis is down the task fails or is
        retried with StoreUnavailable: without its record it would have none of its promises.

        Raises DefinitionError for an option that will not do, or a function with no parameter for the job.
        """
        from workerkit.api.recording import job

        return job(
            self.engine,
            model,
            ttl=ttl,
            max_age=max_age,
            keep=keep,
            owner=owner,
            tags=tags,
            heartbeat=heartbeat,
            max_crashes=max_crashes,
            traceback=traceback,
        )

    def warmup(
        self,
        fn: Memoized[Any, Any, Any] | MemoTask[Any, Any, Any],
        *,
        every: Duration | None = None,
        cron: str | None = None,
        args: Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
        hot: int = 0,
        before: Duration | None = None,
        budget: str | None = None,
        jitter: Duration = 0,
        missed: Missed = "once",
        grace: Duration | None = None,
        on_start: bool = False,
        queue: str | None = None,
        name: str | None = None,
    ) -> Warmup:
        """Keep `fn` warm for each of `args` (tuples of arguments, or a callable answering them), and for the `hot`
        calls that are asked for most.

        A tick, `every` so often or by a `cron` line in the app's time zone, is run once, however many beats tick; it is
        late by up to `jitter`, by the name. Of ticks that nobody was there to run the newest is run ("once"), or each
        ("all"), or none that is late ("skip"); never one more than `grace` late. A cron line is first run when it is
        next due; with `on_start` a warmup also runs whenever a worker starts. Workers run it a bounded part at a time,
        as messages of low priority on `queue` (default: as the app routes `workerkit.warm.run`).

        What stays fresh for longer than `before` (default: two intervals) is left alone. With a `budget` of
        "20%" warming takes at most that share of the limit that `fn` is throttled by, and of that only what live
        callers leave over.

        Raises DefinitionError for what cannot work.
        """
        return self.warmups.add(
            fn,
            every=every,
            cron=cron,
            args=args,
            hot=hot,
            before=before,
            budget=budget,
            jitter=jitter,
            missed=missed,
            grace=grace,
            on_start=on_start,
            queue=queue,
            name=name,
        )

    @overload
    def task(self, fn: Memoized[P, Any, V]) -> MemoTask[P, V, V]: ...
    @overload
    def task(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> KitTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R]) -> KitTask[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> BoundTasks: ...
    @overload
    def task(self, **options: Any) -> Tasks: ...
    def task(self, fn: Any = None, **options: Any) -> Any:
        """`app.task`, with its options and exact types; coroutine functions run on one event loop a process.

        Raises DefinitionError without an app, for a wrong order of decorators, and for options that a throttled task
        cannot have (`rate_limit`, `acks_late=False`).
        """
        if self._glue is None:
            raise DefinitionError("kit.task needs a Celery app: write kit = WorkerKit(app)")
        glue = self._glue
        return glue.task(fn, options) if fn is not None else lambda function: glue.task(function, options)

    def memo(self, task: Any) -> Memo[Any, Any]:
        """The memo handle of a task made with `@app.task` or `@shared_task`.

        Raises DefinitionError when its function is not memoized.
        """
        found = getattr(task, "memo", None)
        if not isinstance(found, Memo):
            raise DefinitionError(
                f"{getattr(task, 'name', task)!s} is not memoized; put @kit.memoize(...) under its task decorator"
            )
        return found

    def client(self) -> Client:
        """A redis-py client of the cache store, for commands of your own; it has a pool of its own: `close` it.

        What it writes is yours: give it keys that do not begin with the kit's namespace, and a TTL.

        A soft time limit waits for the end of its commands; nothing is retried.
        """
        from workerkit.io.clients import client

        return client(self.engine.servers["cache"], self.settings.timeout)

    def ping(self) -> float:
        """Seconds that a round trip to the cache store takes. Raises StoreError when there is none."""
        began = time.monotonic()
        self.engine.runner.call(PING)
        return time.monotonic() - began

    def open(self) -> Self:
        """Connect now: `pool_min` connections. Raises StoreError when Redis cannot be used."""
        for pool in set(self.engine.runner.pools.values()):
            pool.fill(time.monotonic() + self.settings.timeout)
        return self

    def close(self) -> None:
        """Send the last counts, close the connections, end an embedded server. The kit may be used again."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.aio.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aio.close()


class AioKit:
    """`kit.aio`: the kit's own verbs, awaited."""

    def __init__(self, kit: WorkerKit) -> None:
        self._kit = kit

    async def ping(self) -> float:
        """As `WorkerKit.ping`."""
        began = time.monotonic()
        await self._kit.engine.aio_runner.call(PING)
        return time.monotonic() - began

    def client(self) -> AioClient:
        """A redis.asyncio client of the cache store for the running loop; it has a pool of its own: `aclose` it."""
        from workerkit.io.clients import aio_client

        return aio_client(self._kit.engine.servers["cache"], self._kit.settings.timeout)

    async def open(self) -> WorkerKit:
        """As `WorkerKit.open`."""
        for pool in set(self._kit.engine.aio_runner.pools.values()):
            await pool.fill(time.monotonic() + self._kit.settings.timeout)
        return self._kit

    async def close(self) -> None:
        """As `WorkerKit.close`, for the running loop."""
        await self._kit.engine.aclose()


def _default_hooks() -> tuple[Hook, ...]:
    def log(event: Event) -> None:
        # structlog and what it imports take 6 MB: not for what is of interest only to those who have configured it.
        if event.level == "debug" and "structlog" not in sys.modules:
            return
        from workerkit.telemetry.logs import log as write

        write(event)

    return (log,)
