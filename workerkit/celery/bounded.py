"""Publishing that gives up on a broker that is silent: kombu would wait for it for ever.

The thread that waits is left behind, and until its broker has answered nobody else begins to wait.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any


class Bounded:
    """Acts on threads of their own, waited for `seconds` at most."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stuck: Thread | None = None

    def run(self, act: Callable[[], Any]) -> None:
        """Raises what `act` raises, and TimeoutError when it takes too long, or an earlier one still does."""
        if self._stuck is not None and self._stuck.is_alive():
            raise TimeoutError("an earlier message is still on its way")
        future: Future[None] = Future()
        # A daemon: a silent broker must not hold up the end of the process either.
        thread = Thread(target=_act, args=(future, act), name="workerkit-publisher", daemon=True)
        thread.start()
        try:
            future.result(self._seconds)
        except TimeoutError:
            self._stuck = thread
            raise


def _act(future: Future[None], act: Callable[[], Any]) -> None:
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        future.set_exception(error)
    else:
        future.set_result(None)
