"""The demo's screen: one panel that fits 80 columns by 24 lines, and the same as one line for a log."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workerkit.demo.load import LARGE, LATER, LOOKUPS, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from workerkit.demo.findings import Findings

RATE, AT_ONCE = 50, 5
NOTES = 6


class Row(NamedTuple):
    """One thing to see: `share` (0 to 1) is drawn as a bar, None as no bar."""

    label: str
    share: float | None
    text: str


def panel(found: Findings) -> RenderableType:
    """The whole screen."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(style="bold cyan", no_wrap=True)
    grid.add_column(width=14)
    grid.add_column(ratio=1, no_wrap=True)
    for row in rows(found):
        bar = "" if row.share is None else ProgressBar(total=1.0, completed=min(row.share, 1.0), width=14)
        grid.add_row(row.label, bar, Text(row.text, overflow="ellipsis"))
    notes = (found.notes[-NOTES:] + [""] * NOTES)[:NOTES]
    told = [
        Text(note, style="yellow" if " SIG" in note else "dim", overflow="ellipsis", no_wrap=True) for note in notes
    ]
    title = f"[bold]workerkit demo[/] · seed {found.seed} · {found.elapsed:.1f} s"
    # Folded, not cut: it is there to be copied.
    watch = [Text(f"watch: {found.top}", style="green", overflow="fold")] if found.top else []
    return Panel(Group(grid, "", *told, *watch), title=title, title_align="left", border_style="cyan")


def rows(found: Findings) -> Iterator[Row]:
    """What the screen shows, from top to bottom."""
    yield Row("lookups", _answered(found) / LOOKUPS, f"{_answered(found)} of {LOOKUPS} answered")
    stats = found.stats
    yield Row(
        "cache", stats.hit_rate, f"{stats.hit_rate:.1%} hits · {stats.computations} computed · {stats.waits} waited"
    )
    yield _job(found)
    yield _limiter(found)
    yield _tenants(found)
    seen = found.verdict
    most = f"most {seen.max_in_any_second}/s, {seen.max_concurrent} at once"
    yield Row("API", seen.max_in_any_second / RATE, f"{seen.calls} calls · {seen.rejected} refused · {most}")
    yield Row("warmup", None, f"{found.events['warm.tick']} ticks · last: {found.warmed or 'none yet'}")
    for number, worker in enumerate(dict.fromkeys(found.children.values()), 1):
        children = [pid for pid, parent in found.children.items() if parent == worker]
        yield Row(f"worker {number}", None, "  ".join(f"{pid} {_doing(found, pid)}".rstrip() for pid in children))
    yield Row("zombie", None, _zombie(found))
    yield Row("Redis", None, _redis(found))


def line(found: Findings) -> str:
    """The same as one line."""
    job = found.job
    imported = f"{job.status} attempt {job.attempt}" if job else "not begun"
    return (
        f"{found.elapsed:5.1f} s  lookups {_answered(found)}/{LOOKUPS}, {found.stats.hit_rate:.1%} hits; "
        f"import {len(found.rows)}/{found.rows_wanted} rows, {imported}; "
        f"{found.waiting} parked; API {found.verdict.calls} calls, {found.verdict.rejected} refused"
    )


def _answered(found: Findings) -> int:
    return len(found.lookups & found.results.keys())


def _job(found: Findings) -> Row:
    job = found.job
    if job is None:
        return Row("import", 0.0, "not begun")
    done = job.progress.done or 0
    rate = f"{found.rows_per_second:.0f} rows/s"
    text = f"{done} of {found.rows_wanted} · {job.status} · attempt {job.attempt} · {rate}"
    return Row("import", done / found.rows_wanted, text)


def _tenants(found: Findings) -> Row:
    (large, many), (small, few), (later, more) = LARGE, SMALL, LATER
    done = Counter(tenant for _, tenant in found.reports)
    text = f"{large} {done[large]} of {many} · {small} {done[small]} of {few}"
    text += f" · {later} {done[later]} of {more}" if done[later] else ""
    return Row("tenants", sum(done.values()) / (many + few + more), text)


def _zombie(found: Findings) -> str:
    if found.refused:
        refused = sum(map(bool, found.refused.values()))
        return f"{found.frozen} woke up · {refused} of its {len(found.refused)} writes refused"
    if not found.frozen:
        return "none yet"
    job = found.audit
    return f"{found.frozen} frozen · attempt {job.attempt} {job.status}" if job else f"{found.frozen} frozen"


def _redis(found: Findings) -> str:
    outage = found.outage
    if outage.under_way:
        return f"down for {outage.seconds:.1f} s · {outage.parked} tasks parked in it"
    latency = f"p50 {found.percentile_ms(50):.2f} · p99 {found.percentile_ms(99):.2f} ms"
    if outage.ended is None:
        return f"{latency} · {found.connections} connections"
    return f"{latency} · back after {outage.seconds:.1f} s"


def _doing(found: Findings, pid: int) -> str:
    if pid in found.killed:
        return "killed"
    if pid == found.frozen and not found.refused:
        return "frozen"
    job = found.job
    return "import" if job is not None and job.status == "RUNNING" and job.data.pid == pid else ""


def _limiter(found: Findings) -> Row:
    used = RATE - found.limit.remaining if found.limit else 0
    return Row(
        "limiter",
        used / RATE,
        f"{used} of {RATE} used · {found.waiting} parked, {found.events['throttle.parked']} so far",
    )
