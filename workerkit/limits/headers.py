"""What a response says about its server's limits: `Retry-After`, `RateLimit`, `RateLimit-Policy`, `X-RateLimit-*`.

Sources: RFC 9110 (10.2.3), RFC 9651 (structured fields), draft-ietf-httpapi-ratelimit-headers in its three forms (a
header for each number up to 06; `limit=, remaining=, reset=` in 07; named items since 08), and what GitHub, OpenAI,
Kong and Envoy send. It all comes from outside: it is read within bounds, and what cannot be understood says nothing.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf

from workerkit.core.durations import seconds
from workerkit.core.rates import MAX_AMOUNT, MAX_PERIOD
from workerkit.errors import DefinitionError
from workerkit.limits.definition import CALLS

MAX_PAUSE = MAX_RESET = 3600.0
DEFAULT_PAUSE = 1.0
MAX_LINES, MAX_LENGTH, MAX_BUDGETS = 64, 1000, 8

_SKEW = 5.0  # beyond this the server's clock, as its Date header tells it, is the one for the times it names
_YEAR = 366 * 86400.0
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}

_SCALAR = re.compile(r"((?:x-)?rate-?limit)-(limit|remaining|reset)(?:-([a-z][a-z0-9_-]{0,31}))?")
_OTHERS = {"ratelimit", "ratelimit-policy", "retry-after"}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_WEEKDAY = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? ")
_COMMA = re.compile(r",(?! ?[0-9]{2}[ -][A-Z])")  # not the one after the weekday of a date

_BARE = r'"(?:[^"\\]|\\["\\])*"|:[A-Za-z0-9+/=]*:|[A-Za-z0-9*?.%/_+-]+'
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*([a-z*][a-z0-9_.*-]*)(?:=({_BARE}))?")
_MEMBER = re.compile(rf"[ \t]*({_BARE})(?:=({_BARE}))?((?:{_PARAMETER.pattern})*)[ \t]*(,|\Z)")

_Key = tuple[str, str]  # a family of headers, and which of its budgets
_Claim = tuple[_Key, str, float | None]  # what is said of which budget; None: unusable
_RETRY = ("retry-after", "")


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of one unit ("" counts requests): `remaining` for the next `reset` seconds, of `limit` in any
    `window` seconds; None where nothing was said. A `reset` of more than an hour is read as an hour."""

    unit: str
    limit: int | None
    remaining: int | None
    reset: float | None
    window: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """What one response asks of its client; it can only tighten.

    `pause`: seconds to send nothing, 0.0 for none. `refused`: the limit was passed. `budgets`: one a unit at most; of
    several the one with the least left. `ignored`: the names of headers that were there and unusable.
    """

    pause: float
    refused: bool
    budgets: tuple[Budget, ...]
    ignored: tuple[str, ...]


def read(status: int, headers: Iterable[tuple[str, str]], *, now: float) -> Advice:
    """Read a response: its status, its headers (a name may come twice, and in any case), the unix time it came at.

    A 429 is a refusal; so is a 503 or (GitHub) a 403 that says `Retry-After`. It pauses for that long; without one
    until what is used up comes back; and for a second if that says nothing, or 0. An hour at most: what says more is
    read as an hour. Of conflicting values the tightest counts. Never raises, whatever the headers say.
    """
    lines = [(name.lower(), text) for name, text in headers]
    reading = _Reading(_clock(lines, now))
    known = islice((line for line in lines if line[0] in _OTHERS or _SCALAR.fullmatch(line[0])), MAX_LINES)
    ignored = dict.fromkeys(name for name, text in known if not reading.take(name, text))
    wait, budgets = reading.wait(), reading.budgets()
    refused = status == 429 or (status in {403, 503} and wait is not None)
    if wait is None:
        wait = max((budget.reset or 0.0 for budget in budgets if budget.remaining == 0), default=0.0)
    return Advice((wait or DEFAULT_PAUSE) if refused else 0.0, refused, budgets, tuple(ignored))


