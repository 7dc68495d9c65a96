"""Rows in columns, made to fit: what matters least is left out first, long names are cut in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from workerkit.cli.live.text import cut

GAP = 2


class Cell(NamedTuple):
    """A text and how it looks."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column. The higher its `rank`, the sooner it is left out where there is no room; 0 never is. One with `least`
    may be cut to so many cells; the others are as wide as what is in them, and at least `width`, so that they stand
    still. `grows`: it takes the room that is left over; `prose`: it is cut at its end."""

    title: str
    rank: int = 0
    width: int = 0
    least: int = 0
    right: bool = True
    grows: bool = False
    prose: bool = False


class Table(NamedTuple):
    """Columns and their rows."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def fitted(table: Table, width: int) -> list[tuple[int, int]]:
    """The columns that are shown in `width` cells, each with its own width."""
    wanted = [
        max([column.width, cell_len(column.title), *(cell_len(row[i].text) for row in table.rows)])
        for i, column in enumerate(table.columns)
    ]
    least = [
        min(want, column.least) if column.least else want for want, column in zip(wanted, table.columns, strict=True)
    ]
    shown = list(range(len(wanted)))

    def total(widths: Sequence[int]) -> int:
        return sum(widths[i] for i in shown) + GAP * (len(shown) - 1)

    while total(least) > width:
        worst = max(shown, key=lambda i: (table.columns[i].rank, i))
        if table.columns[worst].rank == 0:
            break
        shown.remove(worst)
    widths = list(wanted)
    for i in sorted(shown, key=lambda i: -table.columns[i].rank):  # what matters least gives room first
        widths[i] -= min(max(0, total(widths) - width), widths[i] - least[i])
    over = width - total(widths)
    for i in shown:
        if table.columns[i].grows and over > 0:
            widths[i] += over
            break
    return [(i, widths[i]) for i in shown]


def row(table: Table, fit: Sequence[tuple[int, int]], cells: Sequence[Cell], width: int) -> Text:
    """One row as a line of exactly `width` cells."""
    line = Text(no_wrap=True, overflow="crop", end="")
    for number, (i, wide) in enumerate(fit):
        text, style = cells[i]
        text = (cut_end if table.columns[i].prose else cut)(text, wide)
        space = " " * (wide - cell_len(text))
        line.append(" " * GAP if number else "")
        line.append(space if table.columns[i].right else "")
        line.append(text, style or None)
        line.append("" if table.columns[i].right else space)
    line.truncate(width, pad=True)
    return line


def heading(table: Table, fit: Sequence[tuple[int, int]], title: str, width: int, style: str) -> Text:
    """The line above: the columns' titles, and the pane's own over those at its left that have none."""
    line = row(table, fit, [Cell(column.title) for column in table.columns], width)
    room = next((at for at, letter in enumerate(line.plain) if letter != " "), width + GAP) - GAP
    found = Text(cut_end(title, room), no_wrap=True, overflow="crop", end="")
    found.append(line.plain[cell_len(found.plain) :])
    found.truncate(width, pad=True)
    found.stylize(style)
    return found


def cut_end(text: str, width: int) -> str:
    """`text` in at most `width` cells, its end left out."""
    if cell_len(text) <= width:
        return text
    found = Text(text)
    found.truncate(width, overflow="ellipsis")
    return found.plain
