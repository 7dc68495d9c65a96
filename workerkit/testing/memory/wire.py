"""Connections without a wire: what the pools, and redis-py's clients, hold instead of sockets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import redis
import redis.asyncio

from workerkit.core.call import Word
from workerkit.io.aiolink import AioLink
from workerkit.io.link import Link, new_reader, pack
from workerkit.testing.memory.commands.registry import perform
from workerkit.testing.memory.replies import Refused, for_client
from workerkit.testing.memory.store import Store


def answers(store: Store, data: bytes) -> list[Any]:
    """The replies to packed commands, as hiredis reads them; errors are redis-py's exceptions, as values."""
    reader = new_reader()
    reader.feed(data)
    found = []
    while reader.has_data() and isinstance(words := reader.gets(False), list):
        found.append(answer(store, words))
    return found


def answer(store: Store, words: Sequence[bytes]) -> Any:
    """The reply to one command."""
    with store.turn():
        try:
            return for_client(perform(store, words))
        except Refused as refused:
            return for_client(refused)


class Conversation:
    """One connection's commands and replies: what `answers` does, and transactions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queued: list[Sequence[bytes]] | None = None
        self.replies: deque[Any] = deque()

    def say(self, data: bytes) -> None:
        reader = new_reader()
        reader.feed(data)
        while reader.has_data() and isinstance(words := reader.gets(False), list):
            self.replies.append(self._answer(words))

    def _answer(self, words: Sequence[bytes]) -> Any:
        name, queued = words[0].upper(), self._queued
        if name == b"MULTI" and queued is None:
            self._queued = []
            return b"OK"
        if queued is None:
            return answer(self._store, words)
        if name not in {b"EXEC", b"DISCARD"}:
            queued.append(words)
            return b"QUEUED"
        self._queued = None
        if name == b"DISCARD":
            return b"OK"
        with self._store.turn():
            return [answer(self._store, each) for each in queued]


class MemoryConnection(redis.Connection):
    """What redis-py's clients hold."""

    def __init__(self, *, store: Store, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]  # redis-py's
        self._store = store
        self._conversation = Conversation(store)

    def connect(self) -> None:
        """It is connected."""

    def disconnect(self, *args: Any, **options: Any) -> None:
        self._conversation = Conversation(self._store)

    def can_read(self, timeout: float | None = 0) -> bool:
        return bool(self._conversation.replies)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self._conversation.say(_joined(command))

    def read_response(self, *args: Any, **options: Any) -> Any:
        return _raised(self._conversation.replies.popleft())


class MemoryAioConnection(redis.asyncio.Connection):
    """As `MemoryConnection`, for coroutines."""

    def __init__(self, *, store: Store, **options: Any) -> None:
        super().__init__(**options)
        self._store = store
        self._conversation = Conversation(store)

    @property
    def is_connected(self) -> bool:
        return True

    async def connect(self) -> None:
        """It is connected."""

    async def disconnect(self, *args: Any, **options: Any) -> None:
        self._conversation = Conversation(self._store)

    async def can_read(self) -> bool:
        return bool(self._conversation.replies)

    async def can_read_destructive(self) -> bool:
        return bool(self._conversation.replies)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self._conversation.say(_joined(command))
        await asyncio.sleep(0)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        return _raised(self._conversation.replies.popleft())


def _joined(command: Any) -> bytes:
    return command if isinstance(command, bytes) else b"".join(command)


def _raised(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def client(store: Store) -> redis.Redis:
    """A redis-py client of `store`."""
    pool = redis.ConnectionPool(connection_class=MemoryConnection, store=store, protocol=3)
    return redis.Redis(connection_pool=pool)


class MemoryLink(Link):
    """A sync connection. It is never lost, and its deadline does not pass."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store
        self.used = 0.0

    def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        return self.exchange(commands, deadline)

    def hung_up(self) -> bool:
        return False

    def ask(self, command: bytes, deadline: float) -> Any:
        return answers(self._store, command)[0]

    def exchange(self, commands: Iterable[tuple[Word, ...]], deadline: float) -> list[Any]:
        return answers(self._store, b"".join([pack(command) for command in commands]))

    def close(self) -> None:
        """There is nothing to close."""


class MemoryAioLink(AioLink):
    """As `MemoryLink`, for an event loop; as with a real one, others have their turn before the reply."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.used = 0.0

    async def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        return await self.exchange(commands, deadline)

    def hung_up(self) -> bool:
        return False

    async def ask(self, command: bytes, deadline: float) -> Any:
        return (await self._answered(command))[0]

    async def exchange(self, commands: Iterable[tuple[Word, ...]], deadline: float) -> list[Any]:
        return await self._answered(b"".join([pack(command) for command in commands]))

    async def _answered(self, data: bytes) -> list[Any]:
        found = answers(self._store, data)
        await asyncio.sleep(0)
        return found

    def close(self) -> None:
        """There is nothing to close."""
