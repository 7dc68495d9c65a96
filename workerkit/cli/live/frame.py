"""One frame: a header that says whether all is well, the panes, and what the keys do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from rich.text import Text

from workerkit.cli.live import table, text
from workerkit.cli.live.layout import columns, shares
from workerkit.cli.live.panes import BAD, DIM, GOOD, POOR, Pane, all_panes
from workerkit.cli.live.view import HELP, View
from workerkit.core.durations import humanize
from workerkit.top.change import total
from workerkit.top.news import clock
from workerkit.top.snapshot import Snapshot, Store
from workerkit.top.watch import Watch

REASON = 3  # lines, why Redis is down
KEYS = "q end  p pause  Tab pane  \u2191\u2193 scroll  1-5 one pane  +- interval  ? help"


class Scene(NamedTuple):
    """What there is to draw: a kit's `title`, and what is known of it `now` (monotonic; `wall`: since 1970)."""

    title: str
    watch: Watch
    now: float
    wall: float

    def stale(self, interval: float) -> bool:
        """Whether the figures are older than they should be."""
        return bool(self.watch.error) or self.watch.age(self.now) > 2 * interval + 1


def frame(scene: Scene, view: View, width: int, height: int) -> list[Text]:
    """The lines of a screen, each of exactly `width` cells; `view` learns what can be scrolled."""
    top = list(_header(scene, view, width))[: max(1, height - 1)]
    room = height - len(top) - 1
    if view.help:
        body = [_line(width, (f"{keys:>20}  ", "bold"), (what, "")) for keys, what in HELP]
    elif scene.watch.snapshot is None:
        body = []
    else:
        body = _body(scene, scene.watch.snapshot, view, width, room)
    body = (body + [_line(width)] * max(0, room))[: max(0, room)]
    if scene.stale(view.interval) and not view.help:
        for line in body:
            line.stylize("dim")
    return [*top, *body, _line(width, (KEYS, DIM))][:height]


def page(scene: Scene, width: int) -> list[Text]:
    """Everything there is, below each other, however long; for a file, a pipe or a log."""
    view = View(0.0)
    snapshot = scene.watch.snapshot
    panes = [] if snapshot is None else all_panes(scene.watch, snapshot, full=True)
    lines = list(_header(scene, view, width))
    for number, pane in enumerate(panes):
        lines += [_line(width), *_pane(pane, number, len(pane.table.rows) + 1, width, 0, focused=None)]
    return lines


def _header(scene: Scene, view: View, width: int) -> Iterator[Text]:
    watch, found = scene.watch, scene.watch.snapshot
    how = "PAUSED" if view.paused else f"every {humanize(view.interval)}" if view.interval else ""
    yield _ends(width, f" workerkit top  {text.name(scene.title)}", f"{how}  {clock(scene.wall)} ", "reverse bold")
    if watch.error:
        old = f", the figures are {text.span(watch.age(scene.now))} old" if found else ""
        yield _line(width, (f"Redis DOWN for {text.span(watch.down_for(scene.now))}{old}", BAD))
        for part in wrap(text.name(watch.error), max(10, width))[:REASON]:
            yield _line(width, (part, BAD))
    elif view.paused:
        yield _line(width, (f"paused; the figures are {text.span(watch.age(scene.now))} old", POOR))
    elif scene.stale(view.interval):
        yield _line(
            width, (f"the figures are {text.span(watch.age(scene.now))} old: Redis has not answered since", BAD)
        )
    if found is None:
        yield _line(width, ("" if watch.error else "reading ...", DIM))
        return
    if not watch.error:
        for store in found.stores:
            yield _store(store, width)
    yield _savings(watch, found, width)


def _store(store: Store, width: int) -> Text:
    name = "Redis" if len(store.roles) > 1 else store.roles[0].title()
    if store.error:
        return _line(width, (f"{name}  ", "bold"), (text.name(store.error), BAD))
    parts = [
        (f"{name}  ", "bold"),
        (f"{text.span_fine(store.ping or 0)} round trip", GOOD if (store.ping or 0) < 0.01 else BAD),
    ]
    if store.hidden:
        parts.append((", the rest is hidden: allow +info to its user", DIM))
        return _line(width, *parts)
    full = store.memory / store.memory_max if store.memory_max else 0.0
    crowd = store.clients / store.clients_max if store.clients_max else 0.0
    of_memory = f" of {text.size(store.memory_max)}" if store.memory_max else ""
    of_clients = f"/{text.count(store.clients_max)}" if store.clients_max else ""
    parts += [
        (f", {text.size(store.memory)}{of_memory}", BAD if full > 0.9 else ""),
        (f", {text.count(store.clients)}{of_clients} clients", BAD if crowd > 0.8 else ""),
        (f", {text.count(store.commands)} cmd/s", ""),
        (f", {store.software} up {text.span(store.uptime)}", DIM),
    ]
    if store.policy != "noeviction" and store.evicted:
        parts.append((f", {text.count(store.evicted)} evicted", POOR))
    return _line(width, *parts)


