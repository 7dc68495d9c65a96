"""Real Celery workers as processes of their own, on private servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import celery
import pytest
from celery.result import AsyncResult
from kombu import Connection

from workerkit.testing.rabbitmq import start_rabbitmq
from workerkit.testing.servers import start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workerkit.testing.rabbitmq import RunningRabbitMQ
    from workerkit.testing.servers import RunningServer

if celery.VERSION[:2] == (5, 5):
    # A result that is collected unsubscribes. This version tries so for 20 s where the server has gone, and raises.
    AsyncResult.__del__ = lambda self: None

# A node takes seconds to start, and each of its tests longer than on Redis: CI has them all.
BROKERS = ("redis", pytest.param("rabbitmq", marks=pytest.mark.heavy))
APPS = Path(__file__).parent / "apps"
BOOT = 30.0  # seconds


class Worker:
    """`celery worker` (or beat) of one app module, in a process group of its own."""

    def __init__(self, module: str, *arguments: str, log: Path, environment: dict[str, str], ready: str) -> None:
        self.log = log
        self._file = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", module, *arguments],
            cwd=APPS,
            env=environment,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.await_line(ready)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_line(self, text: str, seconds: float = BOOT) -> None:
        """Until `text` stands in the log; fails when the process ends or the time is up."""
        until = time.monotonic() + seconds
        pause = threading.Event()
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{text!r} never came:\n{self.output[-3000:]}", pytrace=False)
            pause.wait(0.05)

    def kill(self) -> None:
        """SIGKILL for the worker and its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        self._file.close()


class Broker:
    """A private server as backend, store and broker (or `url` as broker), with the app module and its workers."""

    def __init__(self, server: RunningServer, directory: Path, monkeypatch: pytest.MonkeyPatch, url: str = "") -> None:
        self.server = server
        self.url = url or f"redis+socket://{server.socket}?virtual_host=1"
        self.directory = directory
        self._workers: list[Worker] = []
        monkeypatch.syspath_prepend(str(APPS))
        monkeypatch.setenv("TEST_SOCKET", str(server.socket))
        monkeypatch.setenv("TEST_BROKER", self.url)
        monkeypatch.setenv("TEST_DIRECTORY", str(directory))
        # A machine that stalls for a second is no fault of a server's.
        monkeypatch.setenv("WORKERKIT_TIMEOUT", "10")
        monkeypatch.setenv("WORKERKIT_POOL_TIMEOUT", "10")
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(APPS), *sys.path])}

    def load(self, module: str) -> Any:
        """The app module, imported anew for this server."""
        import importlib

        for name in ("setup", "received"):
            sys.modules.pop(name, None)
        sys.modules.pop(module, None)
        return importlib.import_module(module)

    def notes(self, name: str) -> list[tuple[float, str]]:
        """The lines that tasks noted so far: time and text."""
        path = self.directory / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(time_), text) for time_, _, text in (line.partition(" ") for line in lines)]

    def queued(self, queue: str = "celery") -> int:
        """The messages that wait in the queue, without those that a worker holds."""
        with Connection(self.url) as link:
            try:
                return int(link.default_channel.queue_declare(queue, passive=True).message_count)
            except link.channel_errors:
                return 0  # Redis forgets a queue that is empty

    def worker(
        self, module: str, *arguments: str, pool: str = "prefork", concurrency: int = 2, ready: str = " ready."
    ) -> Worker:
        name = f"w{len(self._workers)}"
        options = ["-P", pool, "-c", str(concurrency), "-n", f"{name}@test", "-l", "INFO", *arguments]
        return self._start(
            Worker(
                module,
                "worker",
                *options,
                log=self.directory / f"{name}.log",
                environment=self.environment,
                ready=ready,
            )
        )

    def beat(self, module: str) -> Worker:
        name = f"beat{len(self._workers)}"
        schedule = str(self.directory / f"{name}.schedule")
        return self._start(Worker(
            module, "beat", "-l", "INFO", "-s", schedule, "--pidfile", "",
            log=self.directory / f"{name}.log", environment=self.environment, ready="beat: Starting",
        ))  # fmt: skip

    def _start(self, worker: Worker) -> Worker:
        self._workers.append(worker)
        return worker

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def kill(self) -> None:
        """The end of all workers, which saves the seconds that an orderly one takes."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.kill()
        self.stop()


@pytest.fixture
def broker(fresh_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """A fresh server with the apps of `tests/worker/apps` at hand."""
    made = Broker(fresh_server, tmp_path, monkeypatch)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def rabbit(require: Callable[..., None]) -> Iterator[RunningRabbitMQ]:
    """One RabbitMQ for the whole session; not to be killed."""
    require("rabbitmq")
    with start_rabbitmq() as node:
        yield node


@pytest.fixture
def fresh_rabbit(require: Callable[..., None]) -> Iterator[RunningRabbitMQ]:
    """A RabbitMQ of the test's own, to kill and restart."""
    require("rabbitmq")
    with start_rabbitmq() as node:
        yield node


@pytest.fixture(params=BROKERS)
def any_broker(
    request: pytest.FixtureRequest, fresh_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broker]:
    """Runs the test on each broker in turn; on RabbitMQ with a virtual host of its own, and its results in Redis."""
    url = ""
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbit").add_vhost(uuid4().hex)
    made = Broker(fresh_server, tmp_path, monkeypatch, url)
    yield made
    made.stop()


@pytest.fixture(scope="module", params=BROKERS)
def shared_broker(
    request: pytest.FixtureRequest, main_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """One of each broker in turn for all tests of a module, which share its workers; not to be killed."""
    url = ""
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbit").add_vhost(uuid4().hex)
    with start_server(main_kind) as server, pytest.MonkeyPatch.context() as patch:
        made = Broker(server, tmp_path_factory.mktemp(request.param), patch, url)
        yield made
        made.kill()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """`eventually(condition, seconds=20)`: wait for what another process brings about."""

    def wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        pause = threading.Event()
        while not condition():
            if time.monotonic() > until:
                pytest.fail(f"not within {seconds} s", pytrace=False)
            pause.wait(0.02)

    return wait
