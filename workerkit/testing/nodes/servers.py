"""Brokers and backends as processes: a private Valkey, a private RabbitMQ."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from signal import SIGKILL
from typing import Any, Generic, TypeVar

from pytest_celery import RabbitMQContainer, RedisContainer

from workerkit.errors import StoreUnavailable
from workerkit.testing.nodes.process import Process, number_of
from workerkit.testing.rabbitmq import RunningRabbitMQ, start_rabbitmq
from workerkit.testing.servers import RunningServer, start_server

_BINDINGS = "_kombu.binding."  # what kombu keeps in Redis of queues that workers have declared


S = TypeVar("S", RunningServer, RunningRabbitMQ)


class ServerProcess(Process, Generic[S]):
    """A server of workerkit.testing, on a free port of 127.0.0.1; it is beside a container class of pytest-celery's."""

    _server: S

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @property
    def hostname(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def host_url(self) -> str:
        return self.url

    @property
    def status(self) -> str:
        try:
            return "running" if self._server.pid else "exited"
        except StoreUnavailable:
            return "exited"

    def kill(self, signal: str | int | None = None) -> None:
        if self.status != "running":
            return
        number = number_of(signal)
        if number == SIGKILL:
            self._server.kill()
        else:
            os.kill(self._server.pid, number)

    def restart(self, timeout: float = 10) -> None:
        self._server.restart()

    def remove(self, *args: Any, **kwargs: Any) -> None:
        self._server.stop()


class RedisProcess(ServerProcess[RunningServer], RedisContainer):
    """A Valkey on a free port of 127.0.0.1, with the options of the container's command."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        super().__init__(name)
        self._server = start_server("valkey", tcp=True, args=tuple(command[1:]))  # without the program's name
        self.folder = self._server.home

    @property
    def url(self) -> str:
        return f"{self.prefix()}{self.hostname}:{self.port}/{self.vhost}"

    def ready(self) -> bool:
        return self._server.cli("PING") == "PONG"

    def logs(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def recover(self) -> bool:
        """Empty, but for what workers that go on have declared."""
        self._server.start()
        opened: Any = self.client
        with opened as client:
            kept = set(client.scan_iter(f"{_BINDINGS}*"))
            if not kept:
                client.flushall()
            for key in set(client.scan_iter()) - kept:
                client.delete(key)
        return True


class RabbitMQProcess(ServerProcess[RunningRabbitMQ], RabbitMQContainer):
    """A RabbitMQ on free ports of 127.0.0.1."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._server = start_rabbitmq()
        self.folder = self._server.home

    @property
    def url(self) -> str:
        return self._server.vhost_url(self.vhost)

    def ready(self) -> bool:
        if self.status != "running":
            raise StoreUnavailable(f"{self.name} does not run; the end of its log:\n{self._server.log()}")
        return True

    def logs(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")

    def recover(self) -> bool:
        """As it is: a worker that starts purges its queues."""
        self._server.start()
        return True
