"""`kit.jobs.watch`: the updates of one job, for a `for` loop or an `async for`."""

from __future__ import annotations

from typing import Self

from workerkit.api.engine import Engine
from workerkit.core.durations import Duration
from workerkit.jobs import policy
from workerkit.jobs.events import JobUpdate, Watcher


class Updates:
    """Both iterators over what a Watcher tells. Nothing is held between two updates, and no error loses one."""

    def __init__(
        self, engine: Engine, job_id: str, *, after: str, poll: Duration, wait: Duration, timeout: Duration | None
    ) -> None:
        self._engine = engine
        self._watcher = Watcher(policy.place(engine.keys("j"), job_id), after, poll, wait, timeout)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> JobUpdate:
        ready = self._watcher.ready
        if not ready:
            self._engine.runner.run(self._watcher.more())
        if not ready:
            raise StopIteration
        return ready.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobUpdate:
        ready = self._watcher.ready
        if not ready:
            await self._engine.aio_runner.run(self._watcher.more())
        if not ready:
            raise StopAsyncIteration
        return ready.popleft()
