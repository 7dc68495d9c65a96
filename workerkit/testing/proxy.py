"""A TCP proxy that does to the traffic what a bad network does; for tests, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from concurrent.futures import Future
from functools import partial
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

from workerkit.errors import DefinitionError

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


class _Mode(NamedTuple):
    name: Literal["normal", "latency", "black_hole", "reset", "half_reply", "slice", "refuse"] = "normal"
    amount: float = 0.0


class FaultProxy:
    """Stands between clients and one server, on a free port of 127.0.0.1; a context manager.

    upstream: the server's URL, `redis://host:port` or `unix:///path`; TLS passes through as it is.
    A mode is set by its method, holds at once for open and for new connections, and lasts until the next one is set.
    Counted: `connections` taken, `requests` (chunks that came from clients) and `bytes_up` (their bytes).
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        if not (parts.path if parts.scheme == "unix" else parts.hostname and parts.port):
            raise DefinitionError("upstream: write redis://host:port or unix:///path")
        self._address = parts.path if parts.scheme == "unix" else (parts.hostname, parts.port)
        self.port = 0
        self.connections = self.requests = self.bytes_up = 0
        self._mode = _Mode()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def normal(self) -> None:
        """Pass everything on."""
        self._set(_Mode())

    def latency(self, seconds: float) -> None:
        """Every request reaches the server later by this much."""
        self._set(_Mode("latency", seconds))

    def black_hole(self) -> None:
        """Take connections and bytes, and pass nothing on in either direction.

        What was taken is passed on when the mode ends, as TCP does after a partition: requests may run late.
        """
        self._set(_Mode("black_hole"))

    def reset(self) -> None:
        """Answer every open and every new connection with a TCP reset."""
        self._set(_Mode("reset"))

    def half_reply(self, count: int) -> None:
        """Requests reach the server; of its next reply the client gets `count` bytes and then the end of the stream."""
        self._set(_Mode("half_reply", count))

    def slice(self, seconds: float) -> None:
        """Replies arrive byte by byte, one every so many seconds."""
        self._set(_Mode("slice", seconds))

    def refuse(self) -> None:
        """Nobody listens: open connections end, new ones are refused."""
        self._set(_Mode("refuse"))

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=[self._serve(started)], name="fault-proxy", daemon=True
        )
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _set(self, mode: _Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._apply(mode), self._loop).result()

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._over, self._changed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        self._listen()
        started.set_result(None)
        await self._over.wait()
        self._unlisten()  # and asyncio.run ends the clients

    async def _apply(self, mode: _Mode) -> None:
        self._mode, changed, self._changed = mode, self._changed, asyncio.Event()
        changed.set()
        if mode.name == "refuse":
            self._unlisten()
        elif self._listener.fileno() < 0:
            self._listen()
        if mode.name in {"reset", "refuse"}:
            await _end(*self._clients)

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept)

    def _unlisten(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        """No coroutine: one that is cancelled at the wrong moment loses a connection without closing it."""
        client, _ = self._listener.accept()
        client.setblocking(False)
        self.connections += 1
        task = self._loop.create_task(self._relay(client))
        self._clients.add(task)
        task.add_done_callback(partial(self._close, client))  # also when it is cancelled before its first step

    def _close(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._clients.discard(task)
        if self._mode.name == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        client.close()

    async def _relay(self, client: socket.socket) -> None:
        """Pump both directions until either ends; a server that cannot be reached ends them at once."""
        if self._mode.name == "reset":
            return
        with self._upstream_socket() as server:
            try:
                await self._loop.sock_connect(server, self._address)
            except OSError:
                return
            pumps = [asyncio.create_task(self._up(client, server)), asyncio.create_task(self._down(server, client))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _end(*pumps)

    def _upstream_socket(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET)
        server.setblocking(False)
        return server

    async def _up(self, client: socket.socket, server: socket.socket) -> None:
        while chunk := await self._loop.sock_recv(client, 65536):
            self.requests += 1
            self.bytes_up += len(chunk)
            mode = await self._passing()
            if mode.name == "latency":
                await asyncio.sleep(mode.amount)
            await self._loop.sock_sendall(server, chunk)

    async def _down(self, server: socket.socket, client: socket.socket) -> None:
        while chunk := await self._loop.sock_recv(server, 65536):
            mode = await self._passing()
            if mode.name == "half_reply":
                await self._loop.sock_sendall(client, chunk[: int(mode.amount)])
                return
            if mode.name == "slice":
                chunk = await self._trickle(chunk, client, mode)
            await self._loop.sock_sendall(client, chunk)

    async def _trickle(self, chunk: bytes, client: socket.socket, mode: _Mode) -> bytes:
        """Send byte by byte while the mode lasts; returns what is left when it ends."""
        while chunk and self._mode is mode:
            await self._loop.sock_sendall(client, chunk[:1])
            chunk = chunk[1:]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), mode.amount)
        return chunk

    async def _passing(self) -> _Mode:
        while self._mode.name == "black_hole":
            await self._changed.wait()
        return self._mode


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel them and wait; that a connection broke is what they are for."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
