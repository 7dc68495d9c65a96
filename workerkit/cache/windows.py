"""For how long an entry may be served: fresh, refreshed early, stale, or because its refresh failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import log

from workerkit.core.envelope import Envelope

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Windows:
    """`stale` and `on_error` are seconds after an entry stopped being fresh; `early` is the beta of XFetch, 0 for none.

    XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015): each reader
    refreshes early with a probability that grows as the expiry comes near, the sooner the more the computation costs.
    """

    stale: float = 0.0
    on_error: float = 0.0
    early: float = 0.0
    draw: Callable[[], float] = random.random

    @property
    def after(self) -> float:
        """Seconds for which an entry is kept when it is fresh no more."""
        return max(self.stale, self.on_error)

    @property
    def reach(self) -> float:
        """How many times its cost before its end an entry may be due: farther off the chance is below e^-40."""
        return 40 * self.early

    def due(self, entry: Envelope, now_us: int) -> bool:
        """Whether this reader should refresh a fresh entry.

        Never in the first half of its life: two calls in a row would otherwise compute twice what takes long and is
        kept briefly.
        """
        return now_us > self.look_again_us(entry)

    def look_again_us(self, entry: Envelope) -> int:
        """Until when one reader may take a fresh entry for granted: who keeps it in the process draws once for all."""
        ahead = int(self.early * entry.cost_us * -log(1.0 - self.draw()))
        return entry.soft_us - min(ahead, (entry.soft_us - entry.created_us) // 2)

    def is_stale(self, entry: Envelope, now_us: int) -> bool:
        """Whether an entry may be served while it is refreshed, fresh or not."""
        return now_us < min(entry.soft_us + int(self.stale * 1e6), entry.hard_us)

    def survives(self, entry: Envelope, now_us: int) -> bool:
        """Whether an entry may be served because its refresh failed."""
        return now_us < min(entry.soft_us + int(self.on_error * 1e6), entry.hard_us)

    def is_usable(self, entry: Envelope, now_us: int) -> bool:
        """Whether an entry may be served in any way."""
        return self.is_stale(entry, now_us) or self.survives(entry, now_us)

    @staticmethod
    def pause(entry: Envelope, now_us: int) -> float:
        """Seconds until a failed refresh is tried again: half of what it is overdue, so the pauses grow as it fails."""
        overdue = (now_us - entry.soft_us) / 1e6
        return min(max(overdue / 2, SHORTEST_PAUSE), LONGEST_PAUSE)
