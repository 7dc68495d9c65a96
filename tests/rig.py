"""What the tests of the I/O floor share: both runners on a server of the test's choice, and the Calls they make."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from workerkit.core.call import Call, as_is
from workerkit.core.events import Event, Hooks
from workerkit.core.lua import Script
from workerkit.io.address import parse_address
from workerkit.io.aiorunner import AioRunner
from workerkit.io.pool import Pool
from workerkit.io.runner import Runner
from workerkit.io.server import PoolOptions, Server
from workerkit.testing.servers import RunningServer, _make_certificates

CHARGE = Script("tests.faults.lua", "charge")


def command(*words: str | bytes | int, once: bool = False) -> Call[Any]:
    return Call(str(words[0]).lower(), "cache", as_is, args=words, once=once)


def get(key: str) -> Call[Any]:
    return command("GET", key)


def charge(key: str, script: Script = CHARGE) -> Call[Any]:
    """Counts one; must not run twice, and not after its caller has given up."""
    return Call("charge", "cache", as_is, script=script, keys=(key,))


@dataclass
class Rig:
    """Both runners on one server, and the events it emitted."""

    url: str = field(repr=False)
    timeout: float = 10.0  # long, so that a stalled machine is not taken for a server that does not answer
    options: PoolOptions = field(default_factory=PoolOptions)
    guards: bool = False
    eviction: Any = "refuse"
    role: str = "redis"

    def __post_init__(self) -> None:
        self.events: list[Event] = []
        self.server = Server(
            self.role,
            parse_address(self.url, what=f"{self.role}_url"),
            options=self.options,
            hooks=Hooks(self.events.append),
            guards=self.guards,
            eviction=self.eviction,
        )
        self.runner = Runner({"cache": self.server, "guard": self.server}, self.timeout)
        self.aio = AioRunner({"cache": self.server, "guard": self.server}, self.timeout)

    @property
    def pool(self) -> Pool:
        return self.runner.pools["cache"]

    def warm(self, connections: int = 1) -> None:
        """Open connections and load the script, so that only what follows meets the fault."""
        links = [self.pool._grow(time.monotonic() + 10) for _ in range(connections)]
        for link in links:
            self.pool.give(link)
        self.runner.call(command("SCRIPT", "LOAD", CHARGE.source), timeout=10.0)

    def close(self) -> None:
        self.runner.close()


def outcome(act: Callable[[], Any]) -> Any:
    """What `act` answers, or the error it raises."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return error


async def aio_outcome(awaitable: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return error


def at_once(acts: Iterable[Callable[[], Any]]) -> list[Any]:
    """The outcomes of all `acts`, each on a thread of its own."""
    acts = list(acts)
    results: list[Any] = [None] * len(acts)

    def run(number: int) -> None:
        results[number] = outcome(acts[number])

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def until(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for a state that something else brings about; answers it."""
    deadline = time.monotonic() + seconds
    while not (answer := true()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come about")
        time.sleep(0.001)
    return answer


async def aio_until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


class TlsFront:
    """TLS for a server that may have none: a relay on a free port, with a certificate from its own authority."""

    def __init__(self, server: RunningServer, home: Path) -> None:
        home.mkdir(exist_ok=True)
        _make_certificates(home)
        self.ca = home / "ca.crt"
        self._home = home
        self._socket = str(server.socket)

    def url(self, host: str = "localhost", ca: Path | None = None) -> str:
        return f"rediss://{host}:{self.port}/0?ssl_ca_certs={ca or self.ca}"

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve(started)], daemon=True)
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._home / "server.crt", self._home / "server.key")
        self._loop.set_exception_handler(lambda *_: None)  # clients that refuse the certificate, or just leave
        listening = await asyncio.start_server(self._relay, "localhost", 0, family=socket.AF_INET, ssl=context)
        self.port = listening.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._over.wait()
        listening.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._socket)
        await asyncio.wait(
            [asyncio.create_task(_pump(reader, to_server)), asyncio.create_task(_pump(from_server, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        writer.transport.abort()
        to_server.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()


class Child:
    """A forked child that runs `act` and sends back what it answers, which JSON must be able to hold."""

    def __init__(self, act: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                answer = outcome(act)
                os.write(writing, json.dumps(repr(answer) if isinstance(answer, Exception) else answer).encode())
            finally:
                os._exit(0)
        os.close(writing)
        self._reading = reading

    def answer(self, seconds: float = 20.0) -> Any:
        """What it answered; None when it hung (then it is killed) or died."""
        data = b""
        deadline = time.monotonic() + seconds
        while select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self._reading, 65536)
            if not chunk:
                break
            data += chunk
        else:
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._reading)
        os.waitpid(self._pid, 0)
        return json.loads(data) if data else None
