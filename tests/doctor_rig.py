"""Apps for the doctor to look at, lines of its to apply to them, and servers that answer what they are told to."""

from __future__ import annotations

import shlex
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import hiredis
from celery import Celery
from pydantic import BaseModel

from workerkit import WorkerKit
from workerkit.doctor.examine import Report, examine
from workerkit.doctor.finding import Finding

RIGHT = "@kit.task(acks_late=True, reject_on_worker_lost=True)"


class Rows(BaseModel):
    done: int = 0


class Shop:
    """An app with one task of each decorator: as a careful user has it, but for `lines` and the job's decorator."""

    def __init__(self, url: str, *lines: str, broker: str = "", job: str = RIGHT) -> None:
        self.url, self.lines, self.broker, self.job = url, [*lines], broker, job
        self.make()

    def make(self) -> None:
        """The app anew, as a process has it that starts after its configuration was changed."""
        where = self.broker or self.url.replace("unix://", "redis+socket://")
        app = self.app = Celery("shop", broker=where, backend=where, set_as_current=False)
        app.conf.update(workerkit_redis_url=self.url, task_time_limit=600)
        for line in self.lines:
            exec(line, {"app": app})
        kit = self.kit = WorkerKit(app, hooks=[])
        # Not shared: the next app in this process would have the tasks of this one.
        job = self.job.replace("@kit.task", "@kit.task(shared=False)").replace(")(", ", ")
        exec(
            f"""
@kit.task(shared=False)
@kit.memoize("10m")
def price(sku: str) -> float: ...

@kit.task(shared=False)
@kit.throttle(kit.limiter("api", "100/s"))
def charge(account: str) -> None: ...

{job}
@kit.job(Rows)
def rows(job) -> None: ...
""",
            {"kit": kit, "Rows": Rows, "__name__": "shop", "__annotations__": {}},
        )
        app.finalize()

    def examine(self, **options: Any) -> Report:
        report = examine(self.kit, self.app, **{"timeout": 20.0, **options})
        self.kit.close()
        return report

    def ids(self, **options: Any) -> list[str]:
        return [finding.id for finding in self.examine(**options).findings]

    def noted(self, **seconds: float) -> None:
        """As if tasks had run for so long: `shop.NAME=seconds`."""
        from workerkit.telemetry.runs import Runs

        longest = {f"shop.{name}": int(each * 1000) for name, each in seconds.items()}
        self.kit.engine.runner.call(Runs(self.kit.engine.keys("t")).add(longest))

    def apply(self, finding: Finding, server: Any = None) -> None:
        """Do what the finding's line says, where it says."""
        if finding.fix.startswith("app.conf."):
            self.lines.append(finding.fix)
        elif finding.fix.startswith("@kit.task"):
            self.job = finding.fix
        else:
            server.cli(*shlex.split(finding.fix))
        self.make()


def found(report: Report, id_: str) -> Finding:
    """The one finding of this kind."""
    (finding,) = [each for each in report.findings if each.id == id_]
    return finding


class Responder:
    """A TCP server that answers commands by `answers[first word]`, and everything else with OK; a context manager."""

    def __init__(self, **answers: bytes | Callable[[], bytes]) -> None:
        self.answers = {"hgetall": b"*0\r\n", **answers}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._socket.accept()[0]], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = hiredis.Reader()
        with client, suppress(OSError):
            while data := client.recv(65536):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    answer = self.answers.get(words[0].decode().lower(), b"+OK\r\n")
                    client.sendall(answer if isinstance(answer, bytes) else answer())


def bulk(text: str) -> bytes:
    """A reply of one text."""
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


def clock(ahead: float) -> Callable[[], bytes]:
    """Replies to TIME, of a clock that is wrong by so many seconds."""

    def now() -> bytes:
        seconds, micros = divmod(int((time.time() + ahead) * 1e6), 1_000_000)
        return b"*2\r\n" + bulk(str(seconds)) + bulk(str(micros))

    return now
