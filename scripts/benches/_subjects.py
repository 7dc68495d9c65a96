"""The same cached function, by us and by each peer: context managers that yield it.

All hold the same value as JSON on the same server, so that only the way to it differs. Everything else is as each
library does it by default, apart from sizes of pools that the number of callers would exceed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import hiredis
from _rows import Skip

from workerkit import WorkerKit

VALUE = {
    "id": 7,
    "name": "Ada Lovelace",
    "plan": "pro",
    "balance": 1234.5,
    "roles": ["admin", "author"],
    "active": True,
}
TEXT = json.dumps(VALUE)
TTL = 3600
TAGS = ("user:{user_id}", "team:{user_id}", "everybody")
Function = Callable[[int], Any]
AioFunction = Callable[[int], Awaitable[Any]]


def need(module: str) -> Any:
    """The peer's module, or Skip."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Skip(f"{error.name} is not installed") from None


@contextlib.contextmanager
def workerkit(url: str, **options: Any) -> Iterator[Function]:
    with WorkerKit(url=url) as kit:

        @kit.memoize(TTL, **options)
        def profile(user_id: int) -> dict[str, Any]:
            return VALUE

        yield profile


@contextlib.contextmanager
def workerkit_text(url: str, **options: Any) -> Iterator[Function]:
    """A value that cannot be changed by those who get it."""
    with WorkerKit(url=url) as kit:

        @kit.memoize(TTL, **options)
        def profile(user_id: int) -> str:
            return TEXT

        yield profile


@contextlib.asynccontextmanager
async def workerkit_aio(url: str, **options: Any) -> AsyncIterator[AioFunction]:
    async with WorkerKit(url=url) as kit:

        @kit.memoize(TTL, **options)
        async def profile(user_id: int) -> dict[str, Any]:
            return VALUE

        yield profile


@contextlib.contextmanager
def redis_py(url: str) -> Iterator[Function]:
    """What one writes without a library; the key is put together, nothing else is done."""
    client = need("redis").Redis.from_url(url)

    def profile(user_id: int) -> Any:
        found = client.get(f"profile:{user_id}")
        if found is None:
            client.set(f"profile:{user_id}", json.dumps(VALUE), ex=TTL)
            return VALUE
        return json.loads(found)

    yield profile
    client.close()


@contextlib.contextmanager
def bare(url: str) -> Iterator[Function]:
    """No client: the command packed beforehand, a socket, hiredis. What is left is what no client can save."""
    address, key = urlsplit(url), "bare"
    command, reader = hiredis.pack_command(("GET", key)), hiredis.Reader()
    with need("redis").Redis.from_url(url) as client:
        client.set(key, json.dumps(VALUE), ex=TTL)
    with socket.create_connection((address.hostname, address.port)) as held:
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def profile(user_id: int) -> Any:
            held.send(command)
            reader.feed(held.recv(65536))
            return json.loads(reader.gets())

        yield profile


@contextlib.contextmanager
def dogpile(url: str) -> Iterator[Function]:
    region = need("dogpile.cache").make_region(
        serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
    )
    region.configure(
        "dogpile.cache.redis", expiration_time=TTL, arguments={"url": url, "redis_expiration_time": 2 * TTL}
    )

    @region.cache_on_arguments()  # type: ignore[untyped-decorator]  # loaded by name
    def profile(user_id: int) -> Any:
        return VALUE

    yield profile
    region.backend.writer_client.close()


@contextlib.asynccontextmanager
async def cashews(url: str, *, tags: tuple[str, ...] = ()) -> AsyncIterator[AioFunction]:
    """`url`: of a server, or "mem://"."""
    cache = need("cashews").Cache()
    cache.setup(url, **({} if url == "mem://" else {"pickle_type": "json"}))

    @cache(ttl=TTL, key="profile:{user_id}", tags=tags)  # type: ignore[untyped-decorator]  # as above
    async def profile(user_id: int) -> Any:
        return VALUE

    yield profile
    await cache.close()


@contextlib.contextmanager
def cachetools(lock: Any = None, value: Any = VALUE) -> Iterator[Function]:
    peer = need("cachetools")

    @peer.cached(peer.LRUCache(1024), lock=lock)  # type: ignore[untyped-decorator]  # as above
    def profile(user_id: int) -> Any:
        return value

    yield profile


@contextlib.contextmanager
def lru_cache() -> Iterator[Function]:
    @functools.lru_cache(1024)
    def profile(user_id: int) -> Any:
        return VALUE

    yield profile
