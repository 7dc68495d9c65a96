"""Ties a kit to a Celery app: settings, tasks, the host, the pump, beat's entry and the ends of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from workerkit.celery.beat import WARM_TASK, install_schedule, warm_step
from workerkit.celery.checks import check_app, check_task_class
from workerkit.celery.fork import before_fork
from workerkit.celery.host import CeleryHost
from workerkit.celery.loop import Loops
from workerkit.celery.publisher import WARM_RUN, is_bound
from workerkit.celery.pump import pump_step
from workerkit.celery.runs import RunTimes

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

PREFIX = "workerkit_"


class Glue:
    """One kit on one app."""

    def __init__(self, kit: WorkerKit, app: Celery, given: Mapping[str, Any]) -> None:
        self._kit = kit
        self._app = app
        self._given = given
        self._loops = Loops()
        # Where the command line finds it; an attribute that Celery knows nothing of.
        app.workerkits = [*_kits(app), kit]  # type: ignore[attr-defined]  # see above
        engine = kit.engine
        engine.host = CeleryHost(app, self._loops.run)
        engine.personal += (Retry, Ignore, Reject, SoftTimeLimitExceeded)
        self._run_times = RunTimes(app, engine)
        self._equip_tasks()
        app.steps["worker"].add(pump_step(app, engine))
        app.steps["worker"].add(warm_step(kit))
        app.on_after_finalize.connect(self._finalized, weak=False)
        signals.worker_init.connect(before_fork, weak=False)
        # Children of a prefork pool end without running atexit handlers.
        signals.worker_process_shutdown.connect(self._ended, weak=False)
        signals.worker_shutdown.connect(self._ended, weak=False)

    def settings(self) -> Mapping[str, Any]:
        """The app's `workerkit_*` settings, without the prefix; those that were given to the kit go before."""
        conf = self._app.conf
        # With namespace="CELERY" the keys are listed as CELERY_WORKERKIT_..., and found by their plain names.
        names = {name.lower().removeprefix((conf.prefix or "").lower()) for name in conf}
        own = {name.removeprefix(PREFIX): conf[name] for name in names if name.startswith(PREFIX)}
        return {**own, **self._given}

    def task(self, fn: Callable[..., Any], options: dict[str, Any]) -> Any:
        """`app.task`, with a coroutine function made one that Celery can call."""
        return self._app.task(**options)(self._loops.wrapped(fn))

    def _equip_tasks(self) -> None:
        base: Any = self._app.Task
        if not hasattr(base, "memo"):
            base.memo = property(_memo)
        base.__init_subclass__ = classmethod(check_task_class)

    def _finalized(self, sender: Any, **_: Any) -> None:
        check_app(self._app)
        warm = self._kit.warmups
        if WARM_TASK not in self._app.tasks:
            _add_tasks(self._app)
        if (self.settings().get("warm_tick") or os.environ.get("WORKERKIT_WARM_TICK")) != "worker":
            warm.changed = lambda: install_schedule(self._app, warm)
            warm.changed()

    def _ended(self, **_: Any) -> None:
        self._kit.close()


def _kits(app: Celery) -> list[WorkerKit]:
    return getattr(app, "workerkits", [])


def _add_tasks(app: Celery) -> None:
    """The tasks of warming: one set for all kits of an app, also those that come later."""

    # Not shared: the next app in this process would run the warmups of this one.
    @app.task(name=WARM_TASK, shared=False, ignore_result=True, acks_late=True)
    def tick() -> None:
        for kit in _kits(app):
            kit.warmups.send_due()

    @app.task(name=WARM_RUN, shared=False, ignore_result=True, acks_late=True)
    def run(namespace: str, name: str, message: list[Any]) -> None:
        for kit in _kits(app):
            if kit.engine.settings.namespace == namespace:
                kit.warmups.go_on(name, message)


def _memo(task: Any) -> Any:
    found = getattr(task.run, "memo", None)
    if found is None:
        raise AttributeError(f"{task.name} is not memoized; put @kit.memoize(...) under its task decorator")
    return found.of(task) if is_bound(task) else found
