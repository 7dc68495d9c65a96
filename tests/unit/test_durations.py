"""Durations: every accepted spelling, every refusal, and no other exception whatever the input."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.durations import MAX_SECONDS, humanize, seconds
from workerkit.errors import DefinitionError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (timedelta(minutes=10), 600.0),
        (90, 90.0),
        (0.5, 0.5),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1h 30 min", 5400.0),
        ("250ms", 0.25),
        ("15us", 15e-6),
        ("2 days", 172800.0),
        ("1 week", 604800.0),
        ("1.5h", 5400.0),
        ("600", 600.0),
        (" 10s ", 10.0),
    ],
)
def test_accepts(value: Any, expected: float) -> None:
    assert seconds(value, what="ttl") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, True, None, [], "", "0", "0m", "m", "10x", "1h30", "-5s", "10M", "1e3s", "٣m", "1h;", b"10m"),
        *(math.nan, math.inf, 2**63, "9" * 5000 + "s", timedelta(0), timedelta(-1), timedelta.max, 1e-9),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_refuses(value: Any) -> None:
    with pytest.raises(DefinitionError) as caught:
        seconds(value, what="ttl")
    assert str(caught.value).startswith("ttl: ")
    assert '"10m"' in str(caught.value)
    assert len(str(caught.value)) < 300


def test_zero_only_where_it_is_allowed() -> None:
    assert seconds(0, what="stale", zero_ok=True) == 0.0
    assert seconds("0s", what="stale", zero_ok=True) == 0.0
    with pytest.raises(DefinitionError, match="stale: -1 must be 0 or at least"):
        seconds(-1, what="stale", zero_ok=True)


@given(st.text() | st.text("0123456789.hmsdu -+e") | st.floats() | st.integers() | st.booleans() | st.none())
def test_anything_gives_seconds_or_a_definition_error(value: Any) -> None:
    try:
        result = seconds(value, what="ttl")
    except DefinitionError:
        return
    assert 1e-6 <= result <= MAX_SECONDS


@given(st.integers(1, int(MAX_SECONDS) * 1_000_000))
def test_humanize_reads_back_exactly(us: int) -> None:
    assert round(seconds(humanize(us / 1e6), what="it") * 1e6) == round(us / 1e6 * 1e6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0s"), (5400, "1h30m"), (1.5, "1.5s"), (0.25, "250ms"), (0.0015, "1.5ms"), (15e-6, "15us")),
        *((86400, "1d"), (-60, "-1m"), (math.inf, "inf"), (100, "1m40s"), (0.9999999, "1s")),
    ],
)
def test_humanize(value: float, text: str) -> None:
    assert humanize(value) == text
