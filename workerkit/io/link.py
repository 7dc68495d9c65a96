"""One connection to Redis: redis-py's, under an absolute deadline.

redis-py's timeouts hold for each `recv`; a server that dribbles one byte at a time keeps such a call alive for ever.
Here every blocking step gets what is left of the one deadline of the Call.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from typing import Any

import hiredis
import redis

from workerkit.core.call import Word
from workerkit.io.address import Address


class Lost(Exception):
    """The server could not be reached, or the connection broke; `sent` says whether the Calls had gone out."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Deadline:
    """The moment (monotonic seconds) by which the current Call must have ended."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0

    def left(self) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("out of time")
        return left


class _DeadlineSocket:
    """A socket whose every send and receive ends by the deadline; everything else is the socket's own."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left())  # Python holds this one for the whole of sendall
        self._sock.sendall(data)

    def recv_into(self, buffer: bytearray) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv(size)

    def settimeout(self, value: float | None) -> None:
        """The deadline decides."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Timed:
    """Gives redis-py's connection classes a deadline in the place of their timeouts.

    redis-py reads both attributes afresh for every address it tries, so connecting, too, ends by the deadline.
    """

    def __init__(self, **arguments: Any) -> None:
        self.deadline = Deadline()
        super().__init__(**arguments)

    @property
    def socket_timeout(self) -> float:
        return self.deadline.left()

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        """The deadline decides."""

    socket_connect_timeout = socket_timeout

    def _connect(self) -> Any:
        return _DeadlineSocket(super()._connect(), self.deadline)  # type: ignore[misc]  # the mixin's other base has it


class _Tcp(_Timed, redis.Connection):
    pass


class _Tls(_Timed, redis.SSLConnection):
    pass


class _Unix(_Timed, redis.UnixDomainSocketConnection):
    pass


_CLASSES: dict[str, Any] = {"tcp": _Tcp, "tls": _Tls, "unix": _Unix}


def connection_arguments(address: Address) -> dict[str, Any]:
    """What redis-py's connections (sync and async) are made with: no retries, no health checks, nothing hidden."""
    from redis.maint_notifications import MaintNotificationsConfig

    arguments: dict[str, Any] = {
        **address.arguments,
        "protocol": 3,
        "health_check_interval": 0,
        "retry": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if address.transport != "unix":
        arguments["socket_keepalive"] = True
    return arguments


def greeting(address: Address, name: str, *, inspect: bool) -> list[tuple[Word, ...]]:
    """The commands of a handshake, sent in one write: RESP3, login, name, database, clock, eviction policy."""
    login = ("AUTH", address.username or "default", address.password) if address.password else ()
    commands: list[tuple[Word, ...]] = [("HELLO", 3, *login, "SETNAME", name)]
    if address.db:
        commands.append(("SELECT", address.db))
    commands.append(("TIME",))
    if inspect:
        commands.append(("INFO", "memory"))
    return commands


def pack(commands: Iterable[tuple[Word, ...]]) -> bytes:
    return b"".join(hiredis.pack_command(command) for command in commands)


class Link:
    """A connection with its deadline and its watch for a server that hung up."""

    __slots__ = ("__weakref__", "_connection", "_poll", "used")

    def __init__(self, address: Address) -> None:
        # Only `send` and `read` are used of redis-py: the handshake is ours, in one write.
        self._connection = _CLASSES[address.transport](
            redis_connect_func=_prepare_parser, **connection_arguments(address)
        )
        self._poll = select.poll()
        self.used = 0.0

    def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Connect and shake hands; answers the handshake's replies (errors as values)."""
        self._connection.deadline.at = deadline
        try:
            self._connection.connect()
        except (redis.RedisError, OSError) as error:
            raise Lost(str(error) or type(error).__name__, sent=False) from None
        self._poll.register(self._connection._sock, select.POLLIN)
        try:
            return self.exchange(commands, deadline)
        except Lost as lost:
            raise Lost(str(lost), sent=False) from None  # a handshake executes nothing

    def hung_up(self) -> bool:
        """Whether the server closed this idle connection, or sent what nobody asked for."""
        return bool(self._poll.poll(0))

    def exchange(self, commands: Iterable[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Send the commands in one write and read a reply for each; error replies are values.

        Raises Lost when the connection broke or the deadline passed.
        """
        connection = self._connection
        connection.deadline.at = deadline
        commands = tuple(commands)
        try:
            connection.send_packed_command((pack(commands),), check_health=False)
            return [self._read() for _ in commands]
        except (redis.RedisError, OSError) as error:
            raise Lost(str(error) or type(error).__name__, sent=True) from None

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except (redis.ResponseError, redis.exceptions.BusyLoadingError, redis.AuthenticationError) as error:
            return error

    def close(self) -> None:
        self._connection.disconnect()


def _prepare_parser(connection: Any) -> None:
    # What redis-py's own on_connect does first; without it the parser has no socket to read from.
    connection._parser.on_connect(connection)
