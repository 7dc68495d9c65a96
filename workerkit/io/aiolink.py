"""One connection to Redis for an event loop: redis-py's asyncio connection under an absolute deadline."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Iterable
from typing import Any

import redis
import redis.asyncio

from workerkit.core.call import Word
from workerkit.io.address import Address
from workerkit.io.link import Lost, connection_arguments, pack

_CLASSES: dict[str, Any] = {
    "tcp": redis.asyncio.Connection,
    "tls": redis.asyncio.SSLConnection,
    "unix": redis.asyncio.UnixDomainSocketConnection,
}


class AioLink:
    """A connection of one event loop."""

    __slots__ = ("_connection", "_poll", "used")

    def __init__(self, address: Address) -> None:
        self._connection = _CLASSES[address.transport](
            redis_connect_func=_prepare_parser,
            # The deadline is asyncio's, around all of it; redis-py's own timeouts start anew at every read.
            socket_timeout=None,
            socket_connect_timeout=None,
            **connection_arguments(address),
        )
        if address.tls:
            self._connection.ssl_context.context = address.tls
        self._poll = select.poll()
        self.used = 0.0

    async def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Connect and shake hands; answers the handshake's replies (errors as values)."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._connection.connect()
        except (redis.RedisError, OSError) as error:
            raise Lost(str(error) or "no answer in time", sent=False) from None
        self._poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        try:
            return await self.exchange(commands, deadline)
        except Lost as lost:
            raise Lost(str(lost), sent=False) from None  # a handshake executes nothing

    def hung_up(self) -> bool:
        """Whether the server closed this idle connection, or sent what nobody asked for."""
        # The socket itself is asked: the loop may not have had a turn since, and the reader knows no reset as an end.
        writer = self._writer
        return writer is None or writer.is_closing() or bool(self._poll.poll(0))

    @property
    def _writer(self) -> Any:
        return self._connection._writer  # noqa: SLF001 - redis-py tells the state of its stream only by reading

    async def exchange(self, commands: Iterable[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Send the commands in one write and read a reply for each; error replies are values.

        Raises Lost when the connection broke or the deadline passed.
        """
        commands = tuple(commands)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._connection.send_packed_command(pack(commands), check_health=False)
                return [await self._read() for _ in commands]
        except (redis.RedisError, OSError) as error:
            raise Lost(str(error) or "no answer in time", sent=True) from None

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except (redis.ResponseError, redis.exceptions.BusyLoadingError, redis.AuthenticationError) as error:
            return error

    async def close(self) -> None:
        # Without waiting: the peer may be the reason, and a cancelled caller must not be held up.
        await self._connection.disconnect(nowait=True)


async def _prepare_parser(connection: Any) -> None:
    # What redis-py's own on_connect does first; without it the parser has no stream to read from.
    connection._parser.on_connect(connection)  # noqa: SLF001 - see above
