"""Soft time limits wait for the end of a round trip.

Celery's prefork pool raises `SoftTimeLimitExceeded` from a signal handler, between any two bytecodes. In the middle of
a round trip that leaves a reply unread, and the next caller of that connection would get it. So the handler that is
installed is wrapped: during a round trip it only records, and afterwards the original runs. Masking the signal would
not do: with a second thread alive the kernel delivers it there, and Python runs the handler in the main thread anyway.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any

try:
    # signal.getsignal turns its answer into an enum, which costs 20 times what asking does; this runs at every call.
    from _signal import getsignal as _installed  # type: ignore[import-not-found]  # typeshed leaves it out
except ImportError:  # pragma: no cover - another Python implementation
    _installed = signal.getsignal

Handler = Callable[[int, FrameType | None], Any]
# SIGUSR1 is billiard's soft time limit; SIGALRM is what `signal.alarm` and `setitimer` users have.
SIGNALS: tuple[int, ...] = tuple(int(getattr(signal, name)) for name in ("SIGUSR1", "SIGALRM") if hasattr(signal, name))


class Deferring:
    """A signal handler that runs `original` now, or after the round trip that is under way."""

    __slots__ = ("original", "shield")

    def __init__(self, shield: Shield, original: Handler) -> None:
        self.shield = shield
        self.original = original

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.shield.depth:
            self.shield.pending.append((signum, self.original))
        else:
            self.original(signum, frame)


class Shield:
    """Counts the round trips under way in the main thread, the only one in which Python runs signal handlers.

    Who enters puts the `depth` back to what `enter` answered, then calls `deliver`. The former by plain assignment: an
    interrupt that no handler defers (a Ctrl-C) can strike at the start of any function, and `depth` would stay wrong.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.pending: list[tuple[int, Handler]] = []
        self._main: int | None = None
        self._seen: list[tuple[int, Any]] = [(signum, None) for signum in SIGNALS]

    def enter(self) -> int:
        """Begin a round trip; answers the depth before, -1 outside the main thread, where no handler ever runs."""
        if get_ident() != self._main:
            if self._main is not None:
                return -1
            os.register_at_fork(after_in_child=self._adopt_process)
            self._adopt_process()
            return self.enter()
        for signum, seen in self._seen:
            if _installed(signum) is not seen:
                self._wrap(signum)
        before = self.depth
        self.depth = before + 1
        return before

    def lower(self) -> int:
        """Let interrupts through while user code runs inside a flow; answers what `restore` gets afterwards."""
        if get_ident() != self._main:
            return -1
        before = self.depth
        self.depth = 0
        self.deliver()
        return before

    def restore(self, before: int) -> None:
        """End what `lower` began."""
        if before >= 0:
            self.depth = before

    def deliver(self) -> None:
        """Run what was deferred, unless a round trip is still under way; nothing outside the main thread."""
        while self.pending and not self.depth and get_ident() == self._main:
            signum, handler = self.pending.pop(0)
            handler(signum, None)

    def _wrap(self, signum: int) -> None:
        """Make what is installed deferring, if it is a handler at all."""
        handler: Any = _installed(signum)
        if callable(handler):
            handler = Deferring(self, handler.original if isinstance(handler, Deferring) else handler)
            signal.signal(signum, handler)
        self._seen[SIGNALS.index(signum)] = (signum, handler)

    def _adopt_process(self) -> None:
        # After a fork only the forking thread lives on: nothing is under way, whatever the parent was doing.
        self._main = threading.main_thread().ident
        self.depth = 0
        self.pending.clear()


# The table of signal handlers belongs to the process, so what wraps its entries does too: two kits share this one.
SHIELD = Shield()
