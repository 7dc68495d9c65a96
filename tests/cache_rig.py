"""What the tests of the cache's guarantees share: a source of truth, a clock, and callers on threads or on a loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tests.rig import until


class Source:
    """What a memoized function reads; with `hold`, each read stops behind the look, until `go`."""

    def __init__(self, value: Any = "old") -> None:
        self.value = value
        self.reads = 0
        self.failing = False
        self._gate = threading.Event()
        self._gate.set()

    def hold(self) -> None:
        self._gate.clear()

    def go(self) -> None:
        self._gate.set()

    def read(self) -> Any:
        value, failing = self.value, self.failing
        self.reads += 1
        if not self._gate.wait(10):
            raise TimeoutError
        if failing:
            raise LookupError(value)
        return value


class Clock:
    """The server's time as a kit knows it, which a test may put forward."""

    def __init__(self, *kits):
        self.late = 0.0
        for kit in kits:
            now = kit.engine.now_us
            kit.engine.now_us = lambda now=now: now() + int(self.late * 1_000_000)


class Threads:
    """Calls on threads of their own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(64)

    def start(self, fn, *args) -> Future[Any]:
        return self._pool.submit(fn, *args)

    def memoize(self, kit, read, *args, **options):
        """`read` as a memoized function of one argument; `read(memo)` gets its handle."""

        @kit.memoize(*args, **options)
        def fn(n: int):
            return read(fn.memo)

        return fn

    def sharing(self, kit) -> int:
        """How many run or have joined a shared computation."""
        return sum(1 + len(shared._latches) for shared in list(kit.engine.runner._shared.values()))

    def close(self, *kits) -> None:
        self._pool.shutdown()
        for kit in kits:
            kit.close()


class Coroutines:
    """Calls as tasks of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def start(self, fn, *args) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(fn(*args), self._loop)

    def memoize(self, kit, read, *args, **options):
        @kit.memoize(*args, **options)
        async def fn(n: int):
            return await asyncio.to_thread(read, fn.memo)

        return fn

    def sharing(self, kit) -> int:
        async def count() -> int:
            # Each task has a callback of its own, and one for each that awaits it.
            tasks = kit.engine.aio_runner._here().shared.values()
            return sum(max(0, len(task._callbacks or ()) - 1) for task in tasks)

        return self.start(count).result(10)

    def close(self, *kits) -> None:
        for kit in kits:
            self.start(kit.aio.close).result(10)
            kit.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def begun(callers, kit, source, fn, *args) -> Future[Any]:
    """A call that has joined another, begun to share, read by itself or been answered."""
    sharing, reads = callers.sharing(kit), source.reads
    future = callers.start(fn, *args)
    until(lambda: future.done() or source.reads > reads or callers.sharing(kit) > sharing)
    return future
