"""Hears which keys change, by RESP3 client tracking on a connection of its own, so that a process may keep entries.

Tracking dies with its connection, and a connection may die unnoticed. So a PING goes out every `interval` seconds and
must be answered within `timeout`: what was changed before it arrived is told before its answer, however slow the line.
After a change that nobody was told of, followers are closed within `interval + timeout`.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakMethod

import hiredis

from workerkit.core.call import Word
from workerkit.core.events import BackgroundTrouble
from workerkit.io.link import INCOMPLETE, Lost, connect, new_reader, pack
from workerkit.io.server import Server

INTERVAL = 1.0
TIMEOUT = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
_READ_SIZE = 65536  # more than a TLS record, so that TLS never holds what a poll cannot see


class Follower(Protocol):
    """Who is told of changes, always by the one thread (or loop) that listens; what it does must be short."""

    def open(self) -> None:
        """Every change from now on will be told."""

    def drop(self, key: str) -> None:
        """This key was written, deleted or evicted."""

    def close(self) -> None:
        """Changes may be missed from now on."""

    def forked(self) -> None:
        """This is a new process: no other thread lives in it, and nobody listens yet."""


class Channel:
    """Who follows what, from one connection to the next. All but `follow` is for the thread or loop that listens."""

    def __init__(self, server: Server) -> None:
        self._hooks = server.hooks
        self._lock = threading.Lock()
        self.followers: dict[Follower, tuple[str, ...]] = {}
        self._open: dict[Follower, tuple[str, ...]] = {}
        self._pause = FIRST_PAUSE
        self._reported = False

    def follow(self, follower: Follower, prefixes: tuple[str, ...]) -> None:
        with self._lock:
            self.followers = {**self.followers, follower: prefixes}  # a copy: the listener may be reading the other

    def open(self, tracked: set[str]) -> None:
        """Open those whose prefixes are all `tracked`."""
        if tracked:
            self._pause, self._reported = FIRST_PAUSE, False
        for follower, prefixes in self.followers.items():
            if follower not in self._open and tracked.issuperset(prefixes):
                self._open[follower] = prefixes
                follower.open()

    def tell(self, keys: list[bytes] | None) -> None:
        """Tell of changed keys; None says that all are gone."""
        if keys is None:
            for follower in self._open:
                follower.close()
                follower.open()
            return
        for key in keys:
            text = key.decode("utf-8", "surrogateescape")
            for follower, prefixes in self._open.items():
                if text.startswith(prefixes):
                    follower.drop(text)

    def close(self) -> None:
        """The connection is lost, or given up."""
        closing, self._open = self._open, {}
        for follower in closing:
            follower.close()

    def failed(self, error: Exception) -> float:
        """Report the first failure in a row; the seconds to wait before the next try."""
        if not self._reported:
            self._reported = True
            reason = str(error) or type(error).__name__
            self._hooks.emit(BackgroundTrouble("listening for changed cache entries", reason))
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def forked(self) -> None:
        self._lock = threading.Lock()
        self._open = {}
        for follower in self.followers:
            follower.forked()


class Session:
    """What is said on one connection: `outgoing` bytes are to be sent, `incoming` ones were received; no I/O.

    Either raises when the connection is of no use any more. Times are monotonic seconds.
    """

    def __init__(self, server: Server, channel: Channel, interval: float, timeout: float) -> None:
        self._server = server
        self._channel = channel
        self._interval = interval
        self._timeout = timeout
        self._reader = new_reader()
        # Who takes the next reply, and when it is overdue.
        self._awaited: deque[tuple[Callable[[Any], None], float]] = deque()
        self._begun = False
        self._greeted: list[Any] = []
        self._asked: set[str] = set()
        self._tracked: set[str] = set()
        self._ping_at = 0.0

    @property
    def wake_at(self) -> float:
        """When there will be something to do, even if nothing comes in."""
        return min(self._ping_at, self._awaited[0][1]) if self._awaited else self._ping_at

    def outgoing(self, now: float) -> bytes:
        """The commands that are due. Raises Lost when an answer is overdue."""
        if self._awaited and now >= self._awaited[0][1]:
            raise Lost("no answer in time", sent=True)
        commands: list[tuple[Word, ...]] = []
        if not self._begun:
            self._begun = True
            greeting = self._server.greeting()
            commands += greeting
            self._expect(lambda reply: self._greet(reply, len(greeting)), now, len(greeting))
        new = {prefix for prefixes in self._channel.followers.values() for prefix in prefixes} - self._asked
        if new:
            self._asked |= new
            commands.append(("CLIENT", "TRACKING", "ON", "BCAST", *_each_after("PREFIX", new)))
            self._expect(lambda reply: self._track(reply, new), now)
        else:
            self._channel.open(self._tracked)  # a new follower of what is tracked already
        if now >= self._ping_at:
            self._ping_at = now + self._interval
            commands.append(("PING",))
            self._expect(_check, now)
        return b"".join([pack(command) for command in commands])

    def incoming(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets(False)) is not INCOMPLETE:
            if isinstance(reply, hiredis.PushNotification):
                if reply[0] == b"invalidate":
                    self._channel.tell(reply[1])
            elif self._awaited:
                self._awaited.popleft()[0](reply)
            else:
                raise Lost("an answer to nothing", sent=True)

    def _expect(self, take: Callable[[Any], None], now: float, replies: int = 1) -> None:
        self._awaited.extend([(take, now + self._timeout)] * replies)

    def _greet(self, reply: Any, replies: int) -> None:
        self._greeted.append(reply)
        if len(self._greeted) == replies:
            self._server.greeted(self._greeted, time.monotonic())

    def _track(self, reply: Any, prefixes: set[str]) -> None:
        _check(reply)
        self._tracked |= prefixes
        self._channel.open(self._tracked)


def _check(reply: Any) -> None:
    if isinstance(reply, Exception):
        raise reply


def _each_after(word: str, names: set[str]) -> list[str]:
    return [each for name in sorted(names) for each in (word, name)]


class Listener:
    """Listens for the threads of one process, in a thread of its own that the first use starts.

    Nothing it meets is raised to its users: followers are closed, and the trouble is an event, one for each outage.
    """

    def __init__(self, server: Server, *, interval: float = INTERVAL, timeout: float = TIMEOUT) -> None:
        self._server = server
        self._interval = interval
        self._timeout = timeout
        self._channel = Channel(server)
        self._sock: socket.socket | None = None
        self._bell: socket.socket | None = None
        self._reset()
        forked = WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (act := forked()) and act())

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(self, follower: Follower, *prefixes: str) -> None:
        """Tell `follower` of changes to keys that begin with one of `prefixes`; no two may overlap, but be the same."""
        self._channel.follow(follower, prefixes)
        self.start()
        self._ring()

    def start(self) -> None:
        """See to it that somebody listens; for every use after which a process may have forked. Costs nothing then."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._bell, heard = socket.socketpair()
                self._bell.setblocking(False)
                heard.setblocking(False)
                thread = threading.Thread(target=self._run, args=(heard,), name="workerkit-l1", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        """End the thread and its connection, and close the followers; the next use starts anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()  # which wakes the thread as well as ringing it would
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._timeout)  # it may be in the middle of connecting
        self._channel.close()

    def _ring(self) -> None:
        """Wake the thread; a bell that rings already is as good, and so is one that has gone with its thread."""
        bell = self._bell
        if bell is not None:
            with contextlib.suppress(OSError):
                bell.send(b"!")

    def _forked(self) -> None:
        for sock in (self._sock, self._bell):
            if sock is not None:
                sock.close()  # this process's hold on it; the parent keeps its own
        self._sock = self._bell = None
        self._reset()
        self._channel.forked()

    @property
    def _is_mine(self) -> bool:
        return self._thread is threading.current_thread()

    def _run(self, heard: socket.socket) -> None:
        with self._lock:
            pass  # until `start` has written down whose turn it is
        with heard:
            while self._is_mine:
                try:
                    self._listen(heard)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, and tried again
                    if self._is_mine:
                        self._channel.close()
                        self._rest(heard, self._channel.failed(error))

    def _rest(self, heard: socket.socket, pause: float) -> None:
        until = time.monotonic() + pause
        while self._is_mine and (left := until - time.monotonic()) > 0:
            select.select([heard], [], [], left)
            _silence(heard)

    def _listen(self, heard: socket.socket) -> None:
        sock = self._sock = connect(self._server.address, time.monotonic() + self._timeout)
        try:
            sock.setblocking(False)
            session = Session(self._server, self._channel, self._interval, self._timeout)
            poll = select.poll()
            poll.register(heard, select.POLLIN)
            rest = b""
            while self._is_mine:
                rest += session.outgoing(time.monotonic())
                rest = rest[_send(sock, rest) :]
                poll.register(sock, select.POLLIN | (select.POLLOUT if rest else 0))
                # Read only what has something: each read lets other threads run, and busy ones do not soon let go.
                ready = dict(poll.poll(max(0.0, session.wake_at - time.monotonic()) * 1000))
                if heard.fileno() in ready:
                    _silence(heard)
                if sock.fileno() in ready and self._is_mine:
                    session.incoming(_receive(sock))
        finally:
            self._sock = None
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # a forked child may hold it open
            sock.close()


def _silence(heard: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        heard.recv(4096)


def _send(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data) if data else 0
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0


def _receive(sock: socket.socket) -> bytes:
    """What has come in, perhaps nothing. Raises Lost at the end of the stream."""
    try:
        data = sock.recv(_READ_SIZE)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return b""
    if not data:
        raise Lost("the server closed the connection", sent=True)
    return data
