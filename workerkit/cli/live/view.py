"""What the keys have chosen to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from workerkit.cli.live.panes import PANES

INTERVALS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
HELP = (
    ("q", "end"),
    ("p, Space", "pause and go on: while paused the figures stand still"),
    ("Tab, Right / Left", "the next pane, the one before"),
    ("Up / Down, k / j", "scroll the pane by a row"),
    ("PgUp / PgDn, g / G", "by a page; to its beginning, its end"),
    ("1 ... 5, Enter", "one pane alone on the screen; again, or Esc: all of them"),
    ("+ / -", "refresh less often, more often"),
    ("r", "refresh now"),
    ("n", "the next kit, where the app has several"),
    ("?", "this help; any key closes it"),
)


Action = Callable[["View"], None]


@dataclass
class View:
    """The state of the screen. `chosen`: the focus was moved, and is to be seen. `page`: how many rows of the focused
    pane are seen; `rows`: how many it has."""

    interval: float
    kits: int = 1
    kit: int = 0
    focus: int = 0
    chosen: bool = False
    zoom: bool = False
    paused: bool = False
    help: bool = False
    over: bool = False
    refresh: bool = False  # asked for; whoever refreshes clears it
    page: int = 1
    rows: int = 0
    offsets: list[int] = field(default_factory=lambda: [0] * len(PANES))

    def press(self, key: str) -> None:
        """Do what a key means; one that means nothing does nothing."""
        if self.help and key not in {"q", "ctrl-c"}:
            self.help = False
            return
        if key.isdecimal() and 1 <= int(key) <= len(PANES):
            self.zoom = not (self.zoom and self.focus == int(key) - 1)
            self.focus, self.chosen = int(key) - 1, True
        elif key in _KEYS:
            _KEYS[key](self)

    def scroll(self, rows: int) -> None:
        """Move the focused pane's rows, within what there is."""
        self.chosen = True
        most = max(0, self.rows - self.page)
        self.offsets[self.focus] = min(max(0, self.offsets[self.focus] + rows), most)

    def turn(self, panes: int) -> None:
        """Move the focus."""
        self.focus, self.chosen = (self.focus + panes * self.chosen) % len(PANES), True


def _set(name: str, value: bool) -> Action:
    return lambda view: setattr(view, name, value)


def _flip(name: str) -> Action:
    return lambda view: setattr(view, name, not getattr(view, name))


def _slower(view: View) -> None:
    view.interval = next((each for each in INTERVALS if each > view.interval), view.interval)


def _faster(view: View) -> None:
    view.interval = next((each for each in reversed(INTERVALS) if each < view.interval), view.interval)


def _next_kit(view: View) -> None:
    view.kit = (view.kit + 1) % view.kits
    view.refresh = True


_KEYS: dict[str, Action] = {
    **dict.fromkeys(("q", "Q", "ctrl-c"), _set("over", True)),
    **dict.fromkeys(("p", " "), _flip("paused")),
    **dict.fromkeys(("tab", "right", "l"), lambda view: view.turn(1)),
    **dict.fromkeys(("backtab", "left", "h"), lambda view: view.turn(-1)),
    **dict.fromkeys(("down", "j"), lambda view: view.scroll(1)),
    **dict.fromkeys(("up", "k"), lambda view: view.scroll(-1)),
    "pgdn": lambda view: view.scroll(view.page),
    "pgup": lambda view: view.scroll(-view.page),
    **dict.fromkeys(("g", "home"), lambda view: view.scroll(-view.rows)),
    **dict.fromkeys(("G", "end"), lambda view: view.scroll(view.rows)),
    **dict.fromkeys(("enter", "z"), _flip("zoom")),
    **dict.fromkeys(("esc", "0"), _set("zoom", False)),
    **dict.fromkeys(("+", "="), _slower),
    "-": _faster,
    "?": _set("help", True),
    "r": _set("refresh", True),
    "n": _next_kit,
}
