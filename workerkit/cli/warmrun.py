"""A run of a warmup that was asked for on the command line, and waiting for its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workerkit.api.warmup import WarmStatus, Warmup
from workerkit.errors import StoreError

POLL = 0.25  # seconds


@dataclass
class Asked:
    """What became of a warmup that was asked for: "sent" (to the workers), "refused", "done", "failed" or "timeout"."""

    warmup: Warmup
    here: bool
    state: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    before: int = 0

    @property
    def pending(self) -> bool:
        """Whether there may be a run to wait for."""
        return self.state in {"sent", "refused"}

    def start(self) -> None:
        """Run it here, or hand it to the workers. Raises StoreError when Redis is down."""
        self.before = self.warmup.status().runs
        try:
            begun = self.warmup.run() is not None if self.here else self.warmup.send()
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's function or the broker: the other warmups go on
            self.state, self.run = "failed", {"reason": f"{type(error).__name__}: {error}"}
            return
        self.state = "sent" if begun else "refused"
        if self.here and begun and not self._ended(self.warmup.status()):
            self.state, self.run = "failed", {"reason": "another process took it over"}

    def look(self) -> bool:
        """Whether it is still to be waited for. A run that died, or that no worker took in time, is asked for again."""
        status = self.warmup.status()
        # Once more: it may have ended between the two things that a status is made of.
        if not self._ended(status) and status.running is None and not self._ended(self.warmup.status()):
            self.start()
        return self.pending

    def _ended(self, status: WarmStatus) -> bool:
        if status.runs <= self.before:
            return False
        (self.run,) = self.warmup.history(1)
        failed = self.run["reason"] or (self.run["failed"] and not self.run["warmed"] + self.run["fresh"])
        self.state = "failed" if failed else "done"
        return True

    def told(self) -> dict[str, Any]:
        """For the reader."""
        return {"name": self.warmup.name, "state": self.state, **self.run}


def wait_for(asked: Sequence[Asked], timeout: float) -> None:
    """Until all have ended, or for `timeout` seconds. Raises StoreError when Redis is down."""
    until = time.monotonic() + timeout
    pending = [each for each in asked if each.pending]
    while pending := [each for each in pending if each.look()]:
        if time.monotonic() >= until:
            for each in pending:
                each.state = "timeout"
            return
        time.sleep(POLL)
