"""httpx under a limiter: `httpx.Client(transport=RateLimitedTransport(limiter))`, and the same for AsyncClient."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import httpx

from workerkit.api.limiter import Limiter
from workerkit.core.durations import Duration
from workerkit.http.exchange import WAIT, Cost, Exchange, Key


class RateLimitedTransport(httpx.BaseTransport):
    """Sends through `transport` (HTTPTransport() by default) what the limiter lets through.

    Every request of the client counts: redirects it follows, its authentication's, retries around it. See `Exchange`
    for `key`, `wait`, `cost`, `settle` and `learn`. The response is the caller's as it came, a 429 too: nothing is sent
    twice. With a concurrency cap, read or close streamed responses: they hold their place until then.

    A request raises RateLimited when it would have to wait longer than `wait`, DefinitionError for a key or cost that
    will not do. When Redis is down: see the limiter's `when_down`; if after the request was sent, its response is
    returned, and an event tells that its headers were not learned from.
    """

    def __init__(
        self,
        limiter: Limiter,
        transport: httpx.BaseTransport | None = None,
        *,
        key: Key[httpx.Request] = "",
        wait: Duration | None = WAIT,
        cost: Cost[httpx.Request] | None = None,
        settle: Callable[[httpx.Response], Any] | None = None,
        learn: bool = True,
    ) -> None:
        self._exchange = Exchange(limiter, key=key, wait=wait, cost=cost, settle=settle, learn=learn)
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, in its slot."""
        turn, run = self._exchange.turn(request), self._exchange.engine.runner.run
        with ExitStack() as stack:
            lease = turn.held()
            slot = stack.enter_context(lease)
            response = self._transport.handle_request(request)
            try:
                run(turn.answered(slot, response, response.status_code, response.headers.multi_items()))
            except BaseException:
                response.close()
                raise
            if self._exchange.capped and not response.is_closed:  # `settle` may have read it
                response.stream = _Body(response.stream, stack.pop_all().close)
                lease.tie_to(response.stream)
        return response

    def close(self) -> None:
        """Close the transport within."""
        self._transport.close()


class AioRateLimitedTransport(httpx.AsyncBaseTransport):
    """`RateLimitedTransport` for AsyncClient; `transport` is AsyncHTTPTransport() by default, `settle` may be async."""

    def __init__(
        self,
        limiter: Limiter,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        key: Key[httpx.Request] = "",
        wait: Duration | None = WAIT,
        cost: Cost[httpx.Request] | None = None,
        settle: Callable[[httpx.Response], Any] | None = None,
        learn: bool = True,
    ) -> None:
        self._exchange = Exchange(limiter, key=key, wait=wait, cost=cost, settle=settle, learn=learn)
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, in its slot."""
        turn, run = self._exchange.turn(request), self._exchange.engine.aio_runner.run
        async with AsyncExitStack() as stack:
            lease = turn.aio_held()
            slot = await stack.enter_async_context(lease)
            response = await self._transport.handle_async_request(request)
            try:
                await run(turn.answered(slot, response, response.status_code, response.headers.multi_items()))
            except BaseException:
                await response.aclose()
                raise
            if self._exchange.capped and not response.is_closed:  # `settle` may have read it
                response.stream = _AioBody(response.stream, stack.pop_all().aclose)
                lease.tie_to(response.stream)
        return response

    async def aclose(self) -> None:
        """Close the transport within."""
        await self._transport.aclose()


class _Body(httpx.SyncByteStream):
    """A body that ends its slot when it is closed; httpx closes it after the last byte, too."""

    def __init__(self, stream: Any, end: Callable[[], None]) -> None:
        self._stream = stream
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._end()


class _AioBody(httpx.AsyncByteStream):
    """The same for coroutines."""

    def __init__(self, stream: Any, end: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._end = end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._end()
