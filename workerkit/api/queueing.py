"""Who of a throttled function's tasks goes first: its priority, and whose share of the turns it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from workerkit.core.template import Template
from workerkit.errors import DefinitionError
from workerkit.waitlist.line import HIGHEST, LOWEST, Line, Place

HEAVIEST = 1000.0


class Queueing:
    """The options `priority`, `fairness_key` and `weight` of a throttle; each may be a function of the arguments."""

    def __init__(
        self,
        priority: int | Callable[..., int],
        fairness_key: str | Callable[..., object] | None,
        weight: float | Callable[..., float],
        part: Callable[[str], str],
    ) -> None:
        self._priority = priority if callable(priority) else _checked_priority(priority)
        self._weight = weight if callable(weight) else _checked_weight(weight)
        self._fairness_key = fairness_key
        self._part = part

    def of(self, names: Sequence[str]) -> Callable[[Mapping[str, Any], int, Line], Place]:
        """What makes the place of a call with these arguments."""
        key = None if self._fairness_key is None else Template(self._fairness_key, names, "throttle: fairness_key")
        priority, weight = self._priority, self._weight
        priority_of = Template(priority, names, "throttle: priority") if callable(priority) else None
        weight_of = Template(weight, names, "throttle: weight") if callable(weight) else None
        part = self._part

        def place(bound: Mapping[str, Any], every_us: int, line: Line) -> Place:
            return Place(
                _checked_priority(priority_of(bound)) if priority_of is not None else priority,  # type: ignore[arg-type]  # not callable here
                part(key(bound)) if key is not None else "",
                _checked_weight(weight_of(bound)) if weight_of is not None else weight,  # type: ignore[arg-type]  # as above
                every_us,
                max(line.costs, default=1),
            )

        return place


def _checked_priority(value: Any) -> int:
    number = _number(value, int)
    if number is None or not LOWEST <= number <= HIGHEST:
        raise DefinitionError(
            f"throttle: priority={value!r} must be a whole number from {LOWEST} to {HIGHEST} (which goes first)"
        )
    return int(number)


def _checked_weight(value: Any) -> float:
    number = _number(value, float)
    if number is None or not isfinite(number) or not 0 < number <= HEAVIEST:
        raise DefinitionError(f"throttle: weight={value!r} must be a number above 0, {HEAVIEST:g} at most")
    return number


def _number(value: Any, kind: Callable[[Any], float]) -> float | None:
    """A number, or a template's text of one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        return None
    return number if isinstance(value, str) or number == value else None
