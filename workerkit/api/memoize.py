"""`kit.memoize`: a function whose results are kept in Redis and computed once for all processes."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import cached_property
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, get_type_hints, overload

from workerkit.api import layers
from workerkit.api.engine import Engine
from workerkit.cache.entries import Entries, EntryKey, Found, envelope
from workerkit.cache.fetch import MISSING, Fetcher
from workerkit.cache.ledger import CacheStats, Ledger
from workerkit.core.binding import Binder
from workerkit.core.call import Call
from workerkit.core.codec import Codec
from workerkit.core.durations import Duration, seconds
from workerkit.core.encoding import digest, encode_arguments
from workerkit.core.events import CacheTrouble
from workerkit.core.flow import Flow, Invoke
from workerkit.core.keys import escape
from workerkit.core.template import Template
from workerkit.errors import DefinitionError, StoreError

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
V = TypeVar("V")
Ttl = Duration | Callable[[Any], Duration | None]


class Memoized(Protocol[P, R_co, V]):
    """A memoized function: called as before, with `.memo` beside it. A call gives `R_co`; `V` is cached."""

    __name__: str
    __qualname__: str

    @property
    def memo(self) -> Memo[P, V]: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Memoize(Protocol):
    """What `kit.memoize(...)` answers."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, V]]) -> Memoized[P, Coroutine[Any, Any, V], V]: ...
    @overload
    def __call__(self, fn: Callable[P, V]) -> Memoized[P, V, V]: ...


class Options:
    """The checked options of one memoized function."""

    def __init__(
        self,
        ttl: Ttl,
        stale: Duration | None,
        key: str | Callable[..., object] | None,
        ignore: Iterable[str],
        version: str | int,
        lease: Duration | None,
        wait: Duration | None,
    ) -> None:
        if key is not None and tuple(ignore):
            raise DefinitionError("memoize: key= already says which arguments count; leave ignore= out")
        self.life = self._life(ttl)
        self.stale = 0.0 if stale is None else seconds(stale, what="memoize: stale")
        self.key = key
        self.ignore = ignore
        self.version = str(version)
        self.lease = None if lease is None else seconds(lease, what="memoize: lease")
        self.wait = None if wait is None else seconds(wait, what="memoize: wait")

    @staticmethod
    def _life(ttl: Ttl) -> Callable[[Any], float | None]:
        if callable(ttl):

            def of_result(value: Any) -> float | None:
                life = ttl(value)
                return None if life is None else seconds(life, what="memoize: ttl(result)")

            return of_result
        constant = seconds(ttl, what="memoize: ttl")
        return lambda value: constant


class _Memo(Generic[P, V]):
    """What the sync and the async handle of one memoized function share."""

    def __init__(self, engine: Engine, fn: Callable[..., Any], options: Options) -> None:
        self.engine = engine
        self.fn = fn
        self._options = options
        self.is_async = inspect.iscoroutinefunction(fn)
        self._binder = Binder(fn, ignore=options.ignore)
        self._has_self = next(iter(self._binder.signature.parameters), None) == "self" and "self" in self._binder.names
        self._template = None if options.key is None else Template(options.key, self._binder.names, "memoize: key")

    @property
    def signature(self) -> inspect.Signature:
        return self._binder.signature

    @cached_property
    def _bound_binder(self) -> Binder:
        return Binder(self.fn, ignore=self._options.ignore, skip_first=True)

    @cached_property
    def _codec(self) -> Codec:
        return Codec(_returned(self.fn))

    @cached_property
    def name(self) -> str:
        """The function as keys name it: its module and name, its version, its result's shape."""
        version = f"@{self._options.version}" if self._options.version else ""
        return escape(f"{self.fn.__module__}.{self.fn.__qualname__}{version}-{self._codec.fingerprint}")

    @cached_property
    def fetcher(self) -> Fetcher[V]:
        engine, options = self.engine, self._options
        settings = engine.settings
        lease = options.lease or settings.lease
        entries = Entries(secret=engine.secret, max_bytes=settings.max_bytes, lease_ms=max(1, int(lease * 1000)))
        ledger = Ledger(engine.keys("c").key(self.name, "all", "n"))
        engine.flusher.add(ledger.take)
        return Fetcher(
            entries,
            self._codec,
            ledger,
            life=options.life,
            stale=options.stale,
            wait=options.wait or settings.wait,
            now_us=self._now_us,
            trouble=self.trouble,
        )

    def _now_us(self) -> int:
        return self.engine.servers["cache"].clock.at(time.monotonic())

    @property
    def lease(self) -> float:
        return self._options.lease or self.engine.settings.lease

    def trouble(self, reason: str) -> None:
        self.fetcher.ledger.errors += 1
        self.engine.hooks.emit(CacheTrouble(self.fn.__qualname__, reason))

    def entry_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EntryKey:
        """The keys of the entry of one call.

        Raises EncodingError for an argument that cannot be encoded, TypeError for a call that does not fit.
        """
        binder = self._binder
        if self._has_self and args and self.engine.host.is_task(args[0]):
            binder, args = self._bound_binder, args[1:]
        bound = binder(args, kwargs)
        template = self._template
        data = encode_arguments(bound.items()) if template is None else template(bound).encode("utf-8", "surrogatepass")
        part = digest(data, self.engine.secret)
        keys = self._keys
        return EntryKey(keys.key(self.name, part, "v"), keys.key(self.name, part, "l"))

    @cached_property
    def _keys(self) -> Any:
        return self.engine.keys("c")

    def entry(self, key: EntryKey, value: V) -> tuple[bytes, int]:
        """A value to store by hand, and its life in milliseconds."""
        fetcher = self.fetcher
        fresh = self._options.life(value)
        if fresh is None:
            raise DefinitionError(f"memo.set: ttl says that {self.fn.__qualname__} keeps no such value")
        hard = fresh + self._options.stale
        body = fetcher.codec.dump(value)
        made = envelope(body, fetcher.codec.id, now_us=self._now_us(), soft=fresh, hard=hard, cost=0.0)
        return fetcher.entries.pack(key, made), max(1, int(hard * 1000))


