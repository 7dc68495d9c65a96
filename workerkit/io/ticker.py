"""What must happen every few seconds while something is held: lease renewals and heartbeats.

One thread a process for sync holders, started with the first of them, so never before a fork; a task for async ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import threading
import time
from collections.abc import Awaitable, Callable

from workerkit.core.events import BackgroundTrouble, Hooks


class Beat:
    """One repeated action; `stop` ends it."""

    __slots__ = ("act", "interval", "stopped", "what")

    def __init__(self, interval: float, what: str, act: Callable[[], object]) -> None:
        self.interval = interval
        self.what = what
        self.act = act
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class Ticker:
    """Runs actions on time, in a thread of its own. An action that fails is reported and tried again next time."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._order = itertools.count()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._due: list[tuple[float, int, Beat]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def every(self, interval: float, what: str, act: Callable[[], object]) -> Beat:
        """Run `act` every `interval` seconds until the answered Beat is stopped."""
        if self._pid != os.getpid():
            self._reset()
        beat = Beat(interval, what, act)
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + interval, next(self._order), beat))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="workerkit-ticker", daemon=True)
                self._thread.start()
            if self._due[0][2] is beat:  # else the thread wakes early enough; a switch to it costs more than the rest
                self._changed.notify()
        return beat

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                due, _, beat = heapq.heappop(self._due)
            if beat.stopped:
                continue
            try:
                beat.act()
            except Exception as error:  # noqa: BLE001 - reported, and tried again next time
                self._hooks.emit(BackgroundTrouble(beat.what, f"{type(error).__name__}: {error}"))
            with self._changed:
                # From now, not from `due`: after a pause of the process the missed turns are not made up.
                again = max(due + beat.interval, time.monotonic())
                heapq.heappush(self._due, (again, next(self._order), beat))


class AioTicker:
    """The same for coroutines: a task of the running loop for each action."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._tasks: set[asyncio.Task[None]] = set()

    def every(self, interval: float, what: str, act: Callable[[], Awaitable[object]]) -> AioBeat:
        """Await `act()` every `interval` seconds until the answered AioBeat is stopped."""
        task = asyncio.create_task(self._run(interval, what, act), name=f"workerkit-{what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return AioBeat(task)

    def close(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, interval: float, what: str, act: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await act()
            except Exception as error:  # noqa: BLE001 - reported, and tried again next time
                self._hooks.emit(BackgroundTrouble(what, f"{type(error).__name__}: {error}"))


class AioBeat:
    """One repeated action of a loop; `stop` ends it."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def stop(self) -> None:
        self._task.cancel()
