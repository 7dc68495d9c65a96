"""The nodes that run: each is lent to one test after the other, so that a worker need not start for each of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

from workerkit.testing.nodes.process import Process
from workerkit.testing.nodes.servers import RabbitMQProcess, RedisProcess
from workerkit.testing.nodes.worker import WorkerProcess

P = TypeVar("P", bound=Process)


class Shared:
    """The nodes of one session. A broker has no other workers than those of the test that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._free: list[tuple[Hashable, Process]] = []
        self._lent: list[tuple[Hashable, Process]] = []

    def lend(self, key: Hashable, start: Callable[[], P], *, fresh: bool) -> P:
        """A node that was started with the same key and is free, recovered from its last test; else a new one.

        key: all that it was started with. fresh: a new one in any case.
        """
        for entry in [] if fresh else [each for each in self._free if each[0] == key]:
            self._free.remove(entry)
            node = entry[1]
            if node.recover():
                self._lent.append(entry)
                return node  # type: ignore[return-value]  # the key holds its class
            node.remove()
        node = start()
        self._lent.append((key, node))
        node.ready()
        return node

    def take_back(self, node: Process, *, fresh: bool) -> None:
        entry = next(each for each in self._lent if each[1] is node)
        self._lent.remove(entry)
        if fresh:
            node.remove()
        else:
            self._free.append(entry)

    def end_others(self) -> None:
        """End the free workers on brokers that are lent: they would take the messages of the test."""
        urls = {node.url for _, node in self._lent if isinstance(node, (RedisProcess, RabbitMQProcess))}
        for entry in [*self._free]:
            if isinstance(entry[1], WorkerProcess) and urls.intersection(entry[1].broker.split(";")):
                self._free.remove(entry)
                entry[1].remove()

    def end(self) -> None:
        for _, node in (*self._free, *self._lent):
            node.remove()
        self._free, self._lent = [], []
