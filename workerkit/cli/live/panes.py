"""The five panes: what each says in its heading, and its rows, the most urgent first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from workerkit.cli.live import text
from workerkit.cli.live.table import Cell, Column, Table
from workerkit.jobs.record import JobInfo
from workerkit.limits.usage import RateUsage, Usage
from workerkit.top.change import total
from workerkit.top.news import clock
from workerkit.top.snapshot import Limit, LimitKey, Snapshot, Warm
from workerkit.top.watch import Watch

BAD, POOR, GOOD, DIM = "bold red", "yellow", "green", "dim"
LATE = 5.0  # seconds: until then a tick is about to be begun
NEAR = 0.8  # of a limit: close to it
UNKNOWN = "not known: its Redis cannot be read"


class Pane(NamedTuple):
    """A pane as it is drawn: its name, what its heading says besides (all, where there are no rows), and its rows."""

    name: str
    said: str
    table: Table


def limits(watch: Watch, found: Snapshot, full: bool) -> Pane:
    """What limiters have left, and who waits for them; in `full` each of their rates, and everybody."""
    columns = (
        Column("", least=12, right=False, grows=True),
        Column("", rank=4, least=6, right=False, prose=True),
        Column("", rank=2, width=8, right=False),
        Column("left", width=6),
        Column("slots", rank=3),
        Column("ok/s", rank=1, width=5),
        Column("no/s", rank=1, width=5),
        Column("waits", width=5),
        Column("", rank=5, least=16, right=False, prose=True),
    )
    known = [(limit, key) for limit in found.limits or () for key in (limit.keys or (None,))]
    known.sort(key=lambda each: (*_urgency(each[1]), each[0].name))
    rows = []
    for limit, key in known:
        rows.append(_limit_row(watch, limit, key))
        if full and key is not None:
            rows += _details(key)
    table = _lean(_lean(Table(columns, rows), "slots"), "")
    admitted = sum(each.admitted for each in watch.change.limits.values())
    refused = sum(each.refused for each in watch.change.limits.values())
    rates = f"{text.rate(watch.change.rate(admitted))} ok/s, {text.rate(watch.change.rate(refused))} no/s"
    said = f"{_parked(found)}{rates}" if found.limits else "no limiter"
    return _pane("Limits", found.limits, said, table)


def _parked(found: Snapshot) -> str:
    parked = found.parked
    if parked is None or not any((parked.waiting, parked.returning, parked.quarantined)):
        return ""
    said = f"{text.count(parked.waiting)} parked, "
    if parked.quarantined:
        said += f"{text.count(parked.quarantined)} QUARANTINED, "
    if parked.returning:
        said += f"{text.count(parked.returning)} returning, "
    return said


def _urgency(key: LimitKey | None) -> tuple[int, int]:
    """What must be seen first, then by name: rows that jump at each refresh cannot be read."""
    if key is None:
        return 4, 0
    waits, usage = len(key.waiting) + key.parked, key.usage
    return (0 if usage and usage.paused else 1 if waits else 2 if _share(usage) >= NEAR else 3), -waits


def _share(usage: Usage | None) -> float:
    """How much of what it has least of is used, 0 to 1."""
    if usage is None:
        return 0.0
    shares = [_used(rate) for rate in usage.rates]
    if usage.concurrency:
        shares.append(usage.holders / usage.concurrency)
    return max(shares, default=0.0)


def _left(rate: RateUsage) -> int:
    return rate.remaining if rate.told is None else min(rate.remaining, rate.told)


def _used(rate: RateUsage) -> float:
    return 1 - _left(rate) / rate.limit if rate.limit else 1.0


def _limit_row(watch: Watch, limit: Limit, key: LimitKey | None) -> list[Cell]:
    usage = key.usage if key else None
    title = text.name(f"{limit.name} {key.key}".rstrip() if key else limit.name)
    if key is None:
        rates = text.name(", ".join(limit.rates))
        return [Cell(title, DIM), Cell(rates, DIM), Cell("", DIM), Cell("idle", DIM), *[Cell("-", DIM)] * 4, Cell("")]
    tightest = max(usage.rates, key=_used, default=None) if usage else None
    share = _share(usage)
    style = _alarm(share)
    now = watch.change.keys.get((limit.name, key.key))
    refused = watch.change.rate(now.refused) if now else None
    waits = len(key.waiting) + key.parked
    slots = f"{usage.holders}/{usage.concurrency}" if usage and usage.concurrency else "-"
    return [
        Cell(title),
        Cell(text.name(tightest.rate) if tightest else "-"),
        Cell(text.bar(share, 8) if usage else "-", style),
        Cell(f"{_left(tightest):,}/{tightest.limit:,}" if tightest else "-", style if usage else ""),
        Cell(slots),
        Cell(text.rate(watch.change.rate(now.admitted) if now else None)),
        Cell(text.rate(refused), POOR if refused else ""),
        Cell(text.count(waits), BAD if waits else DIM),
        _limit_note(key, usage),
    ]


def _details(key: LimitKey) -> Iterator[list[Cell]]:
    usage = key.usage
    for rate in usage.rates if usage and len(usage.rates) > 1 else ():
        style = _alarm(_used(rate))
        left = f"{_left(rate):,}/{rate.limit:,}"
        again = f"free in {text.span(rate.reset_after)}" if rate.reset_after else ""
        yield [
            Cell(text.name(f"  {rate.rate}"), DIM),
            Cell(""),
            Cell(text.bar(_used(rate), 8), style),
            Cell(left, style),
            *[Cell("")] * 4,
            Cell(again, DIM),
        ]
    for who in key.waiting:
        yield [Cell(text.name(f"  {who} waits"), POOR), *[Cell("")] * 8]


def _alarm(share: float) -> str:
    return BAD if share >= 0.995 else POOR if share >= NEAR else GOOD


def _limit_note(key: LimitKey, usage: Usage | None) -> Cell:
    if usage and usage.paused:
        return Cell(f"paused for {text.span(usage.paused)}", BAD)
    learned = min((rate.learned for rate in usage.rates), default=1.0) if usage else 1.0
    if learned < 1:
        return Cell(f"learned: {text.percent(learned)} of its rate", POOR)
    if key.waiting:
        return Cell(text.name(f"{key.waiting[0]} waits"), POOR)
    if key.parked and key.bound_by:
        return Cell(text.name(f"refused by {key.bound_by}"), POOR)
    return Cell("configured" if usage and usage.configured else "", DIM)


def cache(watch: Watch, found: Snapshot, full: bool) -> Pane:
    """What the cache saved, by function."""
    columns = (
        Column("", least=12, right=False, grows=True),
        Column("calls/s", width=6),
        Column("hits", width=4),
        Column("ever", rank=4, width=4),
        Column("computed/s", rank=2, width=5),
        Column("stale/s", rank=5, width=5),
        Column("failed/s", rank=3, width=5),
        Column("saved/s", rank=1, width=5),
        Column("saved", width=6),
    )
    functions, change = found.functions or {}, watch.change
    rows = []
    for name, stats in functions.items():
        now = change.functions.get(name, type(stats)())
        failed = now.failures + now.errors
        recent = now if now.calls else stats
        style = DIM if not recent.calls else GOOD if recent.hit_rate >= 0.8 else POOR if recent.hit_rate >= 0.4 else BAD
        cells = [
            Cell(text.name(name)),
            Cell(text.rate(change.rate(now.calls))),
            Cell(text.percent(recent.hit_rate) if recent.calls else "-", style),
            Cell(text.percent(stats.hit_rate) if stats.calls else "-"),
            Cell(text.rate(change.rate(now.computations))),
            Cell(text.rate(change.rate(now.stale))),
            Cell(text.rate(change.rate(failed)), BAD if failed else ""),
            Cell(_spared(change.rate(now.saved))),
            Cell(text.span(stats.saved)),
        ]
        rows.append((-now.calls, -stats.saved, cells))
    rows.sort(key=lambda each: each[:2])
    table = Table(columns, [cells for *_, cells in rows])
    for title, none in (("stale/s", "0"), ("failed/s", "0")):
        table = _lean(table, title, none=none)
    lately = change.all_functions if change.all_functions.calls else total(functions)
    hits = f"{text.percent(lately.hit_rate)} hits" if lately.calls else "no calls yet"
    return _pane("Cache", found.functions, hits if rows else "no memoized function", table)


def _spared(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}s" if seconds < 99.95 else f"{seconds:,.0f}s"


def jobs(watch: Watch, found: Snapshot, full: bool) -> Pane:
    """Those that are stuck, those that run, and the last that failed."""
    columns = (
        Column("", least=18, right=False, grows=True),
        Column("", rank=7, least=13, right=False),
        Column("", width=7, right=False),
        Column("", rank=4, width=8, right=False),
        Column("done", rank=1, width=4),
        Column("items/s", rank=5, width=5),
        Column("eta", rank=3, width=5),
        Column("beat", width=5),
        Column("try", rank=6),
        Column("", rank=2, least=16, right=False, prose=True),
    )
    board = found.jobs
    if board is None:
        return _pane("Jobs", None, "", Table(columns, ()))
    rows = [_job_row(job, found.at) for job in (*board.stuck, *board.running, *board.failed)]
    counts, stuck = board.counts, f"{len(board.stuck)}{'+' if board.more else ''}"
    said = [f"{text.count(counts['RUNNING'])} running", f"{stuck} STUCK" if board.stuck else "0 stuck"]
    said += [
        f"{text.count(counts[status])} {status.lower()}"
        for status in ("RETRY", "FAILURE", "POISONED", "LOST")
        if counts[status]
    ]
    table = _lean(Table(columns, rows), "")
    return _pane("Jobs", board, ", ".join(said), table)


def _job_row(job: JobInfo, at: float) -> list[Cell]:
    progress = job.progress
    share = progress.done / progress.total if progress.total and progress.done is not None else None
    style = BAD if job.stuck or job.status in {"FAILURE", "POISONED"} else POOR if job.cancelling else GOOD
    status = "stuck" if job.stuck else "cancelling" if job.cancelling else job.status.lower()
    ended = job.ended is not None
    why = f"{job.error.type}: {job.error.message}" if job.error else progress.message or ""
    return [
        Cell(text.name(job.task or "-")),
        Cell(text.name(job.id), DIM),
        Cell(status, style),
        Cell("" if share is None else text.bar(share, 8), style),
        Cell(text.percent(share) if share is not None else "-" if progress.done is None else text.count(progress.done)),
        Cell(text.rate(progress.rate)),
        Cell("-" if progress.eta is None or ended else text.span(progress.eta)),
        Cell(
            text.span(at - job.ended) if job.ended is not None else text.span(job.heartbeat), BAD if job.stuck else ""
        ),
        Cell(f"{job.attempt}", POOR if job.attempt > 1 else ""),
        Cell(text.name(why), DIM),
    ]


def warmups(watch: Watch, found: Snapshot, full: bool) -> Pane:
    """What is to be warmed, when, and what was left undone."""
    columns = (
        Column("", least=12, right=False, grows=True),
        Column("", rank=4, least=8, right=False),
        Column("next", width=9),
        Column("debt", width=4),
        Column("warmed", rank=1, width=6),
        Column("fresh", rank=2, width=5),
        Column("failed", rank=1, width=6),
        Column("left", rank=2, width=4),
        Column("missed", rank=3),
        Column("overlaps", rank=5),
        Column("runs", rank=5),
        Column("", rank=6, least=16, right=False, prose=True),
    )
    known = sorted(found.warmups or (), key=lambda warm: (-bool(warm.status.reason), -(warm.late > LATE), -warm.debt))
    rows = [_warm_row(warm, found.at) for warm in known]
    table = Table(columns, rows)
    table = _lean(_lean(_lean(table, "missed", none="0"), "overlaps", none="0"), "")
    debt, late = sum(warm.debt for warm in known), sum(warm.late > LATE for warm in known)
    said = f"debt {text.count(debt)}, {late} late" if known else "no warmup"
    return _pane("Warmups", found.warmups, said, table)


def _warm_row(warm: Warm, at: float) -> list[Cell]:
    status, last = warm.status, warm.status.last
    style, failed = (BAD if status.reason else ""), last.failed if last else 0
    figures = ["-"] * 4 if last is None else [text.count(each) for each in last]
    return [
        Cell(text.name(status.name), style),
        Cell(status.schedule, DIM),
        _next(warm, at),
        Cell(text.count(warm.debt), BAD if warm.debt else DIM),
        *[Cell(figure, BAD if i == 2 and failed else "") for i, figure in enumerate(figures)],
        Cell(text.count(status.missed), POOR if status.missed else DIM),
        Cell(text.count(status.overlaps), POOR if status.overlaps else DIM),
        Cell(text.count(status.runs)),
        Cell(text.name(status.reason), BAD),
    ]


def _next(warm: Warm, at: float) -> Cell:
    status = warm.status
    if status.running is not None:
        return Cell(f"runs {text.span(at - status.running)}", GOOD)
    if status.paused:
        return Cell("paused", POOR)
    if warm.late > LATE:
        return Cell(f"late {text.span(warm.late)}", BAD)
    left = status.next - at
    return Cell(f"in {text.span(left)}" if left >= 1 else "now")


def events(watch: Watch, found: Snapshot, full: bool) -> Pane:
    """What happened, the newest first."""
    columns = (
        Column("", width=8, right=False),
        Column("", rank=1, right=False),
        Column("", least=12, right=False, grows=True, prose=True),
    )
    styles = {"bad": BAD, "good": GOOD, "note": ""}
    rows = [
        [Cell(clock(each.at), DIM), Cell(each.name, DIM), Cell(text.name(each.said), styles[each.level])]
        for each in reversed(watch.news)
    ]
    return Pane("Events", "" if rows else "none yet", Table(columns, rows))


def _pane(title: str, known: object, said: str, table: Table) -> Pane:
    return Pane(title, UNKNOWN if known is None else said, table)


def _lean(table: Table, title: str, *, none: str = "") -> Table:
    """Without a column that says nothing in any row: the last of this title."""
    i = max(i for i, column in enumerate(table.columns) if column.title == title)
    if i == 0 or any(row[i].text.strip() not in {"", "-", none} for row in table.rows):
        return table
    return Table([*table.columns[:i], *table.columns[i + 1 :]], [[*row[:i], *row[i + 1 :]] for row in table.rows])


PANES: tuple[Callable[[Watch, Snapshot, bool], Pane], ...] = (limits, jobs, cache, warmups, events)


def all_panes(watch: Watch, found: Snapshot, *, full: bool = False) -> list[Pane]:
    """Each of them, in the order of their numbers; in `full`: with all that there is to tell."""
    return [make(watch, found, full) for make in PANES]
