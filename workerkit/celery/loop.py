"""Coroutine functions as tasks: one event loop a process, on a thread of its own.

On the main thread a soft time limit would be raised inside whatever callback the loop is running; here it is raised in
the waiting thread, and the coroutine is cancelled.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from workerkit.celery.host import AWAITED, Awaited, current, root


class Loops:
    """The event loop of this process, started with the first coroutine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run `coroutine` to its end; what interrupts the waiting cancels it."""
        # The coroutine's task copies this context, and with it what Celery keeps for this thread alone.
        token = AWAITED.set(Awaited(current(), root()))
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        finally:
            AWAITED.reset(token)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            self._lock = threading.Lock()
            self._pid, self._loop = os.getpid(), None
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="workerkit-loop", daemon=True).start()
            return self._loop

    def wrapped(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` as Celery can call it: a coroutine function as a plain one."""
        if not inspect.iscoroutinefunction(fn):
            return fn

        @functools.wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            return self.run(fn(*args, **kwargs))

        run.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]  # Celery checks arguments against it
        return run
