"""The demo's outside API: a small HTTP/1.1 server on loopback with a hard limit and a log of every arrival.

It allows `rate` calls in any one second and `concurrency` at once, and answers 429 with Retry-After above that. A
rejected call does not count into the window: the limit is on work done, and if refusals counted, callers that ask too
often would lock themselves out for good and Retry-After would be a lie.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import signal
import time
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import click

if TYPE_CHECKING:
    from typing import TextIO


_HEAD_MAX = 16 * 1024  # bytes


class Limit:
    """An exact sliding window over the accepted arrivals, and a cap on the calls being served."""

    def __init__(self, rate: int, concurrency: int, latency: float, window: float = 1.0) -> None:
        self.rate, self.concurrency, self.latency, self.window = rate, concurrency, latency, window
        self.serving = 0
        self._accepted: deque[float] = deque()

    def refusal(self, now: float) -> float:
        """Seconds until asking again can succeed; 0 when the call is accepted, and then it is counted.

        A window is half-open: a call exactly one window ago is out of it.
        """
        while self._accepted and now - self._accepted[0] >= self.window:
            self._accepted.popleft()
        if len(self._accepted) >= self.rate:
            return self._accepted[0] + self.window - now
        if self.serving >= self.concurrency:
            return self.latency
        self._accepted.append(now)
        self.serving += 1
        return 0.0


class _Request(NamedTuple):
    method: str
    path: str
    keep_alive: bool


class _Answer(NamedTuple):
    status: HTTPStatus
    body: dict[str, Any]
    headers: str = ""


class Upstream:
    """Serves `/lookup/{name}` within the limit, and `/healthz` always.

    log: gets one JSON line for each arrival, written and flushed before its answer is sent: whoever has all the answers
    can read all the lines. `t` and `end` are seconds on the machine's monotonic clock.
    """

    def __init__(self, limit: Limit, log: TextIO) -> None:
        self.limit, self._log = limit, log

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        try:
            while True:
                request = _parse(await reader.readuntil(b"\r\n\r\n"))
                writer.write(_response(await self._handle(request, time.monotonic()), request))
                await writer.drain()
                if not request.keep_alive:
                    return
        except (ValueError, asyncio.LimitOverrunError):
            broken = _Answer(HTTPStatus.BAD_REQUEST, {"error": "send a plain GET with a head below 16 KB"})
            writer.write(_response(broken, _Request("", "", keep_alive=False)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the caller has gone
        finally:
            writer.close()

    async def _handle(self, request: _Request, arrived: float) -> _Answer:
        answer = await self._route(request, arrived)
        record = {"t": arrived, "end": time.monotonic(), "path": request.path, "status": answer.status}
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()
        return answer

    async def _route(self, request: _Request, arrived: float) -> _Answer:
        if request.method != "GET":
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "GET only"}, "Allow: GET\r\n")
        if request.path == "/healthz":
            return _Answer(HTTPStatus.OK, {"ok": True})
        if not request.path.startswith("/lookup/"):
            return _Answer(HTTPStatus.NOT_FOUND, {"error": "ask for /lookup/{name}"})
        if wait := self.limit.refusal(arrived):
            # RFC 9110, 10.2.3: Retry-After is in whole seconds; the body has it exactly
            body = {"error": "too many requests", "retry_after": wait}
            return _Answer(HTTPStatus.TOO_MANY_REQUESTS, body, f"Retry-After: {math.ceil(wait)}\r\n")
        return await self._lookup(unquote(request.path.removeprefix("/lookup/")))

    async def _lookup(self, name: str) -> _Answer:
        try:
            await asyncio.sleep(self.limit.latency)
        finally:
            self.limit.serving -= 1
        return _Answer(HTTPStatus.OK, {"name": name, "value": hashlib.sha256(name.encode()).hexdigest()[:12]})


def _parse(head: bytes) -> _Request:
    """The request of a head as sent; ValueError when it is none, or announces a body."""
    line, *rest = head.decode("latin-1").split("\r\n")
    method, path, version = line.split(" ")
    fields = {name.strip().lower(): value.strip().lower() for name, _, value in (each.partition(":") for each in rest)}
    if not version.startswith("HTTP/1.") or fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
        raise ValueError(line)
    asked = fields.get("connection", "")
    return _Request(method, path, keep_alive="close" not in asked and (version == "HTTP/1.1" or "keep-alive" in asked))


def _response(answer: _Answer, request: _Request) -> bytes:
    body = json.dumps(answer.body).encode()
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if request.keep_alive else 'close'}\r\n{answer.headers}\r\n"
    )
    return head.encode() + body


async def _run(limit: Limit, log: TextIO, port: int) -> None:
    """Serve until SIGTERM, SIGINT or the end of the parent process; calls that are under way are answered."""
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    serve = Upstream(limit, log).serve
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024, limit=_HEAD_MAX)
    watch = asyncio.create_task(_when_orphaned(os.getppid(), over))  # noted before anybody hears of us
    click.echo(json.dumps({"port": server.sockets[0].getsockname()[1]}))
    await over.wait()
    watch.cancel()
    server.close()
    await asyncio.sleep(limit.latency if limit.serving else 0)


async def _when_orphaned(parent: int, over: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of a parent's end on every system
        await asyncio.sleep(0.25)
    over.set()


@click.command()
@click.option("--log", type=click.File("a", encoding="utf-8"), required=True, help="File that gets a line per arrival.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one")
@click.option("--rate", type=click.IntRange(1), default=50, show_default=True, help="Calls in any one second.")
@click.option("--concurrency", type=click.IntRange(1), default=5, show_default=True, help="Calls at once.")
@click.option("--latency", type=click.FloatRange(0), default=0.04, show_default=True, help="Seconds a call takes.")
def main(log: TextIO, port: int, rate: int, concurrency: int, latency: float) -> None:
    """Run the API on 127.0.0.1; prints its port as a JSON line when it is ready."""
    asyncio.run(_run(Limit(rate, concurrency, latency), log, port))


if __name__ == "__main__":
    main()
