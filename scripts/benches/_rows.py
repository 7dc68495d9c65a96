"""What a bench is made of: cases, each of which yields rows; a row is ours beside a peer's, with its goal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from workerkit.testing.servers import RunningServer


class Skip(Exception):
    """Why a case cannot be measured here."""


@dataclass(frozen=True)
class Run:
    """One run of a bench: its private server, and how long to measure."""

    server: RunningServer
    quick: bool = False
    rounds: int = 31
    slice: float = 0.02  # seconds that one side of one round takes, about

    @property
    def url(self) -> str:
        return self.server.url


@dataclass(frozen=True)
class Row:
    """One line of the table. `goal` bounds fields of the row from above: `{"ratio": 0.6}`; `extra` are more fields."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    min: float
    max: float
    rounds: int
    pinned: bool = False
    ours_cpu: float | None = None
    peer_cpu: float | None = None
    cpu_ratio: float | None = None
    goal: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether every bound holds; None without a goal."""
        figures = vars(self) | dict(self.extra)
        return all(figures[name] <= bound for name, bound in self.goal.items()) if self.goal else None

    @property
    def goal_text(self) -> str:
        units = {"ours": f" {self.unit}"}
        return ", ".join(f"{name} <= {bound:g}{units.get(name, '')}" for name, bound in self.goal.items())

    def json(self) -> dict[str, Any]:
        figures = {name: value for name, value in vars(self).items() if name not in {"extra", "goal"}}
        return {**figures, **self.extra, "goal": self.goal_text, "met": self.met}


class Case(NamedTuple):
    """Some rows of a bench: measured together, or failing together."""

    name: str
    peer: str
    rows: Callable[[Run], Iterator[Row]]
