"""Counts kept in the process, added to the fleet's every second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow

if TYPE_CHECKING:
    from workerkit.api.engine import Engine

INTERVAL = 1.0
Take = Callable[[], Call[Any] | None]


class Flusher:
    """Asks each counter for what it has, and sends it. Begins with the first use in a process, so after any fork."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._takes: list[Take] = []
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, take: Take) -> None:
        self._takes.append(take)

    def started(self) -> None:
        """See to it that a thread of this process flushes."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._engine.ticker.every(INTERVAL, "counts", self.flush)

    def aio_started(self) -> None:
        """See to it that a task of the running loop flushes."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._engine.aio_ticker.every(INTERVAL, "counts", self.aio_flush)

    def flush(self) -> None:
        """Send what there is now. Counts that cannot be sent are lost: nobody should wait for them."""
        self._engine.runner.run(self._flow())

    async def aio_flush(self) -> None:
        """As `flush`."""
        await self._engine.aio_runner.run(self._flow())

    def _flow(self) -> Flow[None]:
        calls = [call for take in self._takes if (call := take()) is not None]
        if calls:
            yield from Batch(*calls)