def _savings(watch: Watch, found: Snapshot, width: int) -> Text:
    if found.functions is None:
        return _line(width, ("Saved  ", "bold"), ("not known", DIM))
    ever, now, rate = total(found.functions), watch.change.all_functions, watch.change.rate
    if not ever.calls:
        return _line(width, ("Saved  ", "bold"), ("nothing yet: no memoized function was called", DIM))
    answered, lately = ever.calls - ever.misses, now.calls - now.misses
    shown = now if now.calls else ever
    return _line(
        width,
        ("Saved  ", "bold"),
        (f"{text.span(ever.saved)} of work, {text.count(answered)} calls", GOOD),
        (f", {text.percent(shown.hit_rate)} hits", ""),
        (f"; now {text.rate(rate(now.saved))} s/s, {text.rate(rate(lately))} calls/s", ""),
    )


def _body(scene: Scene, found: Snapshot, view: View, width: int, height: int) -> list[Text]:
    panes = all_panes(scene.watch, found, full=view.zoom)
    if view.zoom:
        return _column(panes, (view.focus,), view, width, height)
    parts = [(_column(panes, numbers, view, wide, height), at) for numbers, at, wide in columns(width)]
    if len(parts) == 1:
        return parts[0][0]
    blank = [_line(wide) for _, _, wide in columns(width)]
    tallest = max(len(lines) for lines, _ in parts)
    return [
        _beside([lines[i] if i < len(lines) else blank[k] for k, (lines, _) in enumerate(parts)], width)
        for i in range(tallest)
    ]


def _beside(lines: Sequence[Text], width: int) -> Text:
    first, second = lines
    line = Text(no_wrap=True, overflow="crop", end="")
    line.append_text(first)
    line.append(" " * (width - first.cell_len - second.cell_len))
    line.append_text(second)
    return line


def _column(panes: Sequence[Pane], numbers: Sequence[int], view: View, width: int, height: int) -> list[Text]:
    wanted = [len(panes[number].table.rows) for number in numbers]
    focus = numbers.index(view.focus) if view.focus in numbers and view.chosen else None
    lines: list[Text] = []
    for number, share in zip(numbers, shares(wanted, height, focus), strict=True):
        rows = len(panes[number].table.rows)
        seen = max(0, share - 1)
        if number == view.focus:
            view.page, view.rows = max(1, seen), rows
        view.offsets[number] = min(view.offsets[number], max(0, rows - seen))
        if share:
            focused = number == view.focus and view.chosen
            lines += _pane(panes[number], number, share, width, view.offsets[number], focused=focused)
    return lines


def _pane(pane: Pane, number: int, height: int, width: int, offset: int, *, focused: bool | None) -> list[Text]:
    made, rows = pane.table, pane.table.rows
    fit = table.fitted(made, width)
    last = min(len(rows), offset + height - 1)
    title = pane.name if focused is None else f"{number + 1} {pane.name}"
    if last - offset < len(rows):
        title += f" {offset + 1}-{last}/{len(rows)}"
    title += f": {pane.said}" if pane.said else ""
    style = "reverse bold" if focused else "bold cyan underline" if focused is not None else "bold"
    head = table.heading(made, fit, title, width, style)
    return [head, *(table.row(made, fit, cells, width) for cells in rows[offset:last])]


def _line(width: int, *parts: tuple[str, str]) -> Text:
    line = Text(no_wrap=True, overflow="crop", end="")
    for said, style in parts:
        line.append(said, style or None)
    line.truncate(width, overflow="ellipsis", pad=True)
    return line


def _ends(width: int, left: str, right: str, style: str) -> Text:
    left = table.cut_end(left, max(1, width - len(right) - 1))
    line = Text(left, no_wrap=True, overflow="crop", end="")
    line.append(" " * max(0, width - line.cell_len - len(right)) + right)
    line.truncate(width, pad=True)
    line.stylize(style)
    return line
