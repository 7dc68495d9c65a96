"""A slot: an admission that is held, and that knows by the monotonic clock when it has been lost."""

from __future__ import annotations

from math import inf
from time import monotonic

from workerkit.limits.decision import Decision


class Slot:
    """What `with limiter.slot(...)` gives: `decision`, and the `owner` token under which the lease is held."""

    __slots__ = ("_ends", "decision", "owner")

    def __init__(self, owner: str, decision: Decision, ends: float = inf) -> None:
        self.owner = owner
        self.decision = decision
        self._ends = ends

    @property
    def lost(self) -> bool:
        """Whether the lease has run out unrenewed, so that somebody else may hold the slot; stop what it protects.

        True before the server counts it so: the time runs from before each request. Always False without a
        concurrency cap, and for a slot that was admitted because Redis was down.
        """
        return monotonic() >= self._ends

    def renewed(self, held: bool, ends: float) -> bool:
        """Take the server's answer to a renewal that was asked for one lease before `ends` (monotonic seconds)."""
        if self._ends < inf:
            self._ends = ends if held else -inf
        return held
