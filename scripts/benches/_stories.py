"""The table of a plot's stories: each a way of doing something, with figures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Story(Protocol):
    """A `way`, and what came of it."""

    @property
    def way(self) -> str: ...

    def figures(self) -> Mapping[str, float]: ...


def table(stories: Sequence[Story], figure: Callable[[float], str]) -> list[list[str]]:
    rows = [[story.way, *map(figure, story.figures().values())] for story in stories]
    return [["", *stories[0].figures()], *rows]


def markdown(stories: Sequence[Story], figure: Callable[[float], str]) -> str:
    cells = table(stories, figure)
    head, *rows = (f"| {' | '.join(each)} |" for each in cells)
    return "\n".join([head, "|---|" + "---:|" * (len(cells[0]) - 1), *rows])


def show(title: str, stories: Sequence[Story], figure: Callable[[float], str]) -> None:
    from rich.console import Console
    from rich.table import Table

    head, *rows = table(stories, figure)
    drawn = Table(*head, title=title)
    for cells in rows:
        drawn.add_row(*cells)
    Console().print(drawn)