class _Reading:
    """What was said so far; of conflicting claims the tightest."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._said: dict[_Key, dict[str, float]] = {}
        self._units: dict[_Key, str] = {}

    def take(self, name: str, text: str) -> bool:
        """Take in a header; answers whether all of it could be understood."""
        claims = list(self._claims(name, text)) if len(text) <= MAX_LENGTH else []
        for key, what, value in claims:
            if value is not None:
                said, tighter = self._said.setdefault(key, {}), min if what in {"limit", "remaining"} else max
                said[what] = tighter(value, said.get(what, value))
        return bool(claims) and all(value is not None for _, _, value in claims)

    def wait(self) -> float | None:
        return self._said.get(_RETRY, {}).get("reset")

    def budgets(self) -> tuple[Budget, ...]:
        drafts = [self._budget(key, said) for key, said in self._said.items() if said.keys() & {"limit", "remaining"}]
        tightest: dict[str, Budget] = {}
        for budget in sorted(drafts, key=_tightness):
            tightest.setdefault(budget.unit, budget)
        return tuple(tightest.values())[:MAX_BUDGETS]

    def _budget(self, key: _Key, said: dict[str, float]) -> Budget:
        limit, remaining, window = said.get("limit"), said.get("remaining"), said.get("window")
        if limit is not None and window is None:  # "100;w=60" is the policy of a limit of 100
            window = self._said.get((key[0], f"{limit:.0f}"), {}).get("window")
        if limit is not None and remaining is not None:
            remaining = min(limit, remaining)
        return Budget(self._units.get(key, ""), _whole(limit), _whole(remaining), said.get("reset"), window)

    def _claims(self, name: str, text: str) -> Iterator[_Claim]:
        """What one header says; nothing when it is malformed."""
        if name == "retry-after":
            yield from ((_RETRY, "reset", _delay(part.strip(), self._now)) for part in _COMMA.split(text))
        elif scalar := _SCALAR.fullmatch(name):
            family, what, label = scalar.groups("")
            yield from self._scalar(family, what, label, text)
        else:
            for item, value, parameters in _members(text):
                if name == "ratelimit-policy":
                    yield from self._policy("ratelimit", item, parameters)
                elif value and item in {"limit", "remaining", "reset"}:
                    yield ("ratelimit", ""), item, self._value(item, value)
                elif "r" in parameters:
                    yield ("ratelimit", item), "remaining", _count(parameters["r"])
                    if "t" in parameters:
                        yield ("ratelimit", item), "reset", _delay(parameters["t"], self._now)

    def _scalar(self, family: str, what: str, label: str, text: str) -> Iterator[_Claim]:
        key = (family, label)
        if label in _PERIODS:
            yield key, "window", _PERIODS[label]
        else:
            self._unit(key, label)
        for item, _, parameters in _members(text):
            if "w" in parameters:  # policies behind the limit: "100, 100;w=60, 1000;w=3600"
                yield from self._policy(family, item, parameters)
            else:
                yield key, what, self._value(what, item)

    def _policy(self, family: str, item: str, parameters: dict[str, str]) -> Iterator[_Claim]:
        key = (family, item)
        self._unit(key, parameters.get("qu", ""))
        yield key, "limit", _count(parameters.get("q", item))
        if "w" in parameters:
            window = _count(parameters["w"])
            yield key, "window", min(window, MAX_PERIOD) if window else None

    def _unit(self, key: _Key, unit: str) -> None:
        self._units[key] = "" if unit in CALLS else unit[:32]

    def _value(self, what: str, text: str) -> float | None:
        return _delay(text, self._now) if what == "reset" else _count(text)


def _clock(lines: list[tuple[str, str]], now: float) -> float:
    dates = (_date(text) for name, text in lines if name == "date")
    return next((date for date in dates if date is not None and abs(date - now) > _SKEW), now)


def _tightness(budget: Budget) -> tuple[float, ...]:
    remaining = inf if budget.remaining is None else budget.remaining
    rate = inf if budget.limit is None else budget.limit / (budget.window or 1.0)
    return remaining, -(budget.reset or 0.0), rate


def _members(text: str) -> list[tuple[str, str, dict[str, str]]]:
    """The members of a structured field as (item or name, value, parameters); none when any of it is malformed."""
    members, at = [], 0
    while match := _MEMBER.match(text, at):
        item, value, parameters = (part or "" for part in match.group(1, 2, 3))
        given = {name: given.strip('"') for name, given in _PARAMETER.findall(parameters)}
        members.append((item.strip('"'), value.strip('"'), given))
        if match.end() == len(text) and match[0][-1] != ",":
            return members
        at = match.end()
    return []


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _count(text: str) -> float | None:
    return min(float(text), float(MAX_AMOUNT)) if _NUMBER.fullmatch(text) else None


def _delay(text: str, now: float) -> float | None:
    """Seconds from now: a number of them, "6m0s", an HTTP date, or a moment since 1970 in seconds or milliseconds,
    which is told from a number of seconds by being within a year of now."""
    if _NUMBER.fullmatch(text):
        number = float(text)
        moment = next((at for at in (number, number / 1e3) if abs(at - now) < _YEAR), None)
        return _bounded(number if moment is None else moment - now)
    if _WEEKDAY.match(text):
        date = _date(text)
        return None if date is None else _bounded(date - now)
    try:
        return _bounded(seconds(text, what="", zero_ok=True))
    except DefinitionError:
        return None


def _bounded(delay: float) -> float:
    return min(max(delay, 0.0), MAX_RESET)


def _date(text: str) -> float | None:
    """An HTTP date in any of its three forms (RFC 9110, 5.6.7), as unix seconds."""
    from email.utils import parsedate_tz  # its package is large, and few responses name a date

    try:
        parts = parsedate_tz(text) if len(text) <= MAX_LENGTH else None
        return None if parts is None else float(timegm(parts[:9]) - (parts[9] or 0))
    except (ValueError, OverflowError, IndexError, TypeError):  # it promises None, and does not always keep to it
        return None
