"""What a limiter limits: its rates, its cap, how it counts; checked where it is written, as are the costs of a call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import kwlist
from math import ceil
from typing import Literal, get_args

from workerkit.core.durations import Duration, humanize, seconds
from workerkit.core.rates import MAX_AMOUNT, Rate
from workerkit.errors import DefinitionError
from workerkit.limits.block import Blocks

Algorithm = Literal["window", "gcra", "fixed"]
Count = Literal["request", "response"]
LeaseTokens = int | Literal["auto"] | None

LEASE = 10.0
SHORTEST_LEASE = 0.1
MAX_MARGIN = 86400.0
CALLS = frozenset({"", "call", "calls", "request", "requests"})

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TAKEN = frozenset({"key", "cost", "wait", "within", "limiter", "self", *kwlist})  # what a verb could not be told


class Definition:
    """One limiter as it was written. Raises DefinitionError for what will not do.

    margin: seconds added to every period. lease: seconds a slot lives unrenewed. burst: for gcra, how many may run
    ahead of the pace; a tenth of each amount by default.
    """

    def __init__(
        self,
        name: str,
        rates: tuple[Rate, ...],
        *,
        algorithm: Algorithm = "window",
        burst: int | None = None,
        concurrency: int | None = None,
        margin: Duration | None = None,
        lease: Duration = LEASE,
        count: Count = "request",
        lease_tokens: LeaseTokens = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DefinitionError(
                f"limiter name {name!r:.80} will not do: use 1 to 64 letters, digits, '.', '_' or '-'"
            )
        self.name = name
        self.what = f"limiter {name}"
        _one_of(f"{self.what}: algorithm", algorithm, get_args(Algorithm))
        _one_of(f"{self.what}: count", count, get_args(Count))
        self.algorithm = algorithm
        self.concurrency = self._whole("concurrency", concurrency)
        self.burst = self._whole("burst", burst)
        self.exact = count == "response"
        self.lease = seconds(lease, what=f"{self.what}: lease")
        self.margin = 0.0 if margin is None else seconds(margin, what=f"{self.what}: margin", zero_ok=True)
        self.rates = self._rates(rates)
        self.units = tuple("" if rate.unit in CALLS else rate.unit for rate in rates)
        self.named = frozenset(unit for unit in self.units if unit)
        self._check(rates)
        # Seconds that a block of tokens may be used for, which every period is counted longer by; a pause or a
        # configuration is heard of as much later.
        self.ahead = min(0.1, min(rate.period for rate in rates) / 50) if self._leases(lease_tokens) else 0.0
        self.lease_tokens = lease_tokens
        self.ones = (1,) * len(rates)

    def _check(self, rates: tuple[Rate, ...]) -> None:
        if self.lease < SHORTEST_LEASE:
            raise DefinitionError(f"{self.what}: lease={self.lease} is too short to renew in time; write 0.1 or more")
        if not rates and self.concurrency is None:
            raise DefinitionError(f'{self.what} limits nothing; give it a rate ("100/s") or concurrency=')
        if self.margin > MAX_MARGIN:
            raise DefinitionError(f"{self.what}: margin={humanize(self.margin)} is above a day; it covers delays only")
        if self.burst is not None and (self.algorithm != "gcra" or not rates):
            raise DefinitionError(f"{self.what}: burst= is for rates with algorithm='gcra'; leave it out")
        if self.margin and self.algorithm == "fixed":
            raise DefinitionError(f"{self.what}: margin= would part fixed windows from the clock's; leave it out")
        if self.exact and (self.algorithm != "window" or not rates):
            raise DefinitionError(f"{self.what}: count='response' needs a rate, and algorithm='window'")

    def _leases(self, tokens: LeaseTokens) -> bool:
        if tokens is None:
            return False
        if not self.rates or self.named or self.concurrency or self.exact or self.algorithm != "window":
            raise DefinitionError(
                f"{self.what}: lease_tokens= is for rates of calls in a window alone: no other algorithm or units, "
                "no concurrency, no count='response'"
            )
        most = min(rate.amount for rate in self.rates)
        if tokens != "auto" and (type(tokens) is not int or not 1 <= tokens <= most):
            raise DefinitionError(
                f'{self.what}: lease_tokens={tokens!r} must be a whole number up to {most}, or "auto"'
            )
        return True

    def blocks(self) -> Blocks | None:
        """Where a process keeps the tokens that it took ahead; None for a limiter that asks for each."""
        if self.lease_tokens is None:
            return None
        return Blocks(self.lease_tokens, self.ahead, min(rate.amount for rate in self.rates))

    def _rates(self, rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
        seen: dict[tuple[int, str], Rate] = {}
        for rate in rates:
            if rate.unit in _TAKEN or rate.unit.startswith("__"):
                raise DefinitionError(f'{self.what}: "{rate}": a unit cannot be called {rate.unit}; use another word')
            other = seen.setdefault((rate.period_us, "" if rate.unit in CALLS else rate.unit), rate)
            if other is not rate:
                raise DefinitionError(f'{self.what}: "{other}" and "{rate}" have one period; keep the lower one')
        return rates

    def period_us(self, rate: Rate) -> int:
        """What is counted with: the rate's own period, and what delays and blocks need on top."""
        return rate.period_us + ceil((self.margin + self.ahead) * 1e6)

    def most(self, rate: Rate) -> int:
        """The largest cost that this rate can ever admit at once."""
        if self.algorithm != "gcra":
            return rate.amount
        return min(rate.amount, self.burst or max(1, rate.amount // 10))

    def costs(self, cost: int, units: Mapping[str, int]) -> tuple[int, ...]:
        """What each rate is charged for one call. Raises DefinitionError for a cost that could never be admitted."""
        if type(cost) is int and cost == 1 and not units and not self.named:
            return self.ones
        if units.keys() != self.named:
            self._wrong_units(units)
        _whole(f"{self.what}: cost", cost)
        if cost != 1 and "" not in self.units:
            raise DefinitionError(f"{self.what} counts no calls, so cost={cost} means nothing; leave it out")
        for unit, amount in units.items():
            _whole(f"{self.what}: {unit}", amount)
        costs = tuple(units[unit] if unit else cost for unit in self.units)
        for rate, unit, each in zip(self.rates, self.units, costs, strict=True):
            if each > self.most(rate):
                burst = f" with burst {self.most(rate)}" if self.algorithm == "gcra" else ""
                raise DefinitionError(
                    f"{self.what}: {unit or 'cost'}={each} is above {rate}{burst}, so it would never pass; "
                    "ask for less at once"
                )
        return costs

    def held(self, costs: tuple[int, ...]) -> str:
        """The costs by unit, as the scripts read them in the name of a lease."""
        return ";".join(f"{unit}={cost}" for unit, cost in dict(zip(self.units, costs, strict=True)).items())

    def _wrong_units(self, units: Mapping[str, int]) -> None:
        if missing := sorted(self.named - units.keys()):
            raise DefinitionError(f"{self.what} counts {missing[0]} too: say how many, as in slot({missing[0]}=...)")
        unknown = min(units.keys() - self.named)
        known = ", ".join(sorted(self.named)) or "only calls (cost=)"
        raise DefinitionError(f"{self.what} does not count {unknown}; it counts {known}")

    def _whole(self, option: str, value: int | None) -> int | None:
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_AMOUNT):
            raise DefinitionError(f"{self.what}: {option}={value!r} must be a whole number of at least 1, or None")
        return value

    def __repr__(self) -> str:
        parts = [self.name, *map(str, self.rates)]
        parts += [f"algorithm={self.algorithm}"] if self.algorithm != "window" else []
        parts += [f"concurrency={self.concurrency}"] if self.concurrency else []
        parts += [f"margin={humanize(self.margin)}"] if self.margin else []
        return ", ".join(parts)


def _whole(what: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise DefinitionError(f"{what}={value!r} must be a whole number of at least 1")


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DefinitionError(f"{what}={value!r} must be one of {', '.join(map(repr, choices))}")
