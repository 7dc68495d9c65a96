"""The terminal while a screen has it: keys as they are typed, signals as they come, and all as it was at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Self

from rich.console import Console
from rich.text import Text

from workerkit.cli.live.keys import Keys

ESCAPE = 0.05  # seconds after which an escape that nothing follows was a key of its own
KEPT = 8192  # bytes of what the app printed meanwhile
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Terminal:
    """Owns the terminal of stdin and stdout between `with` and its end, however that comes.

    What the app's own code prints meanwhile (its logs, for instance) would tear the screen: the last of it is printed
    to stderr at the end.
    """

    def __init__(self) -> None:
        self._keys = Keys()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._input = sys.stdin.fileno()
            output = stack.enter_context(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
            self._console = Console(file=output, force_terminal=True, highlight=False, markup=False)
            self._output = output
            self._drawn: list[str] = []
            self._before = termios.tcgetattr(self._input)
            self._ears, self._mouth = os.pipe()
            stack.callback(os.close, self._ears)
            stack.callback(os.close, self._mouth)
            os.set_blocking(self._ears, False)
            os.set_blocking(self._mouth, False)
            stack.enter_context(_aside())
            stack.enter_context(self._listening())
            stack.callback(self._let_go)
            self._take()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        found = os.get_terminal_size(self._output.fileno())
        return max(found.columns, 1), max(found.lines, 1)

    def wake(self) -> None:
        """Have `wait` return; from any thread."""
        with contextlib.suppress(OSError):  # it is full: it wakes anyway; or closed: nobody waits any more
            os.write(self._mouth, b"\0")

    def wait(self, seconds: float) -> tuple[list[str], set[int]]:
        """The keys that were typed and the signals that came, after `seconds` at most."""
        if self._keys.waiting:
            seconds = min(seconds, ESCAPE)
        ready, _, _ = select.select([self._input, self._ears], [], [], max(0.0, seconds))
        signals: set[int] = set()
        if self._ears in ready:
            with contextlib.suppress(BlockingIOError):
                signals = {number for number in os.read(self._ears, 4096) if number}
        if self._input in ready:
            data = os.read(self._input, 1024)
            return (self._keys.feed(data), signals) if data else ([], signals | {signal.SIGHUP})
        return self._keys.end() if self._keys.waiting else [], signals

    def draw(self, lines: list[Text]) -> None:
        """Show these lines; only those that have changed are written."""
        with self._console.capture() as capture:
            for line in lines:
                self._console.print(line, soft_wrap=True, end="\n")
        drawn = capture.get().split("\n")[: len(lines)]
        if len(drawn) != len(self._drawn):
            self._output.write("\x1b[2J")
            self._drawn = [""] * len(drawn)
        for number, (new, old) in enumerate(zip(drawn, self._drawn, strict=True), 1):
            if new != old:
                self._output.write(f"\x1b[{number};1H{new}")
        self._output.flush()
        self._drawn = drawn

    def forget(self) -> None:
        """Draw all lines anew the next time: the terminal has another size, or shows something else."""
        self._drawn = []

    def stop(self) -> None:
        """Let the shell have the terminal, as Ctrl+Z does; come back when this process goes on."""
        self._let_go()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self.resume()

    def resume(self) -> None:
        """Take the terminal again: whoever had it meanwhile may have changed it."""
        self._take()
        self.forget()

    def _take(self) -> None:
        tty.setcbreak(self._input, termios.TCSADRAIN)  # what was typed meanwhile is not lost
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _let_go(self) -> None:
        # A terminal that is gone cannot be restored, and need not be.
        with contextlib.suppress(OSError, ValueError):
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
            self._output.flush()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        def heard(number: int, frame: FrameType | None) -> None:
            """Nothing: Python writes the number into the pipe."""

        before = {number: signal.signal(number, heard) for number in _SIGNALS}
        pipe = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(pipe)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What is written to stdout and stderr meanwhile goes aside; the last of it goes to stderr at the end."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as aside:
        for number in (1, 2):
            os.dup2(aside.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)
            size = aside.seek(0, os.SEEK_END)
            aside.seek(max(0, size - KEPT))
            sys.stderr.write(aside.read().decode("utf-8", "replace"))
            sys.stderr.flush()
