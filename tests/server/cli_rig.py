"""An app with a kit, and its command line as a user reads it: in this process, or as commands of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import Celery
from click.testing import CliRunner, Result

from tests.server.waitlist_rig import ticket
from workerkit import WorkerKit
from workerkit.api.limiter import Limiter
from workerkit.cli.plugin import workerkit
from workerkit.waitlist.line import Line, Place
from workerkit.waitlist.ticket import Ticket

HOUR_US = 3_600_000_000


def runner(width: int = 80) -> CliRunner:
    """Runs commands in this process, and keeps stderr apart, which click before 8.2 does when it is told to."""
    apart: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(env={"COLUMNS": str(width)}, **apart)


class Shop:
    """An app that nobody configured, its kit, and its command line."""

    def __init__(self, url: str, *, width: int = 80) -> None:
        self.url, self.width = url, width
        self.app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.kits: list[WorkerKit] = []
        self.kept: list[Any] = []  # a kit knows its functions only as long as somebody has them
        self.kit = self.another()

    def another(self, **settings: Any) -> WorkerKit:
        """One more kit of the same app."""
        self.kits.append(WorkerKit(self.app, url=self.url, hooks=[], **settings))
        return self.kits[-1]

    def run(self, *words: str) -> Result:
        obj = SimpleNamespace(app=self.app)
        return runner(self.width).invoke(workerkit, words, obj=obj)

    def __call__(self, *words: str, status: int = 0) -> str:
        """What it prints."""
        done = self.run(*words)
        assert (done.exit_code, done.stderr) == (status, ""), done.output
        return done.stdout

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status))

    def refused(self, *words: str, status: int = 2) -> str:
        """The one line in which it says why not."""
        done = self.run(*words)
        assert (done.exit_code, done.stdout) == (status, ""), done.output
        assert done.stderr.startswith("workerkit: ")
        assert done.stderr.count("\n") == 1
        return done.stderr.removeprefix("workerkit: ").strip()

    def park(self, name: str, limiter: Limiter, key: str = "") -> Ticket:
        """Park a task as a worker would."""
        label, part = limiter.label(key), limiter.part(key)
        line = Line(limiter.name, part, label, limiter.definition.ones, str(limiter.definition.rates[0]))
        parking = self.kit.engine.waitlist.park(ticket(name), line, Place(every_us=HOUR_US), wait=0.0, most=100_000)
        self.kit.engine.runner.call(parking)
        return ticket(name).next(line.name)

    def close(self) -> None:
        for kit in self.kits:
            kit.close()


def rows(text: str) -> list[list[str]]:
    """A table's cells, which two blanks divide."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def command(folder: Path, *words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of its own: `workerkit ...` or `celery ...`, behind which a `shell` may have its say."""
    module = {"workerkit": "workerkit.cli.main", "celery": "celery"}[words[0]]
    line = [sys.executable, "-m", module, *words[1:]]
    return subprocess.run(
        ["bash", "-c", f'"$0" "$@" {shell}', *line],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
