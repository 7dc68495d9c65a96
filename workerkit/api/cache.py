"""`kit.cache`: plain values with a TTL, in the store that memoized results live in."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from workerkit.api.engine import Engine
from workerkit.cache.entries import Entries, EntryKey, Found, envelope
from workerkit.core.call import Call
from workerkit.core.codec import Codec
from workerkit.core.durations import Duration, seconds
from workerkit.core.encoding import digest
from workerkit.core.events import CacheTrouble
from workerkit.core.flow import Flow
from workerkit.errors import CodecError, StoreError


class Cache:
    """Values of JSON types under keys of your own. Keys become digests, so they may be any text.

    When Redis is down `get` answers its default and `set` answers False; `delete` raises StoreError, because what
    should be gone would come back.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._codec = Codec()

    @cached_property
    def aio(self) -> AioCache:
        return AioCache(self)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default` when there is none, it has expired, or it cannot be read."""
        return self.engine.runner.run(self.getting(key, default))

    def set(self, key: str, value: Any, *, ttl: Duration) -> bool:
        """Store `value` for `ttl` (seconds, or text such as "10m"); whether it was stored.

        Raises CodecError for a value that JSON cannot hold or that passes `workerkit_max_bytes`.
        """
        return self.engine.runner.run(self.setting(key, value, ttl))

    def delete(self, key: str) -> bool:
        """Forget the value under `key`; whether there was one. Raises StoreError when Redis cannot be used."""
        return self.engine.runner.call(self.deleting(key))

    def getting(self, key: str, default: Any) -> Flow[Any]:
        try:
            found: Found = yield from self._entries.get(self._key(key))
        except StoreError as error:
            self._trouble(str(error))
            return default
        if found.envelope is None:
            if found.there:
                self._trouble("an entry could not be read")
            return default
        try:
            return self._codec.load(found.envelope.body)
        except CodecError as error:
            self._trouble(str(error))
            return default

    def setting(self, key: str, value: Any, ttl: Duration) -> Flow[bool]:
        life = seconds(ttl, what="cache.set: ttl")
        body = self._codec.dump(value)
        where = self._key(key)
        try:
            now_us: int = yield from _SERVER_TIME
            made = envelope(body, self._codec.id, now_us=now_us, soft=life, hard=life, cost=0.0)
            data = self._entries.pack(where, made)
            yield from self._entries.put(where, data, max(1, int(life * 1000)))
        except StoreError as error:
            self._trouble(str(error))
            return False
        return True

    def deleting(self, key: str) -> Call[bool]:
        return self._entries.drop(self._key(key))

    @cached_property
    def _entries(self) -> Entries:
        settings = self.engine.settings
        return Entries(secret=self.engine.secret, max_bytes=settings.max_bytes, lease_ms=1)

    def _key(self, key: str) -> EntryKey:
        part = digest(key.encode("utf-8", "surrogatepass"), self.engine.secret)
        keys = self.engine.keys("c")
        return EntryKey(keys.key("plain", part, "v"), keys.key("plain", part, "l"))

    def _trouble(self, reason: str) -> None:
        self.engine.hooks.emit(CacheTrouble("kit.cache", reason))


class AioCache:
    """`kit.cache.aio`: the same verbs, awaited."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get(self, key: str, default: Any = None) -> Any:
        """As `Cache.get`."""
        return await self._cache.engine.aio_runner.run(self._cache.getting(key, default))

    async def set(self, key: str, value: Any, *, ttl: Duration) -> bool:
        """As `Cache.set`."""
        return await self._cache.engine.aio_runner.run(self._cache.setting(key, value, ttl))

    async def delete(self, key: str) -> bool:
        """As `Cache.delete`."""
        return await self._cache.engine.aio_runner.call(self._cache.deleting(key))


def _microseconds(reply: Any) -> int:
    return int(reply[0]) * 1_000_000 + int(reply[1])


_SERVER_TIME = Call("cache.time", "cache", _microseconds, args=("TIME",))
