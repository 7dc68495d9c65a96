"""A run of a warmup, which goes from message to message until all of its calls are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from workerkit.warming.plan import Arguments


class Outcome(NamedTuple):
    """What a run did: entries refreshed, found fresh, failed, and left because the limit was used up."""

    warmed: int = 0
    fresh: int = 0
    failed: int = 0
    left: int = 0


@dataclass
class Run:
    """A claimed tick (None: asked for by hand) and how far it is. Moments are in ms since 1970.

    `calls` are still to refresh, the most valuable first; None before they are planned. Those that are not done `until`
    then are left to the next run. `passed` ticks before this one were left out.
    """

    token: str
    tick: int | None
    passed: int
    began: int
    until: int
    calls: list[Arguments] | None = None
    done: Outcome = field(default_factory=Outcome)

    @property
    def outcome(self) -> Outcome:
        return self.done._replace(left=len(self.calls or ()))

    def count(self, name: str) -> None:
        """One more of these."""
        self.done = self.done._replace(**{name: getattr(self.done, name) + 1})

    def message(self, encoded: Callable[[Arguments], str | None]) -> list[Any] | None:
        """As JSON can hold it; None where a call cannot be written so that it comes back as it is."""
        calls = None if self.calls is None else [encoded(each) for each in self.calls]
        if calls is not None and None in calls:
            return None
        return [self.token, self.tick, self.passed, self.began, self.until, calls, list(self.done)]

    @classmethod
    def of(cls, message: list[Any], decoded: Callable[[str], Arguments]) -> Run:
        """What `message` made."""
        token, tick, passed, began, until, calls, done = message
        planned = None if calls is None else [decoded(each) for each in calls]
        return cls(token, tick, passed, began, until, planned, Outcome(*done))
