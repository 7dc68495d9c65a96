"""Rates as people write them (`"100/s"`, `"90000 tokens/m"`), parsed into exact values."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workerkit.core.durations import humanize, seconds
from workerkit.errors import DefinitionError

MAX_AMOUNT = 2**53  # the largest count that Lua's doubles hold exactly
MIN_PERIOD, MAX_PERIOD = 0.001, 365 * 86400.0

_PER = re.compile(r"/|\sper\s")
_UNIT = re.compile(r"(?!per\Z)[A-Za-z_][A-Za-z0-9_]*")
_COUNT = re.compile(rf"([0-9]+(?:_[0-9]+)*)(?:\s+({_UNIT.pattern}))?")
_MAX_TEXT = 100
_HINT = 'write it like "100/s", "10/30s", "100 per minute" or "90000 tokens/m"'


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `amount` of `unit` ("" counts calls) in any `period` (seconds, kept to the microsecond)."""

    amount: int
    period: float
    unit: str = ""

    def __post_init__(self) -> None:
        if type(self.amount) is not int or not 1 <= self.amount <= MAX_AMOUNT:
            raise DefinitionError(f"a rate's amount must be a whole number from 1 to 2**53; {_HINT}")
        period = seconds(self.period, what="a rate's period")
        if not MIN_PERIOD <= period <= MAX_PERIOD:
            raise DefinitionError(f"a rate's period must be from 1ms to 365 days; {_HINT}")
        if type(self.unit) is not str or not _UNIT.fullmatch(self.unit or "calls"):
            raise DefinitionError(f"a rate's unit must be one plain word such as tokens; {_HINT}")
        object.__setattr__(self, "period", round(period * 1e6) / 1e6)

    @property
    def period_us(self) -> int:
        """The period in whole microseconds."""
        return round(self.period * 1e6)

    def __str__(self) -> str:
        period = humanize(self.period)
        if period[0] == "1" and period[1:].isalpha():
            period = period[1:]
        return f"{self.amount}{self.unit and ' '}{self.unit}/{period}"


def parse_rate(text: str) -> Rate:
    """Read one rate: "100/s", "10/30s", "100 per minute", "90000 tokens/m", "1_000/day".

    The unit is the word between amount and period, as it is written; none counts calls. Raises `DefinitionError`.
    """
    if not isinstance(text, str):
        raise DefinitionError(f"a rate must be text, not {type(text).__name__}; {_HINT}")
    count, period = _split(text)
    if count is None:
        raise DefinitionError(f"{text[:_MAX_TEXT]!r} is no rate (a whole number of 1 or more per period); {_HINT}")
    try:
        return Rate(int(count[1]), seconds(period, what="period"), count[2] or "")
    except DefinitionError as error:
        reason = str(error).partition(";")[0]
        raise DefinitionError(f"rate {text!r}: {reason}; {_HINT}") from None


def _split(text: str) -> tuple[re.Match[str] | None, str]:
    parts = [part.strip() for part in _PER.split(text, maxsplit=1)] if len(text) <= _MAX_TEXT else []
    if len(parts) != 2 or not parts[1][-1:].isalpha():  # "100/60" could mean anything
        return None, ""
    count, period = parts
    return _COUNT.fullmatch(count), f"1{period}" if period.isalpha() else period


def parse_rates(*texts: str) -> tuple[Rate, ...]:
    """Read the rates of one limiter; none at all, or two of one period and unit, raise `DefinitionError`."""
    if not texts:
        raise DefinitionError(f"a limiter needs at least one rate; {_HINT}")
    seen: dict[tuple[int, str], Rate] = {}
    for rate in map(parse_rate, texts):
        other = seen.setdefault((rate.period_us, rate.unit), rate)
        if other is not rate:
            raise DefinitionError(f"{str(other)!r} and {str(rate)!r} have one period and unit; keep the lower one")
    return tuple(seen.values())
