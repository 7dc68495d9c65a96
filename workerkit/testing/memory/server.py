"""The store in the place of a server: the pools and clients of a kit connect to it."""

from __future__ import annotations

from functools import partial

from workerkit.core.events import Hooks
from workerkit.io.address import Address
from workerkit.io.server import PoolOptions, Server
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.wire import MemoryAioConnection, MemoryAioLink, MemoryConnection, MemoryLink


class MemoryServer(Server):
    """A server that cannot be down, and evicts nothing."""

    def __init__(self, store: Store, *, hooks: Hooks, options: PoolOptions) -> None:
        super().__init__("redis", Address("memory", "memory", {}), options=options, hooks=hooks, guards=True)
        self._store = store
        self.connection_class = partial(MemoryConnection, store=store)
        self.aio_connection_class = partial(MemoryAioConnection, store=store)

    def link(self) -> MemoryLink:
        return MemoryLink(self._store)

    def aio_link(self) -> MemoryAioLink:
        return MemoryAioLink(self._store)
