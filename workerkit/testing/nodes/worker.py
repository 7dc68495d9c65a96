"""A worker as a process: what pytest-celery would run in a container, run by this interpreter on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil
from celery import Celery
from kombu import Connection
from pytest_celery import CeleryTestWorker, CeleryWorkerContainer

from workerkit.errors import StoreUnavailable
from workerkit.testing.nodes.process import Process, number_of

BOOT = 60.0  # seconds: a machine that runs many tests at once is slow to start a worker
IDLE = 3.0  # seconds for a worker to say what it still has to do
_POLL = 0.02
_PROGRAMS = {"celery": [sys.executable, "-m", "celery"], "python": [sys.executable]}
_COLUMNS = ["pid", "name", "username", "cmdline", "cpu_percent", "memory_percent", "create_time"]
_MOUNTED = "/app"  # where a container finds its content
# Ends the worker, and its children, when this process is gone and cannot do it any more.
_WATCH = "import os, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), 9)"


class WorkerProcess(Process, CeleryWorkerContainer):
    """`celery worker` in a process group of its own, in a folder with the content that a container would be given.

    command: as for a container; `celery` and `python` are this interpreter's, `%h` is the node's id.
    environment: on top of this process's own. content: files by their path in the folder.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        content: Mapping[str, bytes],
        folder: Path,
    ) -> None:
        super().__init__(name)
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        for path, source in content.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source)
        self.broker = environment.get("CELERY_BROKER_URL", "")
        self.arguments = [
            *_PROGRAMS.get(command[0], command[:1]),
            *(part.replace("%h", self.id[:12]) for part in command[1:]),
        ]
        self.environment = {**os.environ, **environment, "PYTHONPATH": self._python_path(environment)}
        self._log = self.folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._began = 0  # where in the log this start begins
        self._purge()
        self._start()

    @property
    def pid(self) -> int:
        """The worker's process id; StoreUnavailable when it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise StoreUnavailable(f"{self.name} does not run; the end of its log:\n{self._end_of_log()}")
        return self._process.pid

    @property
    def status(self) -> str:
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    def ready(self) -> bool:
        until = time.monotonic() + BOOT
        while self.pid and self.ready_prompt not in self._bytes()[self._began :].decode(errors="replace"):
            if time.monotonic() > until:
                raise StoreUnavailable(f"{self.name} is not ready after {BOOT:g} s:\n{self._end_of_log()}")
            time.sleep(_POLL)
        return True

    def logs(self) -> str:
        return self._bytes().decode(errors="replace")

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal to the worker, or end it and its children at once by SIGKILL; harmless when it is gone."""
        if self.status != "running":
            return
        number = number_of(signal)
        if number == SIGKILL:
            self._end()
        else:
            os.kill(self.pid, number)

    def restart(self, timeout: float = 10) -> None:
        if self._process is not None and self.status == "running":
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._end()
        self._start()
        self.ready()

    def remove(self, *args: Any, **kwargs: Any) -> None:
        """End it; its folder goes with pytest's own."""
        self._end()

    def recover(self) -> bool:
        """Whether it says that it has nothing left to do. One that does not answer is as good as busy."""
        if self.status != "running":
            return False
        with Celery(broker=self.broker, set_as_current=False) as app:
            ask = app.control.inspect(destination=[self.node_name], timeout=IDLE, limit=1)
            return all(answer == {self.node_name: []} for answer in (ask.reserved(), ask.active(), ask.scheduled()))

    @property
    def node_name(self) -> str:
        """Its name for Celery, as `-n` says."""
        return f"{self.worker_name()}@{self.id[:12]}"

    def exec_run(self, command: str | Sequence[str], **_: Any) -> tuple[int, bytes]:
        """What a command says in the worker's folder and environment, as (exit code, output)."""
        done = subprocess.run(  # noqa: S603 - the test's own command
            ["/bin/sh", "-c", command] if isinstance(command, str) else [*command],
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _start(self) -> None:
        self._began = len(self._bytes())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the test suite's own command, no shell
                self.arguments,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for the tests
            )
        self._watch = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", "-c", _WATCH, str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _end(self) -> None:
        """SIGKILL for all of its group, children of a worker that is gone already too."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, SIGKILL)
            self._process.wait()
        self._process = self._watch = None

    def _purge(self) -> None:
        """What another test has left in its queues is not for this one's worker."""
        if not self.broker:
            return
        with Connection(self.broker) as link:
            channel: Any = link.default_channel  # the stubs know only what all transports have
            for queue in self.worker_queue().split(","):
                with suppress(*link.channel_errors):  # there is no such queue yet
                    channel.queue_purge(queue)

    def _python_path(self, environment: Mapping[str, str]) -> str:
        given = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part not in {"", _MOUNTED}]
        return os.pathsep.join([str(self.folder), *given, *sys.path])

    def _bytes(self) -> bytes:
        return self._log.read_bytes() if self._log.exists() else b""

    def _end_of_log(self) -> str:
        return "\n".join(self.logs().splitlines()[-20:])


class WorkerNode(CeleryTestWorker):
    """pytest-celery's node of a worker; what it tells of processes is of this worker's, and not of the machine's."""

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        container: Any = self.container
        worker = psutil.Process(container.pid)
        found = [each.as_dict(columns or _COLUMNS) for each in (worker, *worker.children(recursive=True))]
        return [each for each in found if all(each.get(key) == value for key, value in (filters or {}).items())]
