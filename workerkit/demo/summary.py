"""The demo's verdict: each figure with its bound and with what it was worked out from. None of them is a constant."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

if TYPE_CHECKING:
    from workerkit.demo.findings import Findings

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
    rows = set(found.rows) & set(range(1, wanted + 1))
    return [
        Figure("jobs_sent", sent, found.wanted, found.wanted, "lookups and one import"),
        Figure("jobs_done", found.right, sent, sent, "right results in the backend"),
        Figure("upstream_calls", seen.calls, 1, None, "the API's log"),
        Figure("upstream_rejected", seen.rejected, 0, 0, "the API's log"),
        Figure("max_in_any_second", seen.max_in_any_second, 1, 50, "the API's log"),
        Figure("max_concurrent", seen.max_concurrent, 1, 5, "the API's log"),
        Figure("hit_rate", round(found.stats.hit_rate, 4), 0.8, 1, "the fleet's ledger"),
        Figure("redis_p50_ms", round(found.percentile_ms(50), 3), 0.001, 4.999, f"{len(found.calls_ms)} timed calls"),
        Figure("redis_p99_ms", round(found.percentile_ms(99), 3), 0.001, 4.999, "the same"),
        Figure("import_rows", len(rows), wanted, wanted, "rows that tasks wrote down"),
        Figure("import_lost", wanted - len(rows), 0, 0, "rows never written down"),
        Figure("import_repeated", len(found.rows) - len(rows), 0, BATCH, "rows twice: a batch at most"),
        Figure("import_attempts", found.job.attempt if found.job else 0, 2, None, "the job's record"),
        Figure("kills", len(found.killed), 1, 1, "SIGKILLs sent to the import"),
        Figure("retries_burned", retries(found), 0, 0, "results, and all executions"),
        Figure("tasks_parked", found.events["throttle.parked"], None, None, "the kit's events"),
        Figure("pool_max_seen", found.pool_max, 1, 50, "CLIENT LIST, and pool sizes"),
        Figure("left_behind", len(found.left_behind), 0, 0, "processes and files"),
        Figure("duration_s", round(found.duration, 1), None, 60, "the last clean-up included"),
    ]


def retries(found: Findings) -> int:
    """Retries used up, by the most that a result or an execution of a task says."""
    used = {task_id: int(meta.get("retries") or 0) for task_id, meta in found.results.items()}
    for execution in found.executions:
        spent = int(execution["retries"] or 0) + (execution["state"] == "RETRY")
        used[execution["id"]] = max(used.get(execution["id"], 0), spent)
    return sum(used.values())


def report(found: Findings) -> dict[str, Any]:
    """The figures for machines."""
    made = figures(found)
    missed = [figure.name for figure in made if not figure.holds]
    around = {"seed": found.seed, "load_average": round(os.getloadavg()[0], 2), "cpus": os.cpu_count()}
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
