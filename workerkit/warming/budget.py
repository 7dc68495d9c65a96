"""How much of a limit warming may use: a share of its rates, and only what live callers leave over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from workerkit.core.rates import Rate
from workerkit.errors import DefinitionError
from workerkit.limits.usage import Usage

RESERVE = 0.1  # of each rate stays free for live callers, who may come at any moment
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*")


def share_of(text: str, what: str) -> float:
    """`"20%"` as 0.2. Raises DefinitionError for anything else, and for more than all."""
    match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise DefinitionError(
            f'{what} must be a share of the limit, as "20%": above 0% and at most 100%, not {text!r:.40}'
        )
    return share


def shared(rates: Sequence[Rate], share: float) -> list[str]:
    """The rates that are a share of these; each admits one at least."""
    return [str(replace(rate, amount=max(1, int(rate.amount * share)))) for rate in rates]


def least(cost: int, rate: Rate) -> float:
    """Seconds that so much takes at least, when nobody else uses the rate."""
    return (ceil(cost / rate.amount) - 1) * rate.period


def spare(usage: Usage, costs: Sequence[int]) -> bool:
    """Whether live callers leave so much over that these costs take nothing from them."""
    if usage.paused:
        return False
    if usage.concurrency is not None and usage.holders + 1 >= usage.concurrency > 1:
        return False
    return all(
        rate.remaining - cost >= ceil(rate.limit * RESERVE) or (rate.limit == 1 and rate.remaining)
        for rate, cost in zip(usage.rates, costs, strict=True)
    )
