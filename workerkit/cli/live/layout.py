"""How many lines each pane gets."""

from __future__ import annotations

from collections.abc import Sequence

WIDE = 150  # from so many cells on the panes stand in two columns
LEFT, RIGHT = (0, 1), (2, 3, 4)  # the panes of each


def shares(wanted: Sequence[int], height: int, focus: int | None) -> list[int]:
    """The lines of each pane, its heading included, when it has so many rows; 0: it is not shown.

    Those that come first matter most: where there is no room the last are left out, but never the one with the
    `focus`, which also gets what it wants of one half before the others share what is left.
    """
    shown = list(range(len(wanted)))
    while len(shown) > 1 and sum(1 + min(1, wanted[i]) for i in shown) > height:
        shown.remove(next(i for i in reversed(shown) if i != focus))
    lines = [1 + min(1, want) if i in shown else 0 for i, want in enumerate(wanted)]
    left = max(0, height - sum(lines))
    if focus is not None and lines[focus]:
        more = min(wanted[focus] + 1 - lines[focus], left, max(0, height // 2 - lines[focus]))
        if more > 0:
            lines[focus] += more
            left -= more
    while left and (hungry := [i for i in shown if lines[i] < wanted[i] + 1]):
        lines[min(hungry, key=lambda i: (lines[i], i))] += 1
        left -= 1
    return lines


def columns(width: int) -> list[tuple[tuple[int, ...], int, int]]:
    """The panes of each column, where it begins, and its width."""
    if width < WIDE:
        return [(LEFT + RIGHT, 0, width)]
    half = (width - 3) // 2
    return [(LEFT, 0, half), (RIGHT, width - half, half)]
