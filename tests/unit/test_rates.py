"""Rates: spellings, refusals, and that the canonical text is the rate."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.rates import MAX_AMOUNT, Rate, parse_rate, parse_rates
from workerkit.errors import DefinitionError


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/s", Rate(100, 1.0)),
        ("5000/h", Rate(5000, 3600.0)),
        ("10/30s", Rate(10, 30.0)),
        ("10 / 1h30m", Rate(10, 5400.0)),
        ("100 per minute", Rate(100, 60.0)),
        ("100 per 30 seconds", Rate(100, 30.0)),
        ("500 requests/m", Rate(500, 60.0, "requests")),
        ("90000 tokens/m", Rate(90000, 60.0, "tokens")),
        ("90000 tokens per minute", Rate(90000, 60.0, "tokens")),
        ("1_000/day", Rate(1000, 86400.0)),
        ("1/250ms", Rate(1, 0.25)),
    ],
)
def test_accepts(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "100",
            "0/s",
            "-5/s",
            "1.5/s",
            "nan/s",
            "inf/s",
            "100/",
            "/s",
            "100/fortnight",
            "100/60",
            "100/.5s",
            "9//s",
        ),
        *("1,000/s", "100 per", "100 per per s", "1__0/s", "5 a b/s", "5tokens/s", "5 to-ken/s", "100/0s", "100/-1s"),
        *("1/1us", "1/366d", f"{2**53 + 1}/s", "9" * 5000 + "/s", "1/s/s", "\uff11/s", "10/s30m", "10/m 30s", "5/\0s"),
    ],
)
def test_refuses_and_says_what_to_write(text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_rate(text)
    assert 'write it like "100/s"' in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "arguments",
    [
        *((True, 1), (1.0, 1), (0, 1), (MAX_AMOUNT + 1, 1), (1, math.nan), (1, 0), (1, -1), (1, 4e7), (1, 5e-4)),
        *((1, True), (1, 1, "a b"), (1, 1, "per"), (1, 1, "9"), (1, 1, None), (1, 1, "a\n")),
    ],
)
def test_a_rate_checks_itself(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(DefinitionError):
        Rate(*arguments)


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be text, not int"):
        parse_rate(cast("str", 100))


def test_period_is_whole_microseconds() -> None:
    rate = Rate(3, 0.1 + 0.2)
    assert rate.period_us == 300_000
    assert rate.period == 0.3
    assert rate == Rate(3, 0.3)


@pytest.mark.parametrize("text", ["100/s", "10/30s", "90000 tokens/m", "1/250ms", "5/d", "5/7d", "1/1m30s", "1/1h30m"])
def test_canonical_text(text: str) -> None:
    assert str(parse_rate(text)) == text


units = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda unit: unit != "per") | st.just("")
periods = st.integers(1_000, 365 * 86400 * 1_000_000).map(lambda us: us / 1e6)


@given(st.builds(Rate, st.integers(1, MAX_AMOUNT), periods, units))
def test_text_and_back(rate: Rate) -> None:
    assert parse_rate(str(rate)) == rate


pieces = ["100", "0", "1_0", "/", " per ", "s", "m", "h", "30s", "1.5", "tokens", " ", "-", "_", ".", "1e3", "nan", "é"]
nearly = st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@given(st.text() | nearly)
def test_any_text_is_a_rate_or_a_definition_error(text: str) -> None:
    try:
        rate = parse_rate(text)
    except DefinitionError:
        return
    assert parse_rate(str(rate)) == rate


def test_several_rates_keep_their_order() -> None:
    rates = parse_rates("500 requests/m", "90000 tokens/m", "5/s")
    assert [str(rate) for rate in rates] == ["500 requests/m", "90000 tokens/m", "5/s"]


@pytest.mark.parametrize("texts", [(), ("100/s", "200/s"), ("100/60s", "5/m"), ("5 tokens/m", "6 tokens/60s")])
def test_none_or_two_of_one_kind_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(DefinitionError):
        parse_rates(*texts)
