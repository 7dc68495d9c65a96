"""Reads snapshots beside the screen, so that a server that does not answer keeps no key waiting."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from workerkit.api.kit import WorkerKit
from workerkit.errors import StoreError
from workerkit.top.look import snapshot
from workerkit.top.snapshot import Snapshot


class Read(NamedTuple):
    """What came of reading one kit, at `now` (monotonic seconds)."""

    kit: int
    found: Snapshot | StoreError
    now: float


class Feed:
    """One thread that reads what it is asked to. An error that is no StoreError is raised by `take`."""

    def __init__(self, kits: Sequence[WorkerKit], done: Callable[[], None]) -> None:
        self._kits = kits
        self._done = done
        self._asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[Read | Exception] = queue.SimpleQueue()
        self.busy = False
        # A daemon: the end of the screen does not wait for a server that is down.
        threading.Thread(target=self._work, name="workerkit top", daemon=True).start()

    def ask(self, kit: int) -> None:
        """Read the kit of this number, unless something is being read."""
        if not self.busy:
            self.busy = True
            self._asked.put(kit)

    def take(self) -> Read | None:
        """What was read, if something was."""
        try:
            read = self._read.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        if isinstance(read, Exception):
            raise read
        return read

    def _work(self) -> None:
        while True:
            kit = self._asked.get()
            try:
                found: Snapshot | StoreError = snapshot(self._kits[kit])
            except StoreError as error:
                found = error
            except Exception as error:  # noqa: BLE001 - raised where the screen is
                self._read.put(error)
                self._done()
                continue
            self._read.put(Read(kit, found, time.monotonic()))
            self._done()
