"""One connection to Redis: a socket and a parser under an absolute deadline.

redis-py's timeouts hold for each `recv`; a server that dribbles one byte at a time keeps such a call alive for ever.
Here every blocking step gets what is left of the one deadline of the Call. Its connections are not used at all: they
hang up after some error replies, and reconnect without our handshake.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import hiredis
import redis
import redis.connection

from workerkit.core.call import Word
from workerkit.io.address import Address

_READ_SIZE = 65536
_INCOMPLETE = object()
_PASSING = (
    redis.exceptions.BusyLoadingError,
    redis.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)


class Lost(Exception):
    """The server could not be reached, or the connection broke; `sent` says whether the Calls had gone out."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class NotYet(Lost):
    """The server met a handshake with an answer that passes (see `passes`)."""

    def __init__(self, answer: Exception) -> None:
        super().__init__(str(answer), sent=False)
        self.answer = answer


def passes(answer: Any) -> bool:
    """Whether a reply proves that nothing was executed, by a state that ends: failover, start-up, a long script."""
    return isinstance(answer, _PASSING) or (isinstance(answer, Exception) and str(answer).startswith("BUSY "))


def connection_arguments(address: Address) -> dict[str, Any]:
    """What redis-py's connections (sync and async) are made with: no retries, no health checks, nothing hidden."""
    arguments: dict[str, Any] = {
        **address.arguments,
        "protocol": 3,
        "health_check_interval": 0,
        "retry": None,
    }
    try:
        from redis.maint_notifications import MaintNotificationsConfig
    except ImportError:
        pass  # redis-py before 7
    else:
        arguments["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
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
    return b"".join([hiredis.pack_command(_without_numbers(command)) for command in commands])


def _without_numbers(command: tuple[Word, ...]) -> Any:
    # hiredis turns numbers into text itself, and crashes the process when a signal handler raises while it does.
    return tuple([str(word) if isinstance(word, (int, float)) else word for word in command])


def connect(address: Address, deadline: float) -> socket.socket:
    """A connected socket that never blocks; raises OSError."""
    if address.transport == "unix":
        sock = _dial(socket.AF_UNIX, address.arguments["path"], deadline)
    else:
        sock = _dial_any(address.arguments["host"], address.arguments["port"], deadline)
    try:
        if address.tls:
            sock.settimeout(_left(deadline))  # Python holds this one for the whole of the handshake
            sock = address.tls.wrap_socket(sock, server_hostname=address.arguments["host"])
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _dial_any(host: str, port: int, deadline: float) -> socket.socket:
    """The first of the host's addresses that answers."""
    errors = []
    for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            sock = _dial(family, where, deadline)
        except OSError as error:
            errors.append(error)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
    raise errors[0]


def _dial(family: int, where: Any, deadline: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(deadline))
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


class Link:
    """A connection, and its watch for a server that hung up."""

    __slots__ = ("__weakref__", "_address", "_buffer", "_poll", "_reader", "_sock", "used")

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sock: socket.socket | None = None
        self._poll = select.poll()
        self._buffer = bytearray(_READ_SIZE)
        self._reader = hiredis.Reader(
            protocolError=redis.InvalidResponse,
            replyError=redis.connection.DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self.used = 0.0

    def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Connect and shake hands; answers the handshake's replies (errors as values)."""
        try:
            self._sock = connect(self._address, deadline)
        except OSError as error:
            raise Lost(_reason(error), sent=False) from None
        self._poll.register(self._sock, select.POLLIN)
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
        commands = tuple(commands)
        sock = self._sock
        if sock is None:
            raise Lost("it is closed", sent=False)
        try:
            self._send(sock, pack(commands), deadline)
            return [self._read(sock, deadline) for _ in commands]
        except (OSError, redis.RedisError) as error:
            raise Lost(_reason(error), sent=True) from None

    def _send(self, sock: socket.socket, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while True:
            try:
                sent = sock.send(rest)
            except (BlockingIOError, ssl.SSLWantWriteError):
                sent = 0
            if sent == len(rest):
                return
            rest = rest[sent:]
            room = select.poll()
            room.register(sock, select.POLLOUT)
            room.poll(_left(deadline) * 1000)

    def _read(self, sock: socket.socket, deadline: float) -> Any:
        reader = self._reader
        while (reply := reader.gets(False)) is _INCOMPLETE or isinstance(reply, hiredis.PushNotification):
            # Poll instead of the socket's own timeout saves two system calls. TLS may hold more than it has given yet.
            pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
            if not pending and not self._poll.poll(_left(deadline) * 1000):
                continue
            try:
                size = sock.recv_into(self._buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            if not size:
                raise ConnectionResetError("the server closed the connection")
            reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # its stub knows no buffers, it does
        return reply

    def close(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # a forked child may hold it open
            self._sock.close()


def _reason(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
