"""The demo's verdict: each figure with its bound and with what it was worked out from. None of them is a constant."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from workerkit.testing.drill import WRITES

if TYPE_CHECKING:
    from workerkit.demo.findings import Findings

# On a machine that has other things to do whatever is timed waits for a CPU, too.
P50 = {False: 4.999, True: 24.999}  # ms
P99 = {False: 4.999, True: 49.999}
UNFAIR = {False: 0.85, True: 0.95}  # in the order of their coming it is 1.0
AGAIN = {False: 5.0, True: 15.0}  # seconds
BATCH = 100  # rows that `job.each` saves at once
MEASURED = (
    "Redis was timed in cache.get and limiter.peek: in the worker's children before each lookup, and here a few times "
    "a second. Load average {load:.1f} on {cpus} CPUs: what waits for a CPU is in it."
)


class Figure(NamedTuple):
    """A figure, the lowest and highest value it may have (None: any), and what it was taken from."""

    name: str
    value: float
    low: float | None
    high: float | None
    source: str

    @property
    def holds(self) -> bool:
        """Whether it is within its bound."""
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    @property
    def bound(self) -> str:
        """The bound as text."""
        if self.low == self.high:
            return "" if self.low is None else f"= {self.low:g}"
        if self.low is None or self.high is None:
            return f">= {self.low:g}" if self.high is None else f"<= {self.high:g}"
        return f"{self.low:g} .. {self.high:g}"


def figures(found: Findings) -> list[Figure]:
    """What the run has shown."""
    sent, seen, wanted = len(found.expected), found.verdict, found.rows_wanted
    refused = sum(map(bool, found.refused.values()))
    rows = set(found.rows) & set(range(1, wanted + 1))
    return [
        Figure("jobs_sent", sent, found.wanted, found.wanted, "tasks of four kinds"),
        Figure("jobs_done", found.right, sent, sent, "right results in the backend"),
        Figure("upstream_calls", seen.calls, 1, None, "the API's log"),
        Figure("upstream_rejected", seen.rejected, 0, 0, "the API's log"),
        Figure("max_in_any_second", seen.max_in_any_second, 1, 50, "the API's log"),
        Figure("max_concurrent", seen.max_concurrent, 1, 5, "the API's log"),
        Figure("hit_rate", round(found.stats.hit_rate, 4), 0.8, 1, "the fleet's ledger"),
        Figure(
            "redis_p50_ms",
            round(found.percentile_ms(50), 3),
            0.001,
            P50[found.busy],
            f"{len(found.calls_ms)} timed calls",
        ),
        Figure("redis_p99_ms", round(found.percentile_ms(99), 3), 0.001, P99[found.busy], "the same"),
        Figure("import_rows", len(rows), wanted, wanted, "rows that tasks wrote down"),
        Figure("import_lost", wanted - len(rows), 0, 0, "rows never written down"),
        Figure("import_repeated", len(found.rows) - len(rows), 0, 2 * BATCH, "rows twice: a batch each time"),
        Figure("import_attempts", found.job.attempt if found.job else 0, 2, None, "the job's record"),
        Figure("kills", len(found.killed), 1, 1, "SIGKILLs sent to the import"),
        Figure("zombie_refused", refused, len(WRITES), len(WRITES), "kinds of writes it tried"),
        Figure("zombie_counted", found.audit.data.rows - 1 if found.audit else -1, 0, 0, "the audit's record"),
        Figure("unfair_share", round(found.unfair, 2), 0, UNFAIR[found.busy], "large before small: API log"),
        Figure("crashes", int(found.outage.ended is not None), 1, 1, "SIGKILLs sent to Redis"),
        Figure("parked_at_crash", found.outage.parked, 1, None, "the waitlist, just before"),
        Figure("serving_again_s", round(_again(found), 2), 0, AGAIN[found.busy], "a worker's first timed call"),
        Figure("retries_burned", retries(found), 0, 0, "lookups and reports"),
        Figure("tasks_parked", found.events["throttle.parked"], None, None, "the kit's events"),
        Figure("pool_max_seen", found.pool_max, 1, 50, "CLIENT LIST, and pool sizes"),
        Figure("left_behind", len(found.left_behind), 0, 0, "processes and files"),
        Figure("duration_s", round(found.duration, 1), None, 60, "the last clean-up included"),
    ]


def _again(found: Findings) -> float:
    """Seconds from the return of Redis to the first call that a worker got through; -1 without one."""
    outage = found.outage
    return -1.0 if outage.ended is None or outage.served is None else outage.served - outage.ended


def retries(found: Findings) -> int:
    """Retries used up by lookups and reports, by the most that a result or an execution of one says."""
    # The import says that it is to be retried when Redis is down; for waiting nobody may need one.
    waiting = {task_id for task_id, value in found.expected.items() if isinstance(value, str)}
    used = {task_id: int(meta.get("retries") or 0) for task_id, meta in found.results.items() if task_id in waiting}
    for execution in found.executions:
        if execution["id"] not in waiting:
            continue
        spent = int(execution["retries"] or 0) + (execution["state"] == "RETRY")
        used[execution["id"]] = max(used.get(execution["id"], 0), spent)
    return sum(used.values())


def report(found: Findings) -> dict[str, Any]:
    """The figures for machines."""
    made = figures(found)
    missed = [figure.name for figure in made if not figure.holds]
    around = {
        "seed": found.seed,
        "load_average": round(os.getloadavg()[0], 2),
        "cpus": os.cpu_count(),
        "busy": found.busy,
    }
    return {**around, **{figure.name: figure.value for figure in made}, "ok": not missed, "missed": missed}


def table(found: Findings) -> Table:
    """The figures for people."""
    caption = MEASURED.format(load=os.getloadavg()[0], cpus=os.cpu_count())
    made = Table(title=f"workerkit demo, seed {found.seed}", caption=caption, box=None, pad_edge=False, padding=(0, 1))
    made.title_justify = made.caption_justify = "left"
    made.add_column("figure", style="bold", no_wrap=True)
    made.add_column("value", justify="right", no_wrap=True)
    made.add_column("bound", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("worked out from", style="dim")
    for figure in figures(found):
        verdict = "" if not figure.bound else "[green]ok[/]" if figure.holds else "[bold red]MISSED[/]"
        made.add_row(figure.name, f"{figure.value:g}", figure.bound, verdict, figure.source)
    return made
