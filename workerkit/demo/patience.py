"""Waiting that Ctrl-C, a closed terminal and `kill` can end, while nothing else can be broken off by them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from workerkit.errors import WorkerKitError

if TYPE_CHECKING:
    from types import FrameType

TICK = 0.2  # seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The demo was asked to end. Not an Exception: nobody may take it for a failure, and go on.

    `number` is the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Patience:
    """Within its `with` block a signal only raises a flag, and `pause` looks at it: clean-up runs undisturbed."""

    def __init__(self) -> None:
        self._number = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._number = number

    def pause(self, seconds: float = TICK) -> None:
        """Sleep. Raises Interrupted when a signal has come."""
        if not self._number:
            time.sleep(seconds)
        if self._number:
            raise Interrupted(self._number)

    def until(self, happened: Callable[[], object], within: float, what: str, each: Callable[[], None]) -> None:
        """Call `each` again and again until something has happened.

        Raises WorkerKitError, naming `what`, when it takes more than `within` seconds; Interrupted as `pause`.
        """
        deadline = time.monotonic() + within
        while not happened():
            if time.monotonic() > deadline:
                raise WorkerKitError(f"{what} within {within:g} s")
            self.pause()
            each()
