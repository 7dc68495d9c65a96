"""Tables and lines for people: safe for a terminal whatever is in them, and readable in 80 columns."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from workerkit.cli.verb import plain


class Sheet:
    """A table without lines. A column whose name begins with ">" is of numbers; one with "!" is never broken."""

    def __init__(self, *columns: str) -> None:
        self._table = Table(box=None, header_style="bold", pad_edge=False)
        for name in columns:
            if name.startswith(">"):
                self._table.add_column(name[1:], justify="right", no_wrap=True)
            elif name.startswith("!"):
                self._table.add_column(name[1:], no_wrap=True)
            else:
                self._table.add_column(name, overflow="fold")

    def add(self, *cells: object) -> None:
        """Add a row; whole numbers get their commas, None is "-"."""
        self._table.add_row(*map(_cell, cells))

    def show(self) -> None:
        """Print it; nothing where it has no rows."""
        if self._table.row_count:
            _Console(markup=False, emoji=False, highlight=False).print(self._table)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # which a command knows how to end with


def say(text: str) -> None:
    """Print a line."""
    click.echo(plain(text))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if type(value) is int else plain(value)
