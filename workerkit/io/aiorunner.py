"""The async runner: executes Calls and drives Flows on the running event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Hashable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow, Invoke, Own, Seal, Share, Sleep, Step, result_of
from workerkit.io.aiocalls import execute
from workerkit.io.aiopool import AioPool
from workerkit.io.runner import Carried
from workerkit.io.server import Server

T = TypeVar("T")
# The computations within which this code runs. A context variable can only be global.
_LEADERS: ContextVar[frozenset[asyncio.Task[Any] | None]] = ContextVar("workerkit_leaders", default=frozenset())


class _Loop:
    """What belongs to one event loop of one process: pools, shared computations, cleanups under way."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.pid = os.getpid()
        by_server = {id(server): AioPool(server) for server in servers.values()}
        self.pools = {store: by_server[id(server)] for store, server in servers.items()}
        self.shared: dict[Hashable, asyncio.Task[Any]] = {}
        self.cleanups: set[asyncio.Task[Any]] = set()
        # asyncio.run ends what async generators are left before it closes the loop, so one of them can close the pools.
        self._end = self._close_at_the_end()
        try:
            self._end.__anext__().send(None)
        except StopIteration:
            pass

    async def close(self) -> None:
        if self.cleanups:
            await asyncio.wait(self.cleanups)
        for pool in set(self.pools.values()):
            pool.close()

    async def _close_at_the_end(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.close()


class AioRunner:
    """Runs Calls and Flows for coroutines. One object serves all loops; each has connections of its own."""

    def __init__(self, servers: Mapping[str, Server], timeout: float) -> None:
        self._servers = servers
        self._timeout = timeout
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()
        self.personal: tuple[type[BaseException], ...] = ()

    @property
    def pools(self) -> Mapping[str, AioPool]:
        return self._here().pools

    def _here(self) -> _Loop:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None or here.pid != os.getpid():
            for reference in self._loops.keyrefs():
                other = reference()
                if other is not None and other.is_closed():
                    self._loops.pop(other, None)  # its connections hold on to it: it would never go by itself
            here = self._loops[loop] = _Loop(self._servers)
        return here

    async def call(self, call: Call[T], timeout: float | None = None) -> T:
        """Execute one Call within `timeout` seconds (the kit's by default).

        Raises StoreUnavailable (not executed), OutcomeUnknown (perhaps executed) or StoreRefused (an error reply).
        """
        result: T = (await self._execute((call,), timeout))[0]
        return result

    async def run(self, flow: Flow[T]) -> T:
        """Drive a Flow to its end. When the caller is cancelled, its cleanup still runs, shielded."""
        try:
            return await self._drive(flow)
        except Carried as carried:
            raise carried.error from None

    async def close(self) -> None:
        """Close this loop's free connections."""
        await self._here().close()

    async def _drive(self, flow: Flow[T], thrown: BaseException | None = None) -> T:
        try:
            step = next(flow) if thrown is None else flow.throw(thrown)
            while True:
                try:
                    result = await self._step(step)
                except asyncio.CancelledError as cancelled:
                    if thrown is not None:
                        raise
                    return await self._clean_up(flow, cancelled)
                except BaseException as error:  # noqa: BLE001 - thrown into the flow, which decides
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    async def _clean_up(self, flow: Flow[T], cancelled: asyncio.CancelledError) -> T:
        """Drive the rest of a cancelled flow where a second cancellation cannot reach it."""
        cleanups = self._here().cleanups
        task = asyncio.create_task(self._drive(flow, cancelled))
        cleanups.add(task)
        task.add_done_callback(cleanups.discard)
        return await asyncio.shield(task)

    async def _step(self, step: Step) -> Any:
        if isinstance(step, Call):
            return await self.call(step)
        if isinstance(step, Invoke):
            return await self._invoke(step)
        if isinstance(step, Batch):
            return await self._execute(step.calls) if step.calls else []
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Seal):
            return self._here().shared.pop(step.key, None)
        return await self._share(step)

    async def _execute(self, calls: tuple[Call[Any], ...], timeout: float | None = None) -> list[Any]:
        pool = self._here().pools[calls[0].store]
        now = time.monotonic()
        deadline = now + (timeout or self._timeout)
        return await execute(calls, pool, now, deadline)

    @staticmethod
    async def _invoke(step: Invoke[Any]) -> Any:
        try:
            value = step.fn(*step.args, **step.kwargs)
            return await value if hasattr(value, "__await__") else value
        except (StopIteration, StopAsyncIteration) as stop:
            raise Carried(stop) from None

    async def _share(self, step: Share[T]) -> T:
        shared = self._here().shared
        while True:
            task = shared.get(step.key)
            if task in _LEADERS.get():
                return result_of(await self._drive(step.flow()))  # it asks for itself: waiting would never end
            mine = task is None or task.done()
            if task is None or mine:
                task = shared[step.key] = asyncio.create_task(self._lead(step))
                task.add_done_callback(lambda done: self._end_share(shared, step.key, done))
            try:
                # Shielded: who is cancelled leaves, and the computation goes on for the others.
                result: T | Own = await asyncio.shield(task)
                if mine or not isinstance(result, Own):
                    return result_of(result)
            except BaseException as error:
                if mine or not task.done() or task.cancelled() or not isinstance(error, self.personal):
                    raise

    async def _lead(self, step: Share[T]) -> T | Own:
        # Set in this task's own copy of the context, so that the user's code carries it wherever it goes.
        _LEADERS.set(_LEADERS.get() | {asyncio.current_task()})
        return await self._drive(step.flow())

    @staticmethod
    def _end_share(shared: dict[Hashable, asyncio.Task[Any]], key: Hashable, task: asyncio.Task[Any]) -> None:
        if shared.get(key) is task:
            del shared[key]
        if not task.cancelled():
            task.exception()  # seen by those who joined; if all of them left, asyncio need not complain
