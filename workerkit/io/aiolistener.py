"""The listener for coroutines: a task of each event loop, and a connection that drops keys as its bytes arrive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from workerkit.io.link import Lost
from workerkit.io.listener import INTERVAL, TIMEOUT, Channel, Follower, Session
from workerkit.io.server import Server

BREATH = 0.02  # seconds for which coroutines may go on without a turn of the loop, and still be told of changes


class AioListener:
    """As `Listener`, for the event loop in which it is made."""

    def __init__(self, server: Server, *, interval: float = INTERVAL, timeout: float = TIMEOUT) -> None:
        self._server = server
        self._interval = interval
        self._timeout = timeout
        self._channel = Channel(server)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.breath = 0.0

    def follow(self, follower: Follower, *prefixes: str) -> None:
        """As `Listener.follow`."""
        self._channel.follow(follower, prefixes)
        self.start()
        self._changed.set()

    def start(self) -> None:
        """See to it that somebody listens."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="workerkit-l1")

    async def stop(self) -> None:
        """End the task and its connection, and close the followers; the next use starts anew."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def breathe(self) -> None:
        """Let the loop hear what has come in. To be awaited before a hit once `breath` (monotonic seconds) is over.

        Hits suspend nobody: a coroutine that has nothing else would keep the loop from ever telling of a change.
        """
        self.breath = time.monotonic() + BREATH
        # The first turn finds what has come in behind this coroutine, the second in front of it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, and tried again
                await asyncio.sleep(self._channel.failed(error))

    async def _listen(self) -> None:
        session = Session(self._server, self._channel, self._interval, self._timeout)
        wire = _Wire(session, self._channel, self._changed)
        async with asyncio.timeout(self._timeout):
            transport = await self._connect(wire)
        try:
            while wire.error is None:
                self._changed.clear()
                transport.write(session.outgoing(time.monotonic()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(session.wake_at - time.monotonic()):
                        await self._changed.wait()
            raise wire.error
        finally:
            wire.end()
            transport.abort()

    async def _connect(self, wire: _Wire) -> asyncio.WriteTransport:
        loop, address = asyncio.get_running_loop(), self._server.address
        arguments = address.arguments
        if address.transport == "unix":
            return (await loop.create_unix_connection(lambda: wire, arguments["path"]))[0]
        tls: dict[str, Any] = {"ssl": address.tls, "server_hostname": arguments["host"]} if address.tls else {}
        return (await loop.create_connection(lambda: wire, arguments["host"], arguments["port"], **tls))[0]


class _Wire(asyncio.Protocol):
    """One connection: tells of changes, and of its end, without waiting for the task's turn."""

    def __init__(self, session: Session, channel: Channel, changed: asyncio.Event) -> None:
        self._session = session
        self._channel = channel
        self._changed = changed
        self.error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        try:
            self._session.incoming(data)
        except Exception as error:  # noqa: BLE001 - the task raises it
            self._fail(error)
        else:
            self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or Lost("the server closed the connection", sent=True))

    def end(self) -> None:
        """What else it hears concerns nobody: the next connection may be open already."""
        self._fail(Lost("it is closed", sent=True))

    def _fail(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self._channel.close()
            self._changed.set()
