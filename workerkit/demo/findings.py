"""All that is known of one run of the demo: the screen shows it while it grows, the summary judges it at the end."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workerkit.cache.ledger import CacheStats
from workerkit.demo.load import LARGE, SMALL
from workerkit.demo.referee import Verdict, judge

if TYPE_CHECKING:
    from workerkit.jobs.record import JobView
    from workerkit.limits.decision import Decision


@dataclass
class Outage:
    """The crash of the kit's Redis: when it was killed, was up again, and served a worker again (monotonic seconds)."""

    began: float | None = None
    ended: float | None = None
    served: float | None = None
    parked: int = 0

    @property
    def seconds(self) -> float:
        """How long there was no server; so far, while there is none."""
        return 0.0 if self.began is None else (self.ended or time.monotonic()) - self.began

    @property
    def under_way(self) -> bool:
        """Whether there is no server now."""
        return self.began is not None and self.ended is None


@dataclass
class Findings:
    """All that is known of a run. `expected` and `results` go by task id, `executions` are the tasks' own lines.

    `lookups` are the ids of lookups, `children` processes by their worker's, `reports` the API's times of tenants'
    calls, `refused` what each write of the woken zombie met. `top` is the command that watches this run, `busy` whether
    the machine had more to do than it has processors before the demo came.
    """

    seed: int
    began: float
    wanted: int
    expected: dict[str, Any] = field(default_factory=dict)
    lookups: set[str] = field(default_factory=set)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    executions: list[dict[str, Any]] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    warmed: str = ""
    calls_ms: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    rows_wanted: int = 0
    rows_per_second: float = 0.0
    verdict: Verdict = field(default_factory=lambda: judge(()))
    stats: CacheStats = field(default_factory=CacheStats)
    limit: Decision | None = None
    waiting: int = 0
    job: JobView[Any] | None = None
    children: dict[int, int] = field(default_factory=dict)
    ready: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    connections: int = 0
    pool_max: int = 0
    reports: list[tuple[float, str]] = field(default_factory=list)
    frozen: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    audit: JobView[Any] | None = None
    outage: Outage = field(default_factory=Outage)
    top: str = ""
    busy: bool = False
    left_behind: list[str] = field(default_factory=list)
    duration: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Seconds since the demo was started."""
        return self.duration or time.monotonic() - self.began

    @property
    def right(self) -> int:
        """Jobs that have ended with the result they must have."""
        return sum(
            meta["status"] == "SUCCESS" and meta["result"] == self.expected[task_id]
            for task_id, meta in self.results.items()
        )

    @property
    def unfair(self) -> float:
        """What share of the large tenant's calls came before the small one's last; 1.0: they had to wait for all."""
        times: dict[str, list[float]] = {tenant: [] for tenant, _ in (LARGE, SMALL)}
        for at, tenant in self.reports:
            times.get(tenant, []).append(at)
        large, small = times[LARGE[0]], times[SMALL[0]]
        return sum(at < max(small) for at in large) / len(large) if large and len(small) == SMALL[1] else 1.0

    def percentile_ms(self, percent: float) -> float:
        """The nearest-rank percentile of the calls' times, in milliseconds; 0.0 when none was measured."""
        times = sorted(self.calls_ms)
        return times[max(0, math.ceil(len(times) * percent / 100) - 1)] if times else 0.0

    def note(self, text: str) -> None:
        """Remember what happened, with its time."""
        self.notes.append(f"{self.elapsed:5.1f} s  {text}")
