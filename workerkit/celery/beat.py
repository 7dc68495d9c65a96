"""What has warmups looked at: beat's one entry, or a thread of each worker. They may be many: ticks are claimed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps

from workerkit.api.warmups import Warmups

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

WARM_TASK = "workerkit.warm"
ENTRY = "workerkit-warm"
SHORTEST, LONGEST = 0.5, 15.0


def install_schedule(app: Celery, warmups: Warmups) -> None:
    """Have beat look four times an interval: a tick is run soon after it is due, wherever beat's own phase lies."""
    period = look_every(warmups)
    if period is None:
        return
    entry = {"task": WARM_TASK, "schedule": period, "options": {"expires": period * 4}}
    app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), ENTRY: entry}


def look_every(warmups: Warmups) -> float | None:
    """Seconds between two looks, None without warmups."""
    shortest = warmups.shortest
    return None if shortest is None else min(max(shortest / 4, SHORTEST), LONGEST)


class Looking:
    """A worker's thread: runs what is to run when it starts, and with `workerkit_warm_tick = "worker"` what is due."""

    def __init__(self, kit: WorkerKit) -> None:
        self._kit = kit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workerkit-warm", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        warmups, period = self._kit.warmups, look_every(self._kit.warmups)
        warmups.start()
        ticking = self._kit.engine.settings.warm_tick == "worker"
        while ticking and not self._stop.wait(period):
            warmups.send_due()


def warm_step(kit: WorkerKit) -> type[Any]:
    """The bootstep that has a worker look after a kit's warmups, after the pool has forked its children."""

    class WarmStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)
        looking: Looking | None = None

        def include_if(self, worker: Any) -> bool:
            return kit.warmups.shortest is not None

        def start(self, worker: Any) -> None:
            self.looking = Looking(kit)
            self.looking.start()

        def stop(self, worker: Any) -> None:
            if self.looking is not None:
                self.looking.stop()

        def terminate(self, parent: Any) -> None:
            self.stop(parent)

    return WarmStep
