"""Where a denied task waits: one line for each limiter and key, and its place there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from workerkit.core.keys import escape

LOWEST, HIGHEST = 0, 9


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits for the same thing. `part` is the limiter's digest of the key, `label` what listings show of it;
    `costs` are those of the last who was parked, `bound_by` what it was refused for."""

    limiter: str
    part: str
    label: str
    costs: tuple[int, ...] = ()
    bound_by: str = ""

    @property
    def name(self) -> str:
        return f"{escape(self.limiter)}:{escape(self.part)}"

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, data: bytes) -> Line:
        found = json.loads(data)
        return cls(**{**found, "costs": tuple(found["costs"])})


class Place(NamedTuple):
    """What decides who goes first in a line: `priority` (9 before 0), then an equal share by `weight` for every
    `group` (a digest), then who came first. `every_us` lie between two turns of such a cost; 0: as many as
    between those of whoever was refused before."""

    priority: int = 0
    group: str = ""
    weight: float = 1.0
    every_us: int = 10_000
    cost: int = 1

    @property
    def step(self) -> int:
        """What one turn counts for its group."""
        return max(1, round(min(1000 * self.cost / self.weight, 2.0**48)))  # more than that there is not in a priority
