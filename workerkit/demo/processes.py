"""The demo's processes, kept by one small process that ends them all as soon as the demo is gone, however it went.

The keeper is their parent, so there is no moment at which one of them runs unkept; that its standard input ends is its
one signal, and the kernel sends it for a demo that was killed as well as for one that is done.
"""

from __future__ import annotations

import inspect
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self, cast

from workerkit.errors import WorkerKitError


class ProcessEnded(WorkerKitError):
    """One of the demo's processes ended by itself."""


class Keeper:
    """A directory, and processes with their output in it; all is gone when the `with` block is left."""

    def __enter__(self) -> Self:
        self.home = Path(tempfile.mkdtemp(prefix="wk-demo-"))
        self._process = subprocess.Popen(  # noqa: S603 - our own program; the path is an argument, no shell
            [sys.executable, "-I", "-S", "-c", f"{inspect.getsource(_keeper)}\n_keeper()", str(self.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the demo, which then ends the rest in order
        )
        self._reports = cast("IO[bytes]", self._process.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        cast("IO[bytes]", self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()  # something cannot even be killed: the demo's end must not hang on it
            self._process.wait()
        self._reports.close()

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> int:
        """Start a process in a session of its own, with its output in `{name}.log`; its id."""
        order = {"name": name, "command": command, "environment": dict(environment)}
        orders = cast("IO[bytes]", self._process.stdin)
        orders.write(json.dumps(order).encode() + b"\n")
        orders.flush()
        report = self._report()
        if "started" not in report:
            raise ProcessEnded(self._story(report))
        return int(report["started"])

    def check(self) -> None:
        """Raise ProcessEnded if one of them has ended."""
        if select.select([self._reports], [], [], 0)[0]:
            raise ProcessEnded(self._story(self._report()))

    def log(self, name: str) -> str:
        """What a process has said so far."""
        try:
            return (self.home / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _report(self) -> dict[str, Any]:
        line = self._reports.readline()
        if not line:
            raise ProcessEnded("the keeper of the demo's processes was killed")
        report: dict[str, Any] = json.loads(line)
        return report

    def _story(self, report: dict[str, Any]) -> str:
        name = report["name"]
        last = "\n".join(self.log(name).splitlines()[-5:])
        return f"the demo's {name} ended by itself with code {report.get('code')}; the end of its log:\n{last}"


def clean_environment(**wanted: str) -> dict[str, str]:
    """This process's environment, with nothing left in it that could lead a demo to somebody's real servers."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "WORKERKIT_", "DEMO_"))
    }
    ours = str(Path(__file__).parents[2])  # so that the children find this workerkit, installed or not
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (ours, kept.get("PYTHONPATH")))), **wanted}


def _keeper() -> None:
    """The whole program of the keeper: its source is run by a bare interpreter, with no import of workerkit."""
    import json
    import os
    import shutil
    import signal
    import subprocess
    import sys
    import threading
    import time

    home = sys.argv[1]
    kept: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the children would inherit

    def report(**fields: object) -> None:
        try:
            os.write(1, json.dumps(fields).encode() + b"\n")
        except OSError:
            pass  # nobody is left to read it

    def watch(name: str, process: subprocess.Popen[bytes]) -> None:
        report(name=name, code=process.wait())

    for line in sys.stdin:
        order = json.loads(line)
        with open(os.path.join(home, order["name"] + ".log"), "ab") as log:  # noqa: PTH118, PTH123 - pathlib is slow to import
            process = subprocess.Popen(  # noqa: S603 - the demo's own commands
                order["command"],
                env=order["environment"],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        kept.append(process)
        report(started=process.pid)
        threading.Thread(target=watch, args=(order["name"], process), daemon=True).start()

    for process in reversed(kept):
        process.terminate()  # to the leader alone: a Celery worker ends its children itself
    deadline = time.monotonic() + 2
    for process in kept:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            os.killpg(process.pid, signal.SIGKILL)  # what has not ended, and what a dead leader has left behind
        except OSError:
            pass
        process.wait()
    shutil.rmtree(home, ignore_errors=True)
    os._exit(0)