class Memo(_Memo[P, V]):
    """The handle of a memoized function, sync; `.aio` has the same verbs as coroutines.

    `peek`, `set`, `refresh` and `invalidate` raise StoreError when Redis cannot be used: only calls of the function
    itself go on without it.
    """

    @cached_property
    def aio(self) -> AioMemo[P, V]:
        return AioMemo(self)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The Redis key of this call's entry."""
        return self.entry_key(args, kwargs).value

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """The fresh cached value, without computing; None when there is none (or None itself is cached)."""
        found = self.engine.runner.call(self.fetcher.entries.get(self.entry_key(args, kwargs)))
        return _peeked(self.fetcher, found)

    def set(self, value: V, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Cache `value` as this call's result. Raises CodecError for a value that cannot be held."""
        key = self.entry_key(args, kwargs)
        self.engine.runner.call(self.ping())  # an entry is stamped with the server's time
        self.engine.runner.call(self.fetcher.entries.put(key, *self.entry(key, value)))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget this call's entry, and void a computation of it that is under way; whether there was one."""
        return self.engine.runner.call(self.fetcher.entries.drop(self.entry_key(args, kwargs)))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """Compute anew, unless another process does already: None then."""
        key = self.entry_key(args, kwargs)
        found = self.engine.runner.call(self.fetcher.entries.get(key))
        return self.engine.runner.run(self.fetcher.renew(key, self.compute(key, args, kwargs), found))

    def stats(self) -> CacheStats:
        """The whole fleet's counts of this function; this process's are added first."""
        flush = self.fetcher.ledger.take()
        if flush is not None:
            self.engine.runner.call(flush)
        return self.engine.runner.call(self.fetcher.ledger.read())

    def compute(self, key: EntryKey, args: Any, kwargs: Any) -> Callable[[str], Invoke[V]]:
        engine, fetcher, fn = self.engine, self.fetcher, self.fn

        def under_lease(token: str) -> V:
            if not token:
                return cast(V, fn(*args, **kwargs))
            renew = fetcher.entries.renew(key, token)
            beat = engine.ticker.every(self.lease / 3, "cache lease", lambda: engine.runner.call(renew))
            try:
                return cast(V, fn(*args, **kwargs))
            finally:
                beat.stop()

        return lambda token: Invoke(under_lease, (token,))

    @staticmethod
    def ping() -> Call[Any]:
        return Call("cache.ping", "cache", lambda reply: reply, args=("PING",))


class AioMemo(Generic[P, V]):
    """`memo.aio`: the same verbs, awaited."""

    def __init__(self, memo: Memo[P, V]) -> None:
        self._memo = memo

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The Redis key of this call's entry."""
        return self._memo.key(*args, **kwargs)

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """As `Memo.peek`."""
        memo = self._memo
        found = await memo.engine.aio_runner.call(memo.fetcher.entries.get(memo.entry_key(args, kwargs)))
        return _peeked(memo.fetcher, found)

    async def set(self, value: V, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """As `Memo.set`."""
        memo = self._memo
        key = memo.entry_key(args, kwargs)
        await memo.engine.aio_runner.call(memo.ping())
        await memo.engine.aio_runner.call(memo.fetcher.entries.put(key, *memo.entry(key, value)))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """As `Memo.invalidate`."""
        memo = self._memo
        return await memo.engine.aio_runner.call(memo.fetcher.entries.drop(memo.entry_key(args, kwargs)))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """As `Memo.refresh`."""
        memo = self._memo
        key = memo.entry_key(args, kwargs)
        found = await memo.engine.aio_runner.call(memo.fetcher.entries.get(key))
        return await memo.engine.aio_runner.run(memo.fetcher.renew(key, self.compute(key, args, kwargs), found))

    async def stats(self) -> CacheStats:
        """As `Memo.stats`."""
        memo = self._memo
        flush = memo.fetcher.ledger.take()
        if flush is not None:
            await memo.engine.aio_runner.call(flush)
        return await memo.engine.aio_runner.call(memo.fetcher.ledger.read())

    def compute(self, key: EntryKey, args: Any, kwargs: Any) -> Callable[[str], Invoke[Any]]:
        memo = self._memo
        engine, fetcher, fn = memo.engine, memo.fetcher, memo.fn

        async def under_lease(token: str) -> V:
            if not token:
                return await _awaited(fn(*args, **kwargs))
            renew = fetcher.entries.renew(key, token)
            beat = engine.aio_ticker.every(memo.lease / 3, "cache lease", lambda: engine.aio_runner.call(renew))
            try:
                return await _awaited(fn(*args, **kwargs))
            finally:
                beat.stop()

        return lambda token: Invoke(under_lease, (token,))


def _returned(fn: Callable[..., Any]) -> Any:
    """The annotation of what `fn` returns. The others are not read: they may name what only type checkers import."""
    plain = inspect.unwrap(fn)
    annotation = getattr(plain, "__annotations__", {}).get("return", Any)
    if not isinstance(annotation, str):
        return annotation
    holder = type("Returned", (), {"__annotations__": {"value": annotation}})
    try:
        return get_type_hints(holder, getattr(plain, "__globals__", {}), include_extras=True)["value"]
    except NameError as error:
        raise DefinitionError(
            f"memoize: {plain.__qualname__} is annotated to return {annotation}, but {error}; import it at run time"
        ) from None


async def _awaited(result: V | Awaitable[V]) -> V:
    return await cast("Awaitable[V]", result) if hasattr(result, "__await__") else result


def _peeked(fetcher: Fetcher[V], found: Found) -> V | None:
    value = fetcher.fresh(found)
    return None if value is MISSING else value


def memoize(engine: Engine, options: Options) -> Memoize:
    """The decorator behind `kit.memoize`."""

    def decorate(fn: Callable[..., Any]) -> Any:
        layers.check(fn, "memoize")
        memo: Memo[Any, Any] = Memo(engine, fn, options)
        returning = getattr(fn, layers.RETURNING, None)
        wrapper = _async_wrapper(memo, returning) if memo.is_async else _sync_wrapper(memo, returning)
        functools.update_wrapper(wrapper, fn)
        wrapper.__signature__ = inspect.signature(fn)  # functools.wraps alone costs Celery its argument check
        wrapper.memo = memo
        layers.mark(wrapper, fn, "memoize")
        return wrapper

    return decorate


def _sync_wrapper(memo: Memo[Any, Any], returning: Callable[[], Flow[None]] | None) -> Any:
    engine = memo.engine

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if returning is not None:
            engine.runner.run(returning())
        key = memo.entry_key(args, kwargs)
        fetcher = memo.fetcher
        engine.flusher.started()
        try:
            found = engine.runner.call(fetcher.entries.get(key))
        except StoreError as error:
            memo.trouble(str(error))
            return engine.runner.run(fetcher.alone(key, memo.compute(key, args, kwargs)))
        value = fetcher.hit(found)
        if value is MISSING:
            return engine.runner.run(fetcher.fetch(key, memo.compute(key, args, kwargs), found))
        return value

    return wrapper


def _async_wrapper(memo: Memo[Any, Any], returning: Callable[[], Flow[None]] | None) -> Any:
    engine = memo.engine

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if returning is not None:
            await engine.aio_runner.run(returning())
        key = memo.entry_key(args, kwargs)
        fetcher = memo.fetcher
        engine.flusher.aio_started()
        flow: Flow[Any]
        try:
            found = await engine.aio_runner.call(fetcher.entries.get(key))
        except StoreError as error:
            memo.trouble(str(error))
            flow = fetcher.alone(key, memo.aio.compute(key, args, kwargs))
        else:
            value = fetcher.hit(found)
            if value is not MISSING:
                return value
            flow = fetcher.fetch(key, memo.aio.compute(key, args, kwargs), found)
        return await engine.aio_runner.run(flow)

    return wrapper
