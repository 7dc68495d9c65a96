"""Who tells followers of changed keys: the store itself, on the thread that changed them."""

from __future__ import annotations

import math

from workerkit.io.listener import Channel, Follower
from workerkit.io.server import Server
from workerkit.testing.memory.store import Store


class MemoryListener:
    """As `io.listener.Listener`, without a thread; nothing is told late."""

    breath = math.inf  # no turn of a loop is needed to hear of a change

    def __init__(self, server: Server, store: Store) -> None:
        self._store = store
        self._channel = Channel(server)
        self._told = False

    def follow(self, follower: Follower, *prefixes: str) -> None:
        """As `Listener.follow`."""
        self._channel.follow(follower, prefixes)
        self._told = False
        self.start()

    def start(self) -> None:
        """See to it that the followers are told."""
        if self._told:
            return
        with self._store.turn():
            self._told = True
            if self._channel.tell not in self._store.watchers:
                self._store.watchers.append(self._channel.tell)
            self._channel.open({prefix for prefixes in self._channel.followers.values() for prefix in prefixes})

    def stop(self) -> None:
        """Close the followers; the next use starts anew."""
        with self._store.turn():
            self._told = False
            if self._channel.tell in self._store.watchers:
                self._store.watchers.remove(self._channel.tell)
            self._channel.close()


class MemoryAioListener(MemoryListener):
    """As `MemoryListener`, for an event loop."""

    async def stop(self) -> None:  # type: ignore[override]  # as io.aiolistener.AioListener, which no Listener is either
        """As `MemoryListener.stop`."""
        super().stop()
