"""One connection to Redis: a socket and a parser under an absolute deadline.

redis-py's timeouts hold for each `recv`; a server that dribbles one byte at a time keeps such a call alive for ever.
Here every blocking step gets what is left of the one deadline of the Call. Its connections are not used at all: they
hang up after some error replies, and reconnect without our handshake.
"""

from __future__ import annotations

import _socket
import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from typing import Any

import hiredis
import redis
import redis.connection

from workerkit.core.call import Word
from workerkit.io.address import Address

_SIZE = 65536  # bytes of one read or write at most
_STEP = 0.02  # seconds that one read or write may block
_STEP_OVER = (BlockingIOError, TimeoutError)
_TEXT = frozenset((str, bytes))
INCOMPLETE = object()
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


def greeting(address: Address, name: str) -> list[tuple[Word, ...]]:
    """The commands of a handshake, sent in one write: RESP3, login, name, database, clock, eviction policy."""
    login = ("AUTH", address.username or "default", address.password) if address.password else ()
    commands: list[tuple[Word, ...]] = [("HELLO", 3, *login, "SETNAME", name)]
    if address.db:
        commands.append(("SELECT", address.db))
    commands += [("TIME",), ("INFO", "memory")]
    return commands


def new_reader() -> hiredis.Reader:
    """A parser: error replies are redis-py's exceptions, as values; INCOMPLETE when there is no whole reply yet."""
    return hiredis.Reader(
        protocolError=redis.InvalidResponse,
        replyError=redis.connection.DefaultParser.parse_error,
        notEnoughData=INCOMPLETE,
    )


def pack(command: tuple[Word, ...]) -> bytes:
    """The bytes of a command."""
    if not _TEXT.issuperset(map(type, command)):
        # hiredis turns numbers into text itself, and crashes the process when a signal handler raises while it does.
        command = tuple([str(word) if isinstance(word, (int, float)) else word for word in command])
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows no mixed tuples
    return packed


def connect(address: Address, deadline: float) -> socket.socket:
    """A connected socket whose reads and writes block for `_STEP` at most; raises OSError."""
    if address.transport == "unix":
        sock = _dial(socket.AF_UNIX, address.arguments["path"], deadline)
    else:
        sock = _dial_any(address.arguments["host"], address.arguments["port"], deadline)
    try:
        if address.tls:
            sock.settimeout(_left(deadline))  # Python holds this one for the whole of the handshake
            sock = address.tls.wrap_socket(sock, server_hostname=address.arguments["host"])
        _limit(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _limit(sock: socket.socket) -> None:
    """Let no read or write block for longer than `_STEP`: it raises one of `_STEP_OVER` then."""
    if isinstance(sock, ssl.SSLSocket) or not isinstance(sock, _socket.socket):
        sock.settimeout(_STEP)  # TLS waits in its own way, and so do sockets that gevent put in place of Python's
        return
    # By the kernel: Python's own timeout is a poll before each read and write.
    sock.setblocking(True)
    step = struct.pack("ll", 0, int(_STEP * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, step)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, step)


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
    _sock: socket.socket

    def __init__(self, address: Address) -> None:
        self._address = address
        self._poll = select.poll()
        self._buffer = bytearray(_SIZE)
        self._reader = new_reader()
        self.used = 0.0

    def open(self, commands: list[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Connect and shake hands; answers the handshake's replies (errors as values)."""
        try:
            self._sock = connect(self._address, deadline)
        except OSError as error:
            raise Lost(reason(error), sent=False) from None
        self._poll.register(self._sock, select.POLLIN)
        try:
            return self.exchange(commands, deadline)
        except Lost as lost:
            raise Lost(str(lost), sent=False) from None  # a handshake executes nothing

    def hung_up(self) -> bool:
        """Whether the server closed this idle connection, or sent what nobody asked for."""
        return bool(self._poll.poll(0))

    def ask(self, command: bytes, deadline: float) -> Any:
        """Send one packed command and read its reply. As `exchange`, without the lists: most Calls are alone."""
        try:
            self._send(command, deadline)
            self._receive()
            return self._reply(deadline)
        except (OSError, redis.RedisError) as error:
            raise Lost(reason(error), sent=True) from None

    def exchange(self, commands: Iterable[tuple[Word, ...]], deadline: float) -> list[Any]:
        """Send the commands in one write and read a reply for each; error replies are values.

        Raises Lost when the connection broke or the deadline passed.
        """
        packed = [pack(command) for command in commands]
        try:
            self._send(b"".join(packed), deadline)
            return [self._reply(deadline) for _ in packed]
        except (OSError, redis.RedisError) as error:
            raise Lost(reason(error), sent=True) from None

    def _send(self, data: bytes, deadline: float) -> None:
        at = 0
        while True:
            try:
                # A piece at a time, for the kernel may wait anew for every page of a large one.
                at += self._sock.send(data[at : at + _SIZE])
            except _STEP_OVER:
                pass
            if at == len(data):
                return
            _left(deadline)

    def _reply(self, deadline: float) -> Any:
        while (reply := self._reader.gets(False)) is INCOMPLETE or isinstance(reply, hiredis.PushNotification):
            _left(deadline)
            self._receive()
        return reply

    def _receive(self) -> None:
        try:
            size = self._sock.recv_into(self._buffer)
        except _STEP_OVER:
            return
        if not size:
            raise ConnectionResetError("the server closed the connection")
        self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # its stub knows no buffers, it does

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never opened
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # a forked child may hold it open
            self._sock.close()


def reason(error: Exception) -> str:
    """What to say of a connection that broke."""
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
