"""What the kit costs a process that has it: the time to import it, and the memory of a worker that does nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from _pairs import Took, summary
from _rows import Case, Row, Run, Skip

HERE = Path(__file__).parent
KIT = {"WORKERKIT_BENCH_KIT": "1"}
FROZEN = {"WORKERKIT_BENCH_FREEZE": "1"}  # what the kit has Celery do, done without the kit
PATIENCE = 60.0  # seconds for a worker to be ready, and to settle
LOOK = 0.3
CELERY = "from celery import Celery"
WORKER = """
import celery.apps.worker, celery.bin.celery, celery.bin.worker, celery.concurrency.prefork, celery.worker.consumer
import celery.backends.redis, kombu.transport.redis
from celery import signals
import _overhead_app
_overhead_app.app.finalize()
signals.worker_init.send(None)
"""
TASKS = """
import _overhead_app
found = [task.delay(number) for number in range(40) for task in _overhead_app.TASKS]
for each in found:
    each.get(timeout=60)
"""


class Memory(NamedTuple):
    """Of a worker and its children together, in MB: `pss` shares what is shared, `uss` is what is each one's own."""

    pss: float
    uss: float


def _imports(name: str, ours: str, peer: str, kit: Mapping[str, str], goal: Mapping[str, float]) -> Case:
    def rows(run: Run) -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as compiled:
            sides = [lambda: _took(ours, compiled, kit), lambda: _took(peer, compiled, {})]
            for side in sides:
                side()  # compiles what is to be imported
            found = [_pair(sides, number) for number in range(5 if run.quick else 21)]
        added = median(mine.cpu - theirs.cpu for mine, theirs in found) * 1e3
        yield Row(name, "ms", peer_name="Celery", goal=goal, extra={"added": added}, **summary(found, scale=1e3))

    return Case(name, "Celery", rows)


def _pair(sides: list[Callable[[], Took]], number: int) -> tuple[Took, Took]:
    order = (0, 1) if number % 2 else (1, 0)
    found = {side: sides[side]() for side in order}
    return found[0], found[1]


def _took(code: str, compiled: str, more: Mapping[str, str]) -> Took:
    """Of a whole process, which starts and ends."""
    environment = _environment(more) | {"PYTHONPYCACHEPREFIX": compiled}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=HERE, env=environment, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    left = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**left, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]), **more}


def _memory(run: Run) -> Iterator[Row]:
    """A worker with two children and the same three tasks: just started, and when it has run some."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise Skip("needs Linux's /proc/PID/smaps_rollup")
    sides = {"kit": KIT, "Celery": {}, "Celery, gc.freeze()": FROZEN}
    found: dict[str, list[tuple[Memory, Memory]]] = {name: [] for name in sides}
    for number in range(1 if run.quick else 5):
        names = list(sides)
        for name in [*names[number % 3 :], *names[: number % 3]]:
            run.server.cli("FLUSHALL")
            found[name].append(_worker(run.url, sides[name]))
    for at, (row, goal) in enumerate((("overhead.idle", {"added": 15}), ("overhead.used", {}))):
        mine = [each[at] for each in found["kit"]]
        for peer in ("Celery", "Celery, gc.freeze()"):
            theirs = [each[at] for each in found[peer]]
            ratios = [one.pss / other.pss for one, other in zip(mine, theirs, strict=True)]
            added = median(one.pss - other.pss for one, other in zip(mine, theirs, strict=True))
            uss = median(one.uss - other.uss for one, other in zip(mine, theirs, strict=True))
            yield Row(
                row, "MB", median(each.pss for each in mine), median(each.pss for each in theirs), peer,
                median(ratios), min(ratios), max(ratios), len(ratios),
                goal=goal if peer == "Celery" else {}, extra={"added": added, "added_uss": uss},
            )  # fmt: skip


def _worker(url: str, more: Mapping[str, str]) -> tuple[Memory, Memory]:
    """What a worker takes when it is ready, and when it has run tasks."""
    environment = _environment(more) | {"WORKERKIT_BENCH_URL": url}
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "_overhead_app", "worker", "-c", "2", "-l", "INFO"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as file:
            worker = subprocess.Popen(command, cwd=HERE, env=environment, stdout=file, stderr=file)
        try:
            until = time.monotonic() + PATIENCE
            while " ready." not in log.read_text(errors="replace"):
                if worker.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the worker has not started: {log.read_text(errors='replace')[-300:]}")
                time.sleep(LOOK)
            idle = _settled(worker.pid)
            subprocess.run([sys.executable, "-W", "ignore", "-c", TASKS], cwd=HERE, env=environment, check=True)
            return idle, _settled(worker.pid)
        finally:
            worker.terminate()
            worker.wait()


def _settled(pid: int) -> Memory:
    """What it takes as soon as that no longer changes."""
    until, last = time.monotonic() + PATIENCE, _measured(pid)
    while time.monotonic() < until:
        time.sleep(LOOK * 2)
        now = _measured(pid)
        if abs(now.pss - last.pss) < 0.05:
            return now
        last = now
    return last


def _measured(pid: int) -> Memory:
    pids, total = [pid], Memory(0.0, 0.0)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            pids += [int(child) for child in (task / "children").read_text().split()]
    for each in pids:
        sizes: dict[str, int] = {}
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            sizes[name] = int(value.split()[0])
        own = sizes["Private_Clean"] + sizes["Private_Dirty"]
        total = Memory(total.pss + sizes["Pss"] / 1024, total.uss + own / 1024)
    return total


CASES = (
    _imports("overhead.import", f"{CELERY}; from workerkit import WorkerKit", CELERY, {}, {"added": 150}),
    _imports("overhead.import.worker", WORKER, WORKER, KIT, {"added": 150}),
    Case("overhead.idle", "Celery", _memory),
)
