"""The live screen: reads, draws, and does what keys and signals say, until somebody ends it."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from workerkit.api.kit import WorkerKit
from workerkit.cli.live.feed import Feed
from workerkit.cli.live.frame import Scene, frame
from workerkit.cli.live.terminal import Terminal
from workerkit.cli.live.view import View
from workerkit.top.snapshot import Snapshot
from workerkit.top.watch import Watch

TICK = 1.0  # seconds after which the screen is drawn again whatever happens: ages grow


def show(kits: Sequence[WorkerKit], titles: Sequence[str], interval: float) -> None:
    """Show `kits`, each under its title, until a key or a signal ends it; it then ends this process, as it should."""
    fatal = 0
    with Terminal() as terminal:
        screen = Screen(terminal, kits, titles, interval)
        while not screen.view.over and not fatal:
            fatal = screen.step()
    if fatal:
        signal.signal(fatal, signal.SIG_DFL)
        signal.raise_signal(fatal)


class Screen:
    """What is shown, and when it is read again."""

    def __init__(self, terminal: Terminal, kits: Sequence[WorkerKit], titles: Sequence[str], interval: float) -> None:
        self.view = View(interval, kits=len(kits))
        self._terminal = terminal
        self._titles = titles
        self._watches = [Watch() for _ in kits]
        self._feed = Feed(kits, terminal.wake)
        self._due = self._drawn = 0.0
        self._changed = True

    def step(self) -> int:
        """Read, draw, wait for what comes next, and do it; the signal that is to end this process, or 0."""
        view, now = self.view, time.monotonic()
        if view.refresh or (now >= self._due and not view.paused):
            view.refresh = False
            self._due = max(self._due + view.interval, now)
            self._feed.ask(view.kit)
        if self._changed or now >= self._drawn + TICK:
            self._draw(now)
        until = self._drawn + TICK if view.paused else min(self._drawn + TICK, self._due)
        keys, signals = self._terminal.wait(until - time.monotonic())
        for key in keys:
            view.press(key)
            self._due = min(self._due, time.monotonic() + view.interval)  # it may be shorter now
        self._changed = self._take() or bool(keys or signals)
        return self._heed(signals)

    def _take(self) -> bool:
        read = self._feed.take()
        if read is None:
            return False
        watch = self._watches[read.kit]
        if isinstance(read.found, Snapshot):
            watch.took(read.found, read.now)
        else:
            watch.failed(read.found, read.now, time.time())
        return True

    def _draw(self, now: float) -> None:
        scene = Scene(self._titles[self.view.kit], self._watches[self.view.kit], now, time.time())
        self._terminal.draw(frame(scene, self.view, *self._terminal.size))
        self._changed, self._drawn = False, now

    def _heed(self, signals: set[int]) -> int:
        if signal.SIGTSTP in signals:
            self._terminal.stop()
        elif signal.SIGCONT in signals:
            self._terminal.resume()
        if signal.SIGWINCH in signals:
            self._terminal.forget()
        if signal.SIGINT in signals:
            self.view.over = True
        return next((number for number in (signal.SIGTERM, signal.SIGHUP) if number in signals), 0)
