"""All that is known of one run of the demo: the screen shows it while it grows, the summary judges it at the end."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workerkit.cache.ledger import CacheStats
from workerkit.demo.referee import Verdict, judge

if TYPE_CHECKING:
    from workerkit.jobs.record import JobView
    from workerkit.limits.decision import Decision


@dataclass
class Findings:
    """All that is known of a run. `expected` and `results` go by task id, `executions` are the tasks' own lines."""

    seed: int
    began: float
    wanted: int
    expected: dict[str, Any] = field(default_factory=dict)
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
    children: list[int] = field(default_factory=list)
    ready: bool = False
    killed: list[int] = field(default_factory=list)
    connections: int = 0
    pool_max: int = 0
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

    def percentile_ms(self, percent: float) -> float:
        """The nearest-rank percentile of the calls' times, in milliseconds; 0.0 when none was measured."""
        times = sorted(self.calls_ms)
        return times[max(0, math.ceil(len(times) * percent / 100) - 1)] if times else 0.0

    def note(self, text: str) -> None:
        """Remember what happened, with its time."""
        self.notes.append(f"{self.elapsed:5.1f} s  {text}")
