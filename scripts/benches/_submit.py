"""Submitting a task and getting its result: answered from the cache by us, through a worker by Celery."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from _pairs import Loop, pairs, summary
from _place import placed
from _rows import Row, Run

PATIENCE = 30.0  # seconds to wait for a result


def submit_rows(run: Run, name: str, peer_name: str, goal: dict[str, float]) -> Iterator[Row]:
    """Two rows, unpinned and pinned; pinned, the worker shares the core."""
    with _app(run.url) as app, _worker() as worker:
        memo = app.memoized.memo
        app.memoized.delay(7).get(timeout=PATIENCE)  # the worker is there, and the entry too
        if memo.peek(7) is None:
            raise RuntimeError("the worker has stored nothing")
        loops = [_loop(memo.delay), _loop(app.plain.delay)]
        for pinned in (False, True):
            with placed(run.server.pid, worker, pinned=pinned):
                found = pairs(*loops, rounds=run.rounds, seconds=run.slice)
            yield Row(name, "us", peer_name=peer_name, pinned=pinned, goal=goal, **summary(found, scale=1e6))
        if memo.stats().computations > 1:  # the worker's own count may be under way
            raise RuntimeError("a hit was computed")


def _loop(delay: Any) -> Loop:
    def loop(calls: int) -> None:
        for _ in repeat(None, calls):
            if delay(7).get(timeout=PATIENCE)["id"] != 7:
                raise ValueError("a wrong result")

    return loop


@contextlib.contextmanager
def _app(url: str) -> Iterator[Any]:
    os.environ["WORKERKIT_BENCH_URL"] = url
    sys.modules.pop("_submit_app", None)  # another server's
    module = importlib.import_module("_submit_app")
    try:
        yield module
    finally:
        module.kit.close()
        module.app.close()


@contextlib.contextmanager
def _worker() -> Iterator[int]:
    """A real one, with Celery's own pool, one process wide; its pid."""
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "_submit_app", "worker", "-c", "1", "-l", "ERROR"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL) as worker:
        try:
            yield worker.pid
        finally:
            worker.terminate()
