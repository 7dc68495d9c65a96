"""One connection to Redis for an event loop: a transport and a parser under an absolute deadline."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterable
from typing import Any

import hiredis
import redis

from workerkit.core.call import Word
from workerkit.io.address import Address
from workerkit.io.link import INCOMPLETE, Lost, new_reader, pack, reason


class AioLink(asyncio.Protocol):
    """A connection of one event loop."""

    _transport: asyncio.Transport

    def __init__(self, address: Address) -> None:
        self._address = address
        self._poll = select.poll()
        self._reader = new_reader()
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[list[Any]] | None = None
        self._lost: Exception | None = None
        self.used = 0.0

    async def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Connect and shake hands; answers the handshake's replies (errors as values)."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                self._transport = await self._connect()
        except OSError as error:
            raise Lost(reason(error), sent=False) from None
        sock = self._transport.get_extra_info("socket")
        if self._address.transport != "unix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._poll.register(sock, select.POLLIN)
        try:
            return await self.exchange(commands, deadline)
        except Lost as lost:
            raise Lost(str(lost), sent=False) from None  # a handshake executes nothing

    async def _connect(self) -> Any:
        loop, where = asyncio.get_running_loop(), self._address.arguments
        if self._address.transport == "unix":
            connection = await loop.create_unix_connection(lambda: self, where["path"])
        else:
            connection = await loop.create_connection(lambda: self, where["host"], where["port"], ssl=self._address.tls)
        return connection[0]

    def hung_up(self) -> bool:
        """Whether the server closed this idle connection, or sent what nobody asked for."""
        # The socket is asked because the loop may not have had a turn since, and not it alone: once it is closed, its
        # number may be another's.
        return self._lost is not None or bool(self._replies) or bool(self._poll.poll(0))

    async def ask(self, command: bytes, deadline: float) -> Any:
        """As `exchange`, of one packed command."""
        return (await self._talk(command, 1, deadline))[0]

    async def exchange(self, commands: Iterable[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Send the commands in one write and read a reply for each; error replies are values.

        Raises Lost when the connection broke or the deadline passed.
        """
        packed = [pack(command) for command in commands]
        return await self._talk(b"".join(packed), len(packed), deadline)

    async def _talk(self, data: bytes, replies: int, deadline: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting = waiting
        self._wanted = replies
        if self._lost is not None:
            self._end(self._lost)
        else:
            self._transport.write(data)
        alarm = loop.call_later(deadline - time.monotonic(), self._end, TimeoutError())
        try:
            return await waiting
        except (redis.RedisError, OSError) as error:
            raise Lost(reason(error), sent=True) from None
        finally:
            self._waiting = None
            alarm.cancel()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets(False)) is not INCOMPLETE:
                if not isinstance(reply, hiredis.PushNotification):
                    self._replies.append(reply)
        except redis.RedisError as error:
            self._end(error)
            return
        waiting = self._waiting
        if waiting is not None and len(self._replies) >= self._wanted and not waiting.done():
            waiting.set_result(self._replies[: self._wanted])
            del self._replies[: self._wanted]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionResetError("the server closed the connection")
        self._end(self._lost)

    def _end(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def close(self) -> None:
        """Without waiting: the peer may be the reason, and a cancelled caller must not be held up."""
        if hasattr(self, "_transport"):
            self._transport.abort()
