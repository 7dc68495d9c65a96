"""`kit.cache`: values under keys of your own, with the machinery that memoized results have; and what all of it did."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar, overload

from workerkit.api.engine import Engine
from workerkit.api.function import make_codec
from workerkit.cache.computation import Work
from workerkit.cache.entries import EntryKey
from workerkit.cache.failures import Failures
from workerkit.cache.fetch import Fetcher
from workerkit.cache.ledger import CacheStats, Index, Ledger, merged
from workerkit.cache.policy import Policy, Terms, milliseconds
from workerkit.cache.tags import Versions
from workerkit.cache.windows import Windows
from workerkit.core.call import PING, Call, as_is
from workerkit.core.durations import Duration, seconds
from workerkit.core.encoding import digest
from workerkit.core.events import CacheTrouble, RefreshFailed
from workerkit.core.flow import Batch, Flow, Invoke
from workerkit.errors import DefinitionError, StoreError

T = TypeVar("T")
V = TypeVar("V")
NAME = "plain"


class Cache:
    """Values of JSON types (or of the setting `workerkit_codec`) under keys of your own, which may be any text.

    When Redis is down the reading verbs answer their default, `set` and `set_many` answer False and `get_or_compute`
    computes; `delete` and `invalidate` raise StoreError, because what should be gone would come back.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @cached_property
    def aio(self) -> AioCache:
        """The same verbs as coroutines."""
        return AioCache(self)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default` when there is none, it has expired, or it cannot be read."""
        return self.engine.runner.run(self.getting((key,))).get(key, default)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those of `keys` that have one, by key, in one round trip (two when some have tags).

        When Redis is down none has: the answer is empty.
        """
        return self.engine.runner.run(self.getting(_texts(keys)))

    def set(self, key: str, value: Any, *, ttl: Duration, tags: Iterable[str] = ()) -> bool:
        """Store `value` for `ttl` (seconds, or text such as "10m") under `tags`; whether it was stored.

        Raises CodecError for a value that JSON cannot hold or that passes `workerkit_max_bytes`.
        """
        return self.engine.runner.run(self.setting({key: value}, ttl, tags))

    def set_many(self, values: Mapping[str, Any], *, ttl: Duration, tags: Iterable[str] = ()) -> bool:
        """Store each of `values` under its key, all in one write; whether all were stored. Raises as `set`."""
        return self.engine.runner.run(self.setting(values, ttl, tags))

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], V],
        *,
        ttl: Duration,
        stale: Duration | None = None,
        tags: Iterable[str] = (),
    ) -> V:
        """The value under `key`, or what `compute()` answers, which is stored; once for all processes.

        For `stale` longer than `ttl` the old value is served while one caller computes anew. When Redis is down it
        computes. Raises what `compute` raises, CodecError as `set`, DefinitionError for a coroutine function.
        """
        if inspect.iscoroutinefunction(compute):
            raise DefinitionError("kit.cache.get_or_compute: compute is a coroutine function: put .aio before the verb")
        value: V = self.engine.runner.run(self.fetching(key, compute, ttl, stale, tags))
        return value

    def delete(self, key: str) -> bool:
        """Forget the value under `key`; whether there was one. Raises StoreError when Redis cannot be used."""
        return self.engine.runner.call(self.deleting(key))

    def invalidate(self, *, tag: str) -> None:
        """Forget everything under `tag`, memoized results too, and void what is being computed under it.

        Raises StoreError when Redis cannot be used.
        """
        self.engine.runner.run(self.invalidating(tag))

    def stats(self) -> dict[str, CacheStats]:
        """What the cache did in the whole fleet, by function; "kit.cache" is this object's own verbs.

        Processes add their counts every second; this one's are added first. Raises StoreError.
        """
        return self.engine.runner.run(self.counting())

    def getting(self, keys: tuple[str, ...]) -> Flow[dict[str, Any]]:
        """`get_many` as a Flow."""
        places = [self._place(key) for key in keys]
        if not places:
            return {}
        policy = self._fetcher.policy
        try:
            reply = yield from Call("cache.get", "cache", as_is, args=("MGET", *[place.value for place in places]))
            found = [policy.entries.found(place, data) for place, data in zip(places, reply, strict=True)]
            parts = tuple({part for each in found if each.envelope for part, _ in each.envelope.tags})
            versions = set((yield from policy.entries.tags.read(parts)) if parts else ())
        except StoreError as error:
            self._trouble(str(error))
            return {}
        values = {}
        for key, each in zip(keys, found, strict=True):
            # A read of one entry by its own verbs: judged, loaded and counted as a memoized one.
            value = self._fetcher.judge(each, versions)
            if value is not None:
                values[key] = value.value
        return values

    def setting(self, values: Mapping[str, Any], ttl: Duration, tags: Iterable[str]) -> Flow[bool]:
        """`set_many` as a Flow."""
        life = seconds(ttl, what="cache.set: ttl")
        policy, parts = self._fetcher.policy, self._parts(tags)
        bodies = [(self._place(key), policy.codec.dump(value)) for key, value in values.items()]
        if not bodies:
            return True
        try:
            yield from PING  # an entry is stamped with the server's time, which the first reply tells
            versions: Versions = yield from policy.touch(parts, life)
            puts = []
            for place, body in bodies:
                data = policy.pack(place, body, versions, fresh=life, hard=life, cost=0.0)
                puts.append(policy.entries.put(place, data, milliseconds(life)))
            yield from Batch(*puts)
        except StoreError as error:
            self._trouble(str(error))
            return False
        return True

    def fetching(
        self, key: str, compute: Callable[[], Any], ttl: Duration, stale: Duration | None, tags: Iterable[str]
    ) -> Flow[Any]:
        """`get_or_compute` as a Flow."""
        life = seconds(ttl, what="cache.get_or_compute: ttl")
        after = 0.0 if stale is None else seconds(stale, what="cache.get_or_compute: stale")
        fetcher: Fetcher[Any] = Fetcher(self._policy(lambda value: life, Windows(after, early=self._early)))
        work = Work(self._place(key), self._parts(tags), lambda computation: Invoke(compute))
        return (yield from fetcher.recall(work)).value

    def deleting(self, key: str) -> Call[bool]:
        """`delete` as a Call."""
        return self._fetcher.entries.drop(self._place(key))

    def invalidating(self, tag: str) -> Flow[None]:
        """`invalidate` as a Flow."""
        (part,) = self._parts((tag,))
        yield from self.engine.tags.bump(part)
        self.engine.forget_tag(part)

    def counting(self) -> Flow[dict[str, CacheStats]]:
        """`stats` as a Flow."""
        yield from self.engine.flusher.flow()
        keys = self.engine.keys("c")
        names = yield from Index(keys).read()
        stats = yield from Batch(*[Ledger(keys, name).read() for name, _ in names])
        return merged(zip([shown for _, shown in names], stats, strict=True))

    @cached_property
    def _ledger(self) -> Ledger:
        ledger = Ledger(self.engine.keys("c"), NAME, "kit.cache")
        self.engine.flusher.add(ledger)
        return ledger

    @cached_property
    def _fetcher(self) -> Fetcher[Any]:
        return Fetcher(self._policy(lambda value: None, Windows()))

    @property
    def _early(self) -> float:
        return self.engine.settings.early

    def _policy(self, life: Callable[[Any], float | None], windows: Windows) -> Policy:
        engine, settings = self.engine, self.engine.settings
        return Policy(
            engine.entries(lease=settings.lease),
            make_codec(settings.codec, Any),
            self._ledger,
            windows,
            Failures(None),
            life=life,
            wait=settings.wait,
            now_us=engine.now_us,
            evicts=engine.evicts,
            terms=Terms(lambda error: isinstance(error, engine.personal), engine.host.comes_back, engine.host.puts_off),
            failed=lambda error: engine.hooks.emit(RefreshFailed("kit.cache", type(error).__name__)),
            trouble=self._trouble,
        )

    def _parts(self, tags: Iterable[str]) -> tuple[str, ...]:
        return tuple([self.engine.tags.part(tag) for tag in _texts(tags)])

    def _place(self, key: str) -> EntryKey:
        if not isinstance(key, str):
            raise DefinitionError(f"kit.cache: a key is a text, not {type(key).__name__}: write str(key)")
        part = digest(key.encode("utf-8", "surrogatepass"), self.engine.secret)
        keys = self.engine.keys("c")
        return EntryKey(keys.key(NAME, part, "v"), keys.key(NAME, part, "l"))

    def _trouble(self, reason: str) -> None:
        self._ledger.errors += 1
        self.engine.hooks.emit(CacheTrouble("kit.cache", reason))


class AioCache:
    """`kit.cache.aio`: the same verbs, awaited."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get(self, key: str, default: Any = None) -> Any:
        """As `Cache.get`."""
        return (await self._run(self._cache.getting((key,)))).get(key, default)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As `Cache.get_many`."""
        return await self._run(self._cache.getting(_texts(keys)))

    async def set(self, key: str, value: Any, *, ttl: Duration, tags: Iterable[str] = ()) -> bool:
        """As `Cache.set`."""
        return await self._run(self._cache.setting({key: value}, ttl, tags))

    async def set_many(self, values: Mapping[str, Any], *, ttl: Duration, tags: Iterable[str] = ()) -> bool:
        """As `Cache.set_many`."""
        return await self._run(self._cache.setting(values, ttl, tags))

    @overload
    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: Duration,
        stale: Duration | None = None,
        tags: Iterable[str] = (),
    ) -> V: ...
    @overload
    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], V],
        *,
        ttl: Duration,
        stale: Duration | None = None,
        tags: Iterable[str] = (),
    ) -> V: ...
    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Any],
        *,
        ttl: Duration,
        stale: Duration | None = None,
        tags: Iterable[str] = (),
    ) -> Any:
        """As `Cache.get_or_compute`; `compute` may be a coroutine function."""
        return await self._run(self._cache.fetching(key, compute, ttl, stale, tags))

    async def delete(self, key: str) -> bool:
        """As `Cache.delete`."""
        return await self._cache.engine.aio_runner.call(self._cache.deleting(key))

    async def invalidate(self, *, tag: str) -> None:
        """As `Cache.invalidate`."""
        await self._run(self._cache.invalidating(tag))

    async def stats(self) -> dict[str, CacheStats]:
        """As `Cache.stats`."""
        return await self._run(self._cache.counting())

    async def _run(self, flow: Flow[T]) -> T:
        return await self._cache.engine.aio_runner.run(flow)


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise DefinitionError(f"kit.cache: give a list of keys or tags, such as [{texts!r}], not one text")
    return tuple(texts)
