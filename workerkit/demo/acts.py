"""What is done to a run of the demo while it goes on: each act looks at every tick whether its moment has come."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workerkit.demo import load
from workerkit.testing.drill import ZombieDrill

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workerkit.demo.findings import Findings
    from workerkit.demo.watch import Watch
    from workerkit.io.embedded import EmbeddedServer

KILL_AT, CRASH_AT = 0.4, 0.6  # of the import's rows
TENANTS_AFTER = 1.0  # seconds
FROZEN, REPLACED = 2.0, 1.0  # seconds that a zombie lies there before, and after, another attempt has done its work
OUTAGE = 1.0  # seconds without the kit's Redis
ENOUGH, BACKLOG = 30, 1.5  # tasks parked in it before it crashes, and the seconds to wait for them
LATEST = 20.0  # seconds after which it crashes whatever else there is to be seen: what it delays must still come back


@dataclass(frozen=True)
class Scene:
    """What the acts have to do with."""

    found: Findings
    watch: Watch
    home: Path
    store: EmbeddedServer
    began: float  # when the load was sent, in monotonic seconds

    @property
    def progress(self) -> float:
        """The share of the import's rows that are saved."""
        job = self.found.job
        return (job.progress.done or 0) / load.ROWS if job is not None else 0.0

    @property
    def age(self) -> float:
        """Seconds since the load was sent."""
        return time.monotonic() - self.began


class Act(Protocol):
    """Something that is done once; `over` says that it has been."""

    over: bool

    def step(self, scene: Scene) -> None:
        """Do what is to be done now."""


class Tenants:
    """Two tenants want something at once, one of them much more than the other."""

    over = False

    def __init__(self) -> None:
        self._sent = False

    def step(self, scene: Scene) -> None:
        """Send all of it, then wait for the smaller one's last."""
        (large, many), (small, few) = load.LARGE, load.SMALL
        if not self._sent and scene.age >= TENANTS_AFTER:
            self._sent = True
            for tenant, count in (load.LARGE, load.SMALL):
                scene.watch.send_reports(tenant, count)
            each = load.REPORTS_PER_SECOND
            scene.found.note(f"{large} wants {many} reports, then {small} {few}: {each} a second, in turns")
        elif self._sent and not self.over and sum(tenant == small for _, tenant in scene.found.reports) == few:
            self.over = True
            done = sum(tenant == large for _, tenant in scene.found.reports)
            scene.found.note(f"{small} has all its {few} reports, and {large} {done} of {many}")


class Kill:
    """The process that is at the import is killed; another one goes on."""

    over = False

    def step(self, scene: Scene) -> None:
        """Kill it, then wait for who goes on."""
        found, job = scene.found, scene.found.job
        if self.over or job is None:
            return
        if not found.killed:
            running = job.status == "RUNNING" and scene.progress >= KILL_AT
            if running and scene.watch.is_child(pid := job.data.pid):
                os.kill(pid, signal.SIGKILL)
                found.killed.append(pid)
                found.note(f"SIGKILL to child {pid}, in the import, with {job.progress.done} rows saved")
        elif job.attempt > 1 and job.data.pid not in found.killed:
            self.over = True
            found.note(f"the import goes on: attempt {job.attempt}, in child {job.data.pid}")


class Zombie:
    """An attempt of the audit is frozen; its message comes again, and when that is done, it wakes up and writes."""

    over = False

    def __init__(self, folder: Path) -> None:
        self._drill = ZombieDrill(folder)
        self._next = 0.0

    def step(self, scene: Scene) -> None:
        """Freeze, replace or wake it, whichever is next."""
        found, now = scene.found, time.monotonic()
        if self.over or now < self._next:
            return
        if not found.frozen:
            if (self._drill.folder / "pid").exists():
                found.frozen = self._drill.stop()
                self._next = now + FROZEN
                found.note(f"SIGSTOP to child {found.frozen}, in the audit: a zombie")
        elif found.audit is not None and found.audit.attempt == 1:
            scene.watch.send_audit()
            self._next = now + REPLACED
        elif found.audit is not None and found.audit.status == "SUCCESS":
            found.refused = self._drill.wake()
            self.over = True
            refused = sum(map(bool, found.refused.values()))
            found.note(f"the zombie {found.frozen} woke up: {refused} of its {len(found.refused)} writes were refused")


class Crash:
    """The kit's Redis is killed while tasks are parked in it, and started again on its append-only file."""

    over = False

    def __init__(self, after: Sequence[Act]) -> None:
        self._after = after
        self._sent = 0.0

    def step(self, scene: Scene) -> None:
        """Park, kill or start, whichever is next."""
        found, outage, now = scene.found, scene.found.outage, time.monotonic()
        if self.over:
            return
        if not self._sent:
            due = scene.progress >= CRASH_AT and all(act.over for act in self._after)
            if due or scene.age >= LATEST:
                self._sent = now
                scene.watch.send_reports(*load.LATER)
        elif outage.began is None:
            if found.waiting >= ENOUGH or now >= self._sent + BACKLOG:
                self._crash(scene)
        elif now >= outage.began + OUTAGE:
            scene.store.start()
            outage.ended, self.over = time.monotonic(), True
            found.note(f"Redis is up again after {outage.seconds:.1f} s, pid {scene.store.pid}, with what it had")

    @staticmethod
    def _crash(scene: Scene) -> None:
        found, outage = scene.found, scene.found.outage
        pid = scene.store.pid
        outage.parked, outage.began = found.waiting, time.monotonic()
        os.kill(pid, signal.SIGKILL)
        found.note(f"SIGKILL to the kit's Redis, pid {pid}, with {outage.parked} tasks parked in it")
