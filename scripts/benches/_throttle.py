"""One story of the bench `throttle`: tasks sent at once to real workers, and what was seen of them from outside."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MARGIN = 0.015  # seconds by which one start may lag further behind its admission than another
WORKERS, CHILDREN = 2, 2
BOOT = 60.0  # seconds that a worker may take to be there
LOOK = 0.2  # seconds between two looks at the results
IDLE = "idle"  # the queue of workers that shall not begin yet
OUT_OF_TRIES = {"RateLimited", "MaxRetriesExceededError"}


class Seen(NamedTuple):
    """What came of one way: starts in seconds since the first, and for each task its deliveries."""

    starts: list[float]
    deliveries: list[int]
    retries: int  # the most that a task has burned
    done: int
    lost: int  # ended because its retries were used up
    wrong: int  # results that are not what they should be


@contextlib.contextmanager
def app_of(url: str, amount: int) -> Iterator[Any]:
    """The module of the app, for this server and a limit of so many starts a second."""
    os.environ["WORKERKIT_BENCH_URL"] = url
    os.environ["WORKERKIT_BENCH_RATE"] = f"{amount}/s"
    sys.modules.pop("_throttle_app", None)  # another server's
    module = importlib.import_module("_throttle_app")
    try:
        yield module
    finally:
        module.kit.close()
        module.app.close()


def watch(module: Any, task: str, tasks: int, limit: float) -> Seen:
    """All the tasks are in the queue before the workers begin, which end with them, or after `limit` seconds."""
    with _workers(module.app):
        sent = {module.app.tasks[f"{module.__name__}.{task}"].delay(n).id: n for n in range(tasks)}
        _begin(module.app)
        ended = _ended(module.app, sent.keys(), time.monotonic() + limit)
    lost = [meta["result"] for meta in ended.values() if meta["status"] == "FAILURE"]
    if other := [error for error in lost if type(error).__name__ not in OUT_OF_TRIES]:
        raise RuntimeError(f"{task}: {len(other)} tasks failed, the first with {other[0]!r}")
    done = {sent[uuid]: meta["result"] for uuid, meta in ended.items() if meta["status"] == "SUCCESS"}
    wrong = sum(result != module.answer(n) for n, result in done.items())
    starts = moments(module.seen.lrange("starts", 0, -1))
    return Seen(starts, *counted(module.seen.lrange("deliveries", 0, -1), tasks), len(done), len(lost), wrong)


def moments(stamps: Sequence[str]) -> list[float]:
    """From microseconds to seconds since the first."""
    ordered = sorted(map(int, stamps))
    return [(each - ordered[0]) / 1e6 for each in ordered]


def counted(notes: Sequence[str], tasks: int) -> tuple[list[int], int]:
    """How often each task was delivered, and the most retries that one had by then; a note is "task retries"."""
    pairs = [tuple(map(int, note.split())) for note in notes]
    often = Counter(n for n, _ in pairs)
    return [often[n] for n in range(tasks)], max((retries for _, retries in pairs), default=0)


def _begin(app: Any) -> None:
    began = app.control.add_consumer(app.conf.task_default_queue, reply=True, limit=WORKERS, timeout=BOOT)
    if len(began or ()) < WORKERS:
        raise TimeoutError(f"only {len(began or ())} of {WORKERS} workers have begun")


def _ended(app: Any, ids: Iterable[str], until: float) -> Mapping[str, Any]:
    """The results that are there by then, as the backend keeps them; sooner when all are."""
    wanted, found = set(ids), dict[str, Any]()
    while wanted and time.monotonic() < until:
        found.update(app.backend.get_many(wanted - found.keys(), interval=LOOK, max_iterations=1))
        wanted -= found.keys()
    return found


@contextlib.contextmanager
def _workers(app: Any) -> Iterator[None]:
    """Real ones, with Celery's own pool, that wait for a queue to consume; killed in the end, with what they hold."""
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "_throttle_app", "worker"]
    command += ["-c", str(CHILDREN), "-Q", IDLE, "-l", "CRITICAL"]  # a lost task is counted, not told
    with contextlib.ExitStack() as ends:
        for number in range(WORKERS):
            worker = subprocess.Popen(
                [*command, "-n", f"w{number}@bench"],
                cwd=Path(__file__).parent,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            ends.callback(worker.wait)
            ends.callback(os.killpg, worker.pid, signal.SIGKILL)
        until = time.monotonic() + BOOT
        while len(app.control.ping(timeout=1.0, limit=WORKERS)) < WORKERS:
            if time.monotonic() > until:
                raise TimeoutError(f"{WORKERS} workers are not there after {BOOT:g} s")
        yield
