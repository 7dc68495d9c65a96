"""aiohttp (3.12 or later) under a limiter: `aiohttp.ClientSession(middlewares=[rate_limited(limiter)])`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
from aiohttp.connector import Connection

from workerkit.api.limiter import Limiter
from workerkit.core.durations import Duration
from workerkit.http.exchange import WAIT, Cost, Exchange, Key


def rate_limited(
    limiter: Limiter,
    *,
    key: Key[ClientRequest] = "",
    wait: Duration | None = WAIT,
    cost: Cost[ClientRequest] | None = None,
    settle: Callable[[ClientResponse], Any] | None = None,
    learn: bool = True,
) -> ClientMiddlewareType:
    """A client middleware that sends what the limiter lets through; put it last, so that it sees what is sent.

    Every request counts: redirects the session follows, and what other middlewares repeat. See `Exchange` for `key`,
    `wait`, `cost`, `settle` (which may be async) and `learn`. The response is the caller's as it came, a 429 too:
    nothing is sent twice. With a concurrency cap, read or release streamed responses: they hold their place until then.

    A request raises RateLimited when it would have to wait longer than `wait`, DefinitionError for a key or cost that
    will not do. When Redis is down: see the limiter's `when_down`; if after the request was sent, its response is
    returned, and an event tells that its headers were not learned from.
    """
    exchange: Exchange[ClientRequest, ClientResponse] = Exchange(
        limiter, key=key, wait=wait, cost=cost, settle=settle, learn=learn
    )
    bodies = _Bodies()

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        turn, run = exchange.turn(request), exchange.engine.aio_runner.run
        await bodies.ended()
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(turn.aio_held())
            response = await handler(request)
            try:
                await run(turn.answered(slot, response, response.status, response.headers.items()))
            except BaseException:
                response.close()
                raise
            if exchange.capped and (connection := response.connection):  # none: the body came with the head
                bodies.keep(connection, stack.pop_all())
        return response

    return middleware


class _Bodies:
    """The slots of responses whose bodies are still read: each ends with its connection's use, however that ends.

    aiohttp tells of it in a plain callback, and ending a slot is a coroutine; so a task waits for each.
    """

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def keep(self, connection: Connection, stack: AsyncExitStack) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        task = loop.create_task(self._hold(stack, over))
        self._open.add(task)
        task.add_done_callback(self._forget)

        def end() -> None:
            self._ending.add(task)
            loop.call_soon_threadsafe(over.set)  # a response that was dropped may be collected by any thread

        connection.add_callback(end)

    async def ended(self) -> None:
        """Wait for those slots that are just ending: the next request of their owner would find them taken."""
        loop = asyncio.get_running_loop()
        if mine := [task for task in self._ending if task.get_loop() is loop]:
            await asyncio.wait(mine)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._ending.discard(task)

    @staticmethod
    async def _hold(stack: AsyncExitStack, over: asyncio.Event) -> None:
        async with stack:
            await over.wait()
