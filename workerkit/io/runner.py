"""The sync runner: executes Calls and drives Flows on the calling thread."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Hashable, Mapping
from time import monotonic, sleep
from typing import Any, TypeVar

from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow, Invoke, Own, Seal, Share, Sleep, Step, result_of
from workerkit.io.calls import execute
from workerkit.io.interrupts import SHIELD
from workerkit.io.pool import Pool
from workerkit.io.server import Server

T = TypeVar("T")


class Carried(Exception):
    """A StopIteration of the user's function: thrown into a generator as it is, it would become RuntimeError."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Runner:
    """Runs Calls and Flows against the servers of one kit.

    `personal` are errors that concern only the caller they hit (a soft time limit, a retry): those who share the
    computation do not get them.
    """

    def __init__(self, servers: Mapping[str, Server], timeout: float) -> None:
        by_server = {id(server): Pool(server) for server in servers.values()}
        self._pools = {store: by_server[id(server)] for store, server in servers.items()}
        self._timeout = timeout
        self._shared: dict[tuple[int, Hashable], _Shared] = {}
        self._warned = False
        self.personal: tuple[type[BaseException], ...] = ()

    @property
    def pools(self) -> Mapping[str, Pool]:
        return self._pools

    def call(self, call: Call[T], timeout: float | None = None) -> T:
        """Execute one Call within `timeout` seconds (the kit's by default).

        Raises StoreUnavailable (not executed), OutcomeUnknown (perhaps executed) or StoreRefused (an error reply).
        """
        result: T = self._execute((call,), timeout)[0]
        return result

    def run(self, flow: Flow[T]) -> T:
        """Drive a Flow to its end. Its cleanup runs whatever happens: errors and interrupts are thrown into it."""
        try:
            return self._drive(flow)
        except Carried as carried:
            raise carried.error from None

    def close(self) -> None:
        """Close the free connections."""
        for pool in set(self._pools.values()):
            pool.close()

    def _drive(self, flow: Flow[T]) -> T:
        before = SHIELD.enter()
        try:
            step = next(flow)
            while True:
                try:
                    result = self._step(step)
                except BaseException as error:  # noqa: BLE001 - thrown into the flow, which decides
                    if before >= 0:
                        SHIELD.depth = before + 1  # what was interrupted may have been user code
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        finally:
            if before >= 0:
                SHIELD.depth = before
                if SHIELD.pending:
                    SHIELD.deliver()

    def _step(self, step: Step) -> Any:
        if isinstance(step, Call):
            return self.call(step)
        if isinstance(step, Invoke):
            return self._invoke(step)
        if isinstance(step, Batch):
            return self._execute(step.calls) if step.calls else []
        if isinstance(step, Sleep):
            return self._sleep(step.seconds)
        if isinstance(step, Seal):
            return self._shared.pop((os.getpid(), step.key), None)
        return self._share(step)

    def _execute(self, calls: tuple[Call[Any], ...], timeout: float | None = None) -> list[Any]:
        if not self._warned and asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, and does not raise
            self._warn()
        pool = self._pools[calls[0].store]
        now = monotonic()
        deadline = now + (timeout or self._timeout)
        before = SHIELD.enter()
        try:
            return execute(calls, pool, now, deadline)
        finally:
            if before >= 0:
                SHIELD.depth = before
                if SHIELD.pending:
                    SHIELD.deliver()

    @staticmethod
    def _sleep(seconds: float) -> None:
        before = SHIELD.lower()
        try:
            sleep(seconds)
        finally:
            SHIELD.restore(before)

    @staticmethod
    def _invoke(step: Invoke[T]) -> T:
        before = SHIELD.lower()
        try:
            return step.fn(*step.args, **step.kwargs)
        except StopIteration as stop:
            raise Carried(stop) from None
        finally:
            SHIELD.restore(before)

    def _share(self, step: Share[T]) -> T:
        key = (os.getpid(), step.key)
        while True:
            mine = _Shared()
            shared = self._shared.setdefault(key, mine)
            if shared is mine:
                return self._lead(key, shared, step)
            if shared.thread == threading.get_ident():
                return result_of(self._drive(step.flow()))  # it asks for itself: waiting would never end
            before = SHIELD.lower()
            try:
                shared.wait()
            finally:
                SHIELD.restore(before)
            if shared.again:
                continue
            if shared.error is not None:
                raise shared.error
            answer: T = shared.value
            return answer

    def _lead(self, key: tuple[int, Hashable], shared: _Shared, step: Share[T]) -> T:
        try:
            value = shared.value = self._drive(step.flow())
            shared.again = isinstance(value, Own)
            return result_of(value)
        except BaseException as error:
            shared.error = error
            shared.again = not isinstance(error, Exception) or isinstance(error, self.personal)
            raise
        finally:
            if self._shared.get(key) is shared:  # a sealed one has left its place, perhaps to another
                del self._shared[key]
            shared.end()

    def _warn(self) -> None:
        self._warned = True
        warnings.warn(
            "workerkit: a sync call inside a running event loop blocks it; put .aio before the verb and await it",
            RuntimeWarning,
            stacklevel=5,
        )


class _Shared:
    """A computation that others of this process may join; `again` tells them to go round once more.

    Everybody waits on a lock of their own, by one call into C: a condition's lock could stay locked for ever by an
    interrupt that strikes while it is being taken.
    """

    __slots__ = ("_latches", "_over", "again", "error", "thread", "value")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.value: Any = None
        self.error: BaseException | None = None
        self.again = True
        self._over = False
        self._latches: list[threading.Lock] = []

    def wait(self) -> None:
        latch = threading.Lock()
        latch.acquire()
        self._latches.append(latch)
        if not self._over:  # asked only now: `end` may have run before the latch was there
            latch.acquire()

    def end(self) -> None:
        self._over = True
        for latch in self._latches:
            latch.release()
