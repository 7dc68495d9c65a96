"""How many admissions came within a period, by those who were admitted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

Span = tuple[float, float]  # an admission: when it was asked for and when the answer was there, in seconds


def most_within(spans: Iterable[Span], period: float) -> int:
    """The most admissions that certainly lie in one period: asked for at its begin or later, answered before its end.

    No span may be longer than the period.
    """
    spans = sorted(spans)
    ends = sorted(end for _, end in spans)
    return max((bisect_left(ends, began + period) - before for before, (began, _) in enumerate(spans)), default=0)
