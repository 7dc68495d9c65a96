"""`f.memo`: the handle of a memoized function. The async one has the same verbs as coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from workerkit.api import computing
from workerkit.api.engine import Engine
from workerkit.api.function import Function
from workerkit.cache.computation import MISSING, Answer, Computation, Entry, Work
from workerkit.cache.entries import EntryKey
from workerkit.cache.explain import Explanation, explain
from workerkit.cache.fetch import Fetcher
from workerkit.cache.ledger import CacheStats
from workerkit.core.call import PING
from workerkit.core.flow import Flow, Invoke
from workerkit.errors import DefinitionError, StoreError

if TYPE_CHECKING:
    from celery.result import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


class Memo(Generic[P, V]):
    """The handle of a memoized function, sync; `.aio` has the same verbs as coroutines.

    All verbs raise StoreError when Redis cannot be used: only calls of the function, `entry`, `delay` and `apply_async`
    go on without it.
    """

    def __init__(self, function: Function[V], first: tuple[Any, ...] = ()) -> None:
        self.function = function
        self._first = first

    def of(self, task: object) -> Memo[P, V]:
        """The same handle for a bound task, whose function gets the task as its first argument."""
        return Memo(self.function, (task,))

    @property
    def engine(self) -> Engine:
        return self.function.engine

    @property
    def fn(self) -> Callable[..., Any]:
        """The function without its memoization."""
        return self.function.fn

    @property
    def is_async(self) -> bool:
        return self.function.is_async

    @property
    def fetcher(self) -> Fetcher[V]:
        return self.function.fetcher

    @property
    def signature(self) -> inspect.Signature:
        """The function's parameters, without those that a bound task fills in."""
        signature = self.function.signature
        return signature.replace(parameters=list(signature.parameters.values())[len(self._first) :])

    @cached_property
    def aio(self) -> AioMemo[P, V]:
        """The same verbs as coroutines."""
        return AioMemo(self)

    @property
    def current(self) -> Computation[V]:
        """The running computation: its `stale` value, `tag(...)` and `skip()`. Outside one, one that does nothing."""
        return computing.current(self.function.fn) or Computation("")

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The Redis key of this call's entry; nothing is asked of Redis.

        Raises EncodingError for an argument that cannot be told apart from others, as all verbs with arguments do.
        """
        return self.place(args, kwargs)[0].value

    def tags(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """The tags that this call's arguments give."""
        return self.function.tags(self._first + args, kwargs)

    def entry(self, *args: P.args, **kwargs: P.kwargs) -> Entry[V]:
        """What calling the function gives, with where it came from ("hit", "stale", "computed", ...) and its age.

        Computes where a call would, and raises what the function raises. When Redis is down it computes.
        """
        self._check_sync("entry")
        kept = self.kept(args, kwargs)
        if kept is not None:
            return kept
        answer = self.engine.runner.run(self.fetcher.recall(self.work(args, kwargs)))
        return answer.entry(self.engine.now_us)

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """The fresh cached value, without computing; None when there is none (or None itself is cached)."""
        value = self.engine.runner.run(self.fetcher.peek(self.work(args, kwargs)))
        return None if value is MISSING else value

    def set(self, value: V, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Cache `value` as this call's result, for as long as `ttl` says of it.

        Raises CodecError for a value that cannot be held, DefinitionError for one that `ttl` does not keep.
        """
        self.engine.runner.run(self.setting(value, args, kwargs))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget this call's entry, and void a computation of it that is under way; whether there was one."""
        return self.engine.runner.run(self.invalidating(args, kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """Compute anew and store, fresh or not; the result. None when another process computes it already.

        Raises what the function raises; what was cached stays then.
        """
        self._check_sync("refresh")
        answer = self.engine.runner.run(self.refreshing(self.work(args, kwargs)))
        return None if answer is None else answer.value

    def bust(self) -> int:
        """Forget all of the function's entries, and void what is being computed; how many entries there were.

        For somebody who asks for it, not for code that is called often: it looks at every key of the store.
        """
        return self.engine.runner.run(self.function.busting())

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """What is known of this call's entry, and what the next call would do; print it."""
        return self.engine.runner.run(explain(self.fetcher.policy, self.work(args, kwargs)))

    def stats(self) -> CacheStats:
        """The whole fleet's counts of this function; this process's are added first."""
        return self.engine.runner.run(self.counting())

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[V]:
        """As the task's own `delay`, but a fresh hit needs no message: its AsyncResult is there already.

        Raises DefinitionError when the function is no task.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[V]:
        """As the task's own `apply_async`, but a fresh hit needs no message.

        With canvas options (`link`, `link_error`, `chord`, `group_id`, `chain`), with an `eta` or `countdown`, for a
        task with `@kit.job` and in eager mode a message is always sent; also when Redis cannot be used, or what is
        cached is stale. What is looked up is the call that the worker would make: JSON makes a list of a tuple.
        """
        self.engine.flusher.start()
        result: AsyncResult[V] = self.engine.runner.run(self.publishing(args, kwargs, options, Invoke))
        return result

    def setting(self, value: V, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[None]:
        """`set` as a Flow."""
        function = self.function
        fresh = function.life(value)
        if fresh is None:
            raise DefinitionError(f"memo.set: ttl says that {function.fn.__qualname__} keeps no such value")
        key, tags = self.place(args, kwargs)
        yield from PING  # an entry is stamped with the server's time, which the first reply tells
        yield from self.fetcher.put(key, value, tags, fresh)
        function.forget(key.value)

    def invalidating(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[bool]:
        """`invalidate` as a Flow."""
        key, _ = self.place(args, kwargs)
        there = yield from self.fetcher.entries.drop(key)
        self.function.forget(key.value)
        return there

    def refreshing(self, work: Work) -> Flow[Answer | None]:
        """`refresh` as a Flow."""
        found = yield from self.fetcher.entries.get(work.key, work.tags)
        return (yield from self.fetcher.renew(work, found))

    def publishing(
        self,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        act: Callable[[Callable[..., Any], tuple[Any, ...]], Invoke[Any]],
    ) -> Flow[Any]:
        """`apply_async` as a Flow; `act` makes the step for what the framework does, which blocks."""
        function, host, fetcher = self.function, self.engine.host, self.fetcher
        given, named = tuple(args or ()), dict(kwargs or {})
        value = MISSING
        # A job's record belongs to an execution, so there must be one.
        if function.closing is None and host.may_answer(function.wrapper, options):
            sent = host.as_sent(function.wrapper, given, named)
            try:
                if sent is not None:
                    value = yield from fetcher.peek(self.work(*sent))
            except StoreError as error:
                function.trouble(str(error))
        if value is MISSING:
            return (yield from act(host.send, (function.wrapper, given, named, options)))
        fetcher.ledger.hits += 1
        return (yield from act(host.answer, (function.wrapper, value, options)))

    def counting(self) -> Flow[CacheStats]:
        """`stats` as a Flow."""
        ledger = self.fetcher.ledger
        yield from self.engine.flusher.flow()  # all ledgers: it lists what it sends, for kit.cache.stats()
        return (yield from ledger.read())

    def place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[EntryKey, tuple[str, ...]]:
        """Where this call's entry is, and the tags that its arguments give."""
        return self.function.place(self._first + args, kwargs)

    def _check_sync(self, verb: str) -> None:
        if self.is_async:
            name = self.fn.__qualname__
            raise DefinitionError(f"{name} is a coroutine function: write await {name}.memo.aio.{verb}(...)")

    def kept(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, aio: bool = False) -> Entry[V] | None:
        """What this process's memory has of this call."""
        return self.function.kept(self._first + args, kwargs, aio=aio)

    def work(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, aio: bool = False) -> Work:
        """This call as work for the fetcher."""
        return self.function.work(self._first + args, kwargs, aio=aio)


class AioMemo(Generic[P, V]):
    """`memo.aio`: the same verbs, awaited."""

    def __init__(self, memo: Memo[P, V]) -> None:
        self._memo = memo

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The Redis key of this call's entry."""
        return self._memo.key(*args, **kwargs)

    def tags(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """The tags that this call's arguments give."""
        return self._memo.tags(*args, **kwargs)

    async def entry(self, *args: P.args, **kwargs: P.kwargs) -> Entry[V]:
        """As `Memo.entry`."""
        kept = self._memo.kept(args, kwargs, aio=True)
        if kept is not None:
            return kept
        answer = await self._run(self._memo.fetcher.recall(self._work(args, kwargs)))
        return answer.entry(self._memo.engine.now_us)

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """As `Memo.peek`."""
        value = await self._run(self._memo.fetcher.peek(self._work(args, kwargs)))
        return None if value is MISSING else value

    async def set(self, value: V, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """As `Memo.set`."""
        await self._run(self._memo.setting(value, args, kwargs))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """As `Memo.invalidate`."""
        return await self._run(self._memo.invalidating(args, kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """As `Memo.refresh`."""
        answer = await self._run(self._memo.refreshing(self._work(args, kwargs)))
        return None if answer is None else answer.value

    async def bust(self) -> int:
        """As `Memo.bust`."""
        return await self._run(self._memo.function.busting())

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """As `Memo.explain`."""
        return await self._run(explain(self._memo.fetcher.policy, self._work(args, kwargs)))

    async def stats(self) -> CacheStats:
        """As `Memo.stats`."""
        return await self._run(self._memo.counting())

    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[V]:
        """As `Memo.delay`; what blocks is done in a thread, for Celery has no async side."""
        return await self.apply_async(args, kwargs)

    async def apply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[V]:
        """As `Memo.apply_async`; what blocks is done in a thread, for Celery has no async side."""
        self._memo.engine.flusher.aio_started()
        result: AsyncResult[V] = await self._run(self._memo.publishing(args, kwargs, options, _in_a_thread))
        return result

    async def _run(self, flow: Flow[T]) -> T:
        return await self._memo.engine.aio_runner.run(flow)

    def _work(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
        return self._memo.work(args, kwargs, aio=True)


def _in_a_thread(act: Callable[..., Any], args: tuple[Any, ...]) -> Invoke[Any]:
    return Invoke(asyncio.to_thread, (act, *args))
