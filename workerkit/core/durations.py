"""Durations as people write them (`"10m"`, `90`, `timedelta(...)`), turned into seconds where they are defined."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from workerkit.errors import DefinitionError

Duration = timedelta | int | float | str

# A hundred years: server time plus any duration, in microseconds, then stays an exact integer in Lua's doubles.
MAX_SECONDS = 100 * 365 * 86400.0
MIN_SECONDS = 1e-6

_NAMES = {
    86400.0: "d day days",
    3600.0: "h hr hrs hour hours",
    60.0: "m min mins minute minutes",
    1.0: "s sec secs second seconds",
    1e-3: "ms millisecond milliseconds",
    1e-6: "us microsecond microseconds",
    7 * 86400.0: "w week weeks",
}
_UNITS = {name: size for size, names in _NAMES.items() for name in names.split()}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TEXT = re.compile(rf"(?:{_NUMBER}\s*[a-z]+\s*)+")
_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)")
_BARE = re.compile(_NUMBER)
_HINT = 'write seconds (90, 0.5), a timedelta, or text such as "10m", "1h30m", "250ms", "2 days"'


def seconds(value: Duration, *, what: str, zero_ok: bool = False) -> float:
    """Turn `value` into seconds: a timedelta, a number of seconds, or text ("10m", "1h30m", "2 days", "600").

    `what` names the setting in the error. The result lies between a microsecond and a hundred years, or is 0.0 when
    `zero_ok`; anything else raises `DefinitionError`.
    """
    result = _parse(value)
    if result is None:
        raise DefinitionError(f"{what}: {_shown(value)} is no duration; {_HINT}")
    if result == 0 and zero_ok:
        return 0.0
    if not MIN_SECONDS <= result <= MAX_SECONDS:
        least = "0 or at least" if zero_ok else "at least"
        raise DefinitionError(f"{what}: {_shown(value)} must be {least} 1us and at most 100 years; {_HINT}")
    return result


def humanize(seconds: float) -> str:
    """Write seconds the short way ("1h30m", "1.5s", "250ms"), exact to the microsecond; `seconds()` reads it back."""
    if not math.isfinite(seconds):
        return str(seconds)
    sign, us = "-" if seconds < 0 else "", round(abs(seconds) * 1e6)
    if us < 1_000_000:
        return sign + (f"{us / 1000:g}ms" if us >= 1000 else f"{us}us" if us else "0s")
    whole, fraction = divmod(us, 1_000_000)
    parts = []
    for name, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{name}")
    if whole or fraction:
        parts.append(f"{whole}.{fraction:06}".rstrip("0").rstrip(".") + "s")
    return sign + "".join(parts)


def _parse(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _parse_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _parse_text(text: str) -> float | None:
    if _BARE.fullmatch(text):
        return float(text)
    if not _TEXT.fullmatch(text):
        return None
    parts = _PART.findall(text)
    if any(unit not in _UNITS for _, unit in parts):
        return None
    return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more than 4,300 digits has no decimal repr
        text = f"an int of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
