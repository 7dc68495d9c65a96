"""Who is told what a kit does in this process: each event, and what was counted, when it is sent to the fleet's counts.

So that watching costs the hot path nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from workerkit.core.events import Event
from workerkit.limits.tally import LimitStats

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit


class Watcher(Protocol):
    """Called in whichever thread, or on the event loop, something happens in: must be quick."""

    def event(self, event: Event) -> None:
        """This has happened."""

    def cached(self, function: str, counts: Mapping[str, int]) -> None:
        """A function's calls since the last time, by the names of `CacheStats`; `saved_us` is in microseconds."""

    def limited(self, limiter: str, counts: LimitStats) -> None:
        """A limiter's decisions since the last time."""


def watch(watcher: Watcher, *kits: WorkerKit) -> None:
    """Have `watcher` told of what `kits` do from now on, beside their hooks."""
    for kit in kits:
        kit.engine.hooks.add(watcher.event)
        kit.engine.flusher.watchers.append(watcher)
