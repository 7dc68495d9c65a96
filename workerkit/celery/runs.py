"""How long tasks run, noted by the processes that run them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from workerkit.telemetry.runs import LEAST, Runs

if TYPE_CHECKING:
    from workerkit.api.engine import Engine

_BEGAN = "workerkit_began"


class RunTimes:
    """Hears of the beginning and the end of each task of an app. What it notes is sent with the counts."""

    def __init__(self, app: Celery, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._runs: Runs | None = None
        # Weakly: with the kit goes its interest in tasks.
        signals.task_prerun.connect(self._began)
        signals.task_postrun.connect(self._ended)

    def _began(self, task: Any = None, **_: Any) -> None:
        # On the request, which ends with the execution: nothing is left behind, whatever becomes of it.
        setattr(task.request, _BEGAN, time.monotonic())

    def _ended(self, task: Any = None, **_: Any) -> None:
        request = task.request
        began = getattr(request, _BEGAN, None)
        if began is None or task.app is not self._app or request.is_eager:
            return
        seconds = time.monotonic() - began
        if seconds >= LEAST:
            self._noted().note(task.name, seconds)
            self._engine.flusher.begin()

    def _noted(self) -> Runs:
        if self._runs is None:
            self._runs = Runs(self._engine.keys("t"))
            self._engine.flusher.add_runs(self._runs)
        return self._runs
