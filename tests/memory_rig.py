"""The memory at the address of a server, so that tests written for a server run on it as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import redis

from workerkit.errors import StoreRefused
from workerkit.io import aiolistener, listener
from workerkit.io.server import Server
from workerkit.testing.memory.commands.registry import command
from workerkit.testing.memory.listener import MemoryAioListener, MemoryListener
from workerkit.testing.memory.replies import written
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.values import Hash, SortedSet, Stream
from workerkit.testing.memory.wire import (
    MemoryAioConnection,
    MemoryAioLink,
    MemoryConnection,
    MemoryLink,
    answer,
    client,
)


@command("DUMP", 2)
def dump(store: Store, words: Any) -> Any:
    """For tests that compare what is there: all of a value, as no server would write it."""
    value = store.find(words[0])
    plain = (value.entries, value.last) if isinstance(value, Stream) else value
    return None if value is None else repr(value.ranked if isinstance(value, SortedSet) else plain).encode()


class Set(Hash):
    """Here only to be of another type than what is expected."""

    __slots__ = ()


@command("SADD", -3)
def sadd(store: Store, words: Any) -> Any:
    store.put(words[0], Set.fromkeys(words[1:], b""))
    return len(words) - 1


PATH = "/nowhere/workerkit-memory"


class AtMemory:
    """What a test uses of a RunningServer."""

    kind = "memory"
    url = unix_url = f"unix://{PATH}"

    def __init__(self) -> None:
        self.store = Store()

    def cli(self, *words: str | int | bytes) -> object:
        """As the real one answers: RESP2, and StoreRefused for an error."""
        reply = answer(self.store, [word if isinstance(word, bytes) else str(word).encode() for word in words])
        if isinstance(reply, Exception):
            raise StoreRefused(str(reply))
        return _plain(reply)


def _plain(reply: Any) -> Any:
    if isinstance(reply, float):
        return written(reply).decode()
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "surrogateescape")
    if isinstance(reply, dict):
        return [_plain(each) for pair in reply.items() for each in pair]
    if isinstance(reply, list):
        scored = bool(reply) and all(isinstance(each, list) and isinstance(each[-1], float) for each in reply)
        flat = [part for each in reply for part in each] if scored else reply
        return [_plain(each) for each in flat]
    return reply


@contextmanager
def at_memory() -> Iterator[AtMemory]:
    """Within the block, whoever connects to the address is connected to the memory."""
    there = AtMemory()
    store = there.store

    def here(server: Server) -> bool:
        return server.address.arguments.get("path") == PATH

    def either(name: str, made: Any) -> None:
        before = getattr(Server, name)
        patch.setattr(Server, name, lambda server: made() if here(server) else before(server))

    def listening(module: ModuleType, name: str, kind: Any) -> None:
        real = getattr(module, name)

        def make(server: Server, **options: Any) -> Any:
            return kind(server, store) if here(server) else real(server, **options)

        patch.setattr(module, name, make)

    def redis_py(name: str, kind: Any) -> None:
        def mine(path: str, **options: Any) -> Any:
            return kind(store=store, **options)

        patch.setattr(Server, name, property(lambda server: mine if here(server) else None))

    from_url = redis.Redis.from_url

    def connected(url: str, **options: Any) -> redis.Redis:
        return client(store) if url == there.url else from_url(url, **options)

    with pytest.MonkeyPatch.context() as patch:
        either("link", partial(MemoryLink, store))
        either("aio_link", partial(MemoryAioLink, store))
        listening(listener, "Listener", MemoryListener)
        listening(aiolistener, "AioListener", MemoryAioListener)
        redis_py("connection_class", MemoryConnection)
        redis_py("aio_connection_class", MemoryAioConnection)
        patch.setattr(
            redis.Redis,
            "from_url",
            lambda url, **options: client(store) if url == there.url else from_url(url, **options),
        )
        yield there
