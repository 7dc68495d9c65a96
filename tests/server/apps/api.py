"""An API on loopback that does what its paths say, and the four client libraries behind one face."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import httpx
import requests

from workerkit.http import AioRateLimitedTransport, RateLimitedAdapter, RateLimitedTransport, rate_limited

BODY = b"0123456789" * 10


class Api:
    """`/ok` answers; `/slow` when `go` is set; `/stream` sends half its body, the rest when `go` is set; `/drop` hangs
    up; `/redirect` leads to `/ok`; `/refuse` says 429 with `headers`; `/then` calls `act` first."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[str, float]] = []
        self.go = threading.Event()
        self.headers: list[tuple[str, str]] = []
        self.act: Callable[[], Any] = lambda: None
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each body waits 40 ms for the acknowledgement of its head

            def do_GET(self) -> None:
                api.arrivals.append((self.path, time.monotonic()))
                with contextlib.suppress(ConnectionError):  # the client has left
                    api._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        if path == "/drop":
            handler.close_connection = True
            return
        if path == "/slow":
            self.go.wait(30)
        if path == "/then":
            self.act()
        handler.send_response({"/refuse": 429, "/redirect": 302}.get(path, 200))
        for name, text in [*self.headers, ("Location", "/ok"), ("Content-Length", str(len(BODY)))]:
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(BODY[:50])
        if path == "/stream":
            self.go.wait(30)
        handler.wfile.write(BODY[50:])

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


class Httpx:
    """`get` answers (status, body); `open` a response whose body is not read yet, to be `read`, `shut` or `drop`ped."""

    failures: tuple[type[Exception], ...] = (httpx.TransportError,)

    def __init__(self, limiter: Any, **options: Any) -> None:
        self.client = httpx.Client(transport=RateLimitedTransport(limiter, **options), timeout=30)

    def get(self, url: str, timeout: float = 30.0) -> tuple[int, bytes]:
        response = self.client.get(url, follow_redirects=True, timeout=timeout)
        return response.status_code, response.content

    def open(self, url: str) -> None:
        self.response = self.client.send(self.client.build_request("GET", url), stream=True)

    def read(self) -> bytes:
        return self.response.read()

    def shut(self) -> None:
        self.response.close()

    def drop(self) -> None:
        del self.response
        gc.collect()

    def close(self) -> None:
        self.client.close()


class Requests(Httpx):
    failures = (requests.RequestException,)

    def __init__(self, limiter: Any, **options: Any) -> None:
        self.client: Any = requests.Session()
        self.client.mount("http://", RateLimitedAdapter(limiter, **options))

    def get(self, url: str, timeout: float = 30.0) -> tuple[int, bytes]:
        response = self.client.get(url, timeout=timeout)
        return response.status_code, response.content

    def open(self, url: str) -> None:
        self.response = self.client.get(url, stream=True)

    def read(self) -> bytes:
        return self.response.content


class AioHttpx:
    """The same on an event loop of its own, in a thread; what `started` begins can be cancelled."""

    failures: tuple[type[Exception], ...] = (httpx.TransportError,)

    def __init__(self, limiter: Any, **options: Any) -> None:
        self.engine = limiter.engine
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self.start(limiter, options))

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def start(self, limiter: Any, options: dict[str, Any]) -> None:
        self.client: Any = httpx.AsyncClient(transport=AioRateLimitedTransport(limiter, **options), timeout=30)

    async def aio_get(self, url: str, timeout: float = 30.0) -> tuple[int, bytes]:
        response = await self.client.get(url, follow_redirects=True, timeout=timeout)
        return response.status_code, response.content

    def get(self, url: str, timeout: float = 30.0) -> tuple[int, bytes]:
        return self.run(self.aio_get(url, timeout))

    def started(self, url: str) -> Any:
        return asyncio.run_coroutine_threadsafe(self.aio_get(url), self.loop)

    async def aio_open(self, url: str) -> None:
        self.response = await self.client.send(self.client.build_request("GET", url), stream=True)

    def open(self, url: str) -> None:
        self.run(self.aio_open(url))

    def read(self) -> bytes:
        return self.run(self.response.aread())

    async def aio_shut(self) -> None:
        await self.response.aclose()

    def shut(self) -> None:
        self.run(self.aio_shut())

    def drop(self) -> None:
        del self.response
        gc.collect()

    async def end(self) -> None:
        await self.client.aclose()

    def close(self) -> None:
        self.run(self.end())
        self.run(self.engine.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)


class AioHttp(AioHttpx):
    failures = (aiohttp.ClientError, TimeoutError)

    async def start(self, limiter: Any, options: dict[str, Any]) -> None:
        self.client = aiohttp.ClientSession(middlewares=[rate_limited(limiter, **options)])

    async def aio_get(self, url: str, timeout: float = 30.0) -> tuple[int, bytes]:
        async with self.client.get(url, timeout=aiohttp.ClientTimeout(timeout)) as response:
            return response.status, await response.read()

    async def aio_open(self, url: str) -> None:
        self.response = await self.client.get(url)

    def read(self) -> bytes:
        return self.run(self.response.read())

    async def aio_shut(self) -> None:
        self.response.close()

    async def end(self) -> None:
        await self.client.close()


CLIENTS = [Httpx, Requests, AioHttpx, AioHttp]
