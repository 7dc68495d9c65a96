"""How much of a limit warming may use: a share of its rates, and only what live callers leave over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

from workerkit.core.rates import Rate
from workerkit.errors import DefinitionError
from workerkit.limits.usage import RateUsage, Usage

RESERVE = 10  # one in so many of each rate stays free for live callers, who may come at any moment
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*")


def share_of(text: str, what: str) -> Fraction:
    """`"20%"` as 1/5. Raises DefinitionError for anything else, and for more than all."""
    match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    share = Fraction(match[1]) / 100 if match else Fraction(0)
    if not 0 < share <= 1:
        raise DefinitionError(
            f'{what} must be a share of the limit, as "20%": above 0% and at most 100%, not {text!r:.40}'
        )
    return share


def shared(rates: Sequence[Rate], share: Fraction, costs: Sequence[int], what: str) -> list[str]:
    """The rates that are a share of these; each admits one at least. Raises DefinitionError where a call costs more."""
    parts = [replace(rate, amount=max(1, int(rate.amount * share))) for rate in rates]
    for part, rate, cost in zip(parts, rates, costs, strict=True):
        if cost > part.amount:
            raise DefinitionError(
                f'{what} makes {part} of {rate}, but one call costs {cost}: write "{ceil(100 * cost / rate.amount)}%"'
            )
    return [str(part) for part in parts]


def least(cost: int, rate: Rate) -> float:
    """Seconds that so much takes at least, when nobody else uses the rate."""
    return (ceil(cost / rate.amount) - 1) * rate.period


def spare(usage: Usage, costs: Sequence[int], most: Sequence[int]) -> bool:
    """Whether live callers leave so much over that these costs take nothing from them; `most` is what each rate admits
    at once."""
    if usage.paused:
        return False
    if usage.concurrency is not None and usage.holders + 1 >= usage.concurrency > 1:
        return False
    return all(_spares(*each) for each in zip(usage.rates, costs, most, strict=True))


def _spares(rate: RateUsage, cost: int, most: int) -> bool:
    # What costs nearly all of a rate would else never be warmed; nobody used it for a whole period.
    unused = not rate.reset_after and not rate.held
    return rate.remaining - cost >= (0 if unused else ceil(min(rate.limit, most) / RESERVE))
