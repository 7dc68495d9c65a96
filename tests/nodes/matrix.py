"""The canvas matrix: every canvas of every layer at once on one worker, and what can be seen of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from celery import chain, chord, group
from celery.canvas import chunks, xmap, xstarmap
from celery.result import GroupResult

from tests.nodes import app as project
from workerkit.jobs.record import JobInfo

LAYERS = ("plain", "memoize", "throttle", "job", "stacked", "coroutine")
VALUES = (0, 1, 2, 0, 1, 2)
PATIENCE = 60.0  # seconds for all cells of a worker


class Canvas(NamedTuple):
    """How it is built of a task in a cell's name, what comes of it, and how many calls that is."""

    build: Callable[[Any, str], Any]
    result: Any
    runs: int
    different: int
    heads: int
    """Those that no other task led to."""
    inner: bool = False
    """Whether its calls are made inside a task of Celery's own."""


def items(name: str) -> list[list[Any]]:
    return [[name, value] for value in VALUES]


def pair(task: Any, name: str) -> Any:
    return chord([task.s([name, 0]), task.s([name, 1])], task.s())


CANVASES = {
    "group": Canvas(lambda task, name: group(task.s(item) for item in items(name)), list(VALUES), 6, 3, 6),
    "chord": Canvas(lambda task, name: chord([task.s(item) for item in items(name)], task.s()), 6, 7, 4, 6),
    "chain": Canvas(lambda task, name: chain(task.s([name, 1]), task.s(), task.s(), task.s(add=1)), 2, 4, 2, 1),
    "chunks": Canvas(
        lambda task, name: chunks(task.s(), [(item,) for item in items(name)], 2, app=project.app).group(),
        [[0, 1], [2, 0], [1, 2]], 6, 3, 6, inner=True,
    ),
    "map": Canvas(lambda task, name: xmap(task.s(), items(name), app=project.app), list(VALUES), 6, 3, 6, inner=True),
    "starmap": Canvas(
        lambda task, name: xstarmap(task.s(), [(item,) for item in items(name)], app=project.app),
        list(VALUES), 6, 3, 6, inner=True,
    ),
    "nested": Canvas(
        lambda task, name: chord([pair(task, name), chain(task.s([name, 1]), task.s(add=10))], task.s()), 12, 6, 5, 3
    ),
}  # fmt: skip
CELLS = [f"{canvas} {layer}" for canvas in CANVASES for layer in LAYERS]


@dataclass
class Outcome:
    """What one cell came to."""

    sent: float
    result: Any = None
    ids: list[str] = field(default_factory=list)
    calls: list[project.Asked] = field(default_factory=list)
    jobs: list[JobInfo] = field(default_factory=list)


class Matrix:
    """All cells, sent together; then read, so that nothing is asked of the nodes afterwards."""

    def __init__(self, url: str, left: Callable[[], dict[str, int]]) -> None:
        api = project.Api(url)
        self.outcomes: dict[str, Outcome] = {}
        results = {}
        for name in CELLS:
            canvas, _, layer = name.partition(" ")
            seconds, micros = api.redis.time()
            self.outcomes[name] = Outcome(seconds + micros / 1e6)
            results[name] = CANVASES[canvas].build(getattr(project, layer), name).apply_async()
        until = time.monotonic() + PATIENCE
        with project.WorkerKit(url=url, timeout=10) as kit:
            for name, outcome in self.outcomes.items():
                outcome.result = _values(results[name].get(timeout=max(1.0, until - time.monotonic())))
                outcome.ids = _ids(results[name])
                outcome.calls = api.calls(name)
                outcome.jobs = kit.jobs.list(owner=name, most=1000).jobs
            self.left = {"parked": kit.waitlist.count(), **left()}


def _values(found: Any) -> Any:
    """The values without the cell's name that they carry."""
    if isinstance(found, list) and found and isinstance(found[0], str):
        return found[1]
    return [_values(each) for each in found] if isinstance(found, list) else found


def _ids(result: Any) -> list[str]:
    """Those of a result's own tasks: a group's members, else the last task and those before it."""
    if isinstance(result, GroupResult):
        return [each.id for each in result.results]
    return [] if result is None else [result.id, *_ids(result.parent)]
