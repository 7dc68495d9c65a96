"""Where a run is to be seen: a live screen on a terminal, a line now and then elsewhere, or nowhere."""

from __future__ import annotations

import io
import re
import time
from typing import TYPE_CHECKING, Self

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.live import Live

from workerkit.demo.screen import line, panel

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from workerkit.demo.findings import Findings

LINE_EVERY = 2.0  # seconds


class Screen:
    """The panel, drawn over itself; it is gone when the block is left, so that only the summary stays."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, found: Findings) -> None:
        """Draw it anew."""
        self._live.update(panel(found), refresh=True)


class Lines:
    """Each note when it comes, and how things stand every two seconds."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._told = 0
        self._shown_top = False
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def update(self, found: Findings) -> None:
        """Say what is new."""
        if self._quiet:
            return
        if found.top and not self._shown_top:
            self._shown_top = True
            self._say(f"         watch it: {found.top}")
        for note in found.notes[self._told :]:
            self._say(note)
        self._told = len(found.notes)
        if found.expected and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            self._say(line(found))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


class Picture:
    """Passes every update on, and keeps a picture of the screen from the time after the crash."""

    def __init__(self, show: Screen | Lines) -> None:
        self._show = show
        self._taken: RenderableType | None = None

    def update(self, found: Findings) -> None:
        """Show it, and take the picture when all that is done to the run has been done."""
        self._show.update(found)
        if self._taken is None and found.outage.served is not None:
            self._taken = panel(found)

    def save(self, path: Path, found: Findings) -> None:
        """Write the picture as SVG. It asks no other site for a font, which a README could not load anyway."""
        console = Console(record=True, width=88, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(self._taken or panel(found))
        plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        path.write_text(console.export_svg(title="workerkit demo", code_format=plain), encoding="utf-8")
