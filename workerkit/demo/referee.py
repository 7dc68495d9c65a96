"""Says from the demo API's own log, and from nothing else, whether its callers kept to the limit.

Everything that arrived counts, rejected calls too: it is the callers who are judged, not the API's willingness.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workerkit.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Verdict:
    """What the log shows.

    calls: all arrivals; rejected: those not answered with 200. violations: arrivals that found the window full.
    max_in_any_second: the most arrivals in any window [t, t + 1 s), wherever it begins.
    max_concurrent: the most calls at the same instant; a call is there from its arrival until just before its end.
    """

    calls: int
    rejected: int
    violations: int
    max_in_any_second: int
    max_concurrent: int


def judge(lines: Iterable[str], *, rate: int = 50, window: float = 1.0) -> Verdict:
    """Judge a log as `workerkit.demo.upstream` writes it; health checks are left out.

    rate: calls allowed in any `window` seconds; it is half-open, so two calls exactly `window` apart never share one.
    Raises DefinitionError for a line that is not a record, for a damaged log proves nothing.
    """
    calls = [call for number, line in enumerate(lines, 1) if line.strip() and (call := _call(number, line))]
    crowds = _crowds(sorted(start for start, _, _ in calls), window)
    return Verdict(
        calls=len(calls),
        rejected=sum(status != 200 for _, _, status in calls),
        violations=sum(crowd > rate for crowd in crowds),
        max_in_any_second=max(crowds, default=0),
        max_concurrent=_max_concurrent([(start, end) for start, end, _ in calls]),
    )


def _call(number: int, line: str) -> tuple[float, float, int] | None:
    try:
        record = json.loads(line)
        if record["path"] == "/healthz":
            return None
        return float(record["t"]), float(record["end"]), int(record["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise DefinitionError(f"line {number} of the API's log is damaged: {line.strip()[:80]!r}") from error


def _crowds(starts: Sequence[float], window: float) -> list[int]:
    """For each arrival the number of arrivals in the window that ends with it: the fullest window ends with one."""
    crowds: list[int] = []
    first = 0
    for last, start in enumerate(starts):
        while start - starts[first] >= window:
            first += 1
        crowds.append(last - first + 1)
    return crowds


def _max_concurrent(calls: Sequence[tuple[float, float]]) -> int:
    """Sweep over arrivals and ends; at one instant the ends come first."""
    changes = sorted([(start, 1) for start, _ in calls] + [(end, -1) for _, end in calls])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
