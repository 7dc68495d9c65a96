"""Headers about limits: every spelling met outside, conflicts, and that hostile ones neither raise nor loosen."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workerkit.limits.headers import DEFAULT_PAUSE, MAX_BUDGETS, MAX_PAUSE, MAX_RESET, Advice, Budget, read

NOW = 1_790_000_000.25  # Mon, 21 Sep 2026 14:13:20 GMT and a quarter
DATE = "Mon, 21 Sep 2026 14:13:20 GMT"


def said(status: int = 200, *lines: tuple[str, str], **headers: str) -> Advice:
    return read(status, [*lines, *((name.replace("_", "-"), text) for name, text in headers.items())], now=NOW)


# Retry-After


@pytest.mark.parametrize(
    ("text", "pause"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        (" 7 ", 7.0),
        ("1m30s", 90.0),
        ("Mon, 21 Sep 2026 14:14:20 GMT", 59.75),
        ("Monday, 21-Sep-26 14:14:20 GMT", 59.75),
        ("Mon Sep 21 14:14:20 2026", 59.75),
        ("1790000030", 29.75),  # a moment where a number of seconds belongs
        ("3, 8, 5", 8.0),
        ("3, Mon, 21 Sep 2026 14:14:20 GMT", 59.75),
        ("Mon, 21 Sep 2026 14:14:20 GMT, 70", 70.0),
        ("86400", MAX_PAUSE),
        ("9" * 900, MAX_PAUSE),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_PAUSE),
        ("0", DEFAULT_PAUSE),  # what it says was just shown to be wrong
        ("Mon, 21 Sep 2026 14:13:20 GMT", DEFAULT_PAUSE),
    ],
)
def test_retry_after_of_a_refusal(text: str, pause: float) -> None:
    assert said(429, Retry_After=text) == Advice(pause, True, (), ())


@pytest.mark.parametrize(
    "text",
    [
        *("", "-5", "+5", "NaN", "inf", "1e400", "1_000", "٣", "soon", "5 5", "0x10", "\x00", "\ud800", "1" * 10_000),
        *("Mon, ", "Mon, 99 Foo", "Mon, 21 Sep 99999999999 14:14:20 GMT"),
    ],
)
def test_a_refusal_that_says_nothing_usable_pauses_for_the_default(text: str) -> None:
    assert said(429, Retry_After=text) == Advice(DEFAULT_PAUSE, True, (), ("retry-after",))


def test_of_repeated_and_partly_unusable_ones_the_longest_counts() -> None:
    advice = said(429, ("Retry-After", "2"), ("retry-after", "nonsense"), ("RETRY-AFTER", "9"), ("Retry-After", "4"))
    assert advice == Advice(9.0, True, (), ("retry-after",))


@pytest.mark.parametrize(
    ("status", "headers", "refused"),
    [
        (429, {}, True),
        (503, {}, False),
        (403, {}, False),
        (503, {"Retry_After": "2"}, True),
        (403, {"Retry_After": "2"}, True),
        (503, {"Retry_After": "junk"}, False),
        (202, {"Retry_After": "2"}, False),
        (301, {"Retry_After": "2"}, False),
    ],
)
def test_what_is_a_refusal(status: int, headers: dict[str, str], refused: bool) -> None:
    advice = said(status, **headers)
    assert advice.refused is refused
    assert advice.pause == (0.0 if not refused else 2.0 if headers else DEFAULT_PAUSE)


def test_a_refusal_without_retry_after_waits_for_what_is_used_up() -> None:
    spent = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "30", "X_RateLimit_Remaining_Tokens": "5"}
    assert said(429, **spent, X_RateLimit_Reset_Tokens="50").pause == 30.0
    assert said(429, **spent, Retry_After="2").pause == 2.0
    assert said(200, **spent).pause == 0.0


def test_the_servers_clock_counts_where_it_differs_from_ours() -> None:
    hour_ahead = "Mon, 21 Sep 2026 15:13:20 GMT"
    assert said(429, Date=hour_ahead, Retry_After="Mon, 21 Sep 2026 15:13:50 GMT").pause == 30.0
    assert said(429, Date=DATE, Retry_After="Mon, 21 Sep 2026 14:13:50 GMT").pause == 29.75  # ours is the finer one
    assert said(429, Date="today", Retry_After="Mon, 21 Sep 2026 14:13:50 GMT").pause == 29.75


# Budgets


@pytest.mark.parametrize(
    ("headers", "budget"),
    [
        ({"RateLimit": '"default";r=50;t=30'}, Budget("", None, 50, 30.0, None)),
        ({"RateLimit": "default;r=50;t=30"}, Budget("", None, 50, 30.0, None)),
        ({"RateLimit": '"default";r=50'}, Budget("", None, 50, None, None)),
        ({"RateLimit_Policy": '"default";q=100;w=60'}, Budget("", 100, None, None, 60.0)),
        (
            {"RateLimit": '"a";r=50;t=30;pk=:cHk=:', "RateLimit_Policy": '"a" ; q=100; w=60;x;qu="requests";pk=:cHk=:'},
            Budget("", 100, 50, 30.0, 60.0),
        ),
        (
            {"RateLimit": '"b";r=9;t=3', "RateLimit_Policy": '"b";q=100;w=60;qu="content-bytes"'},
            Budget("content-bytes", 100, 9, 3.0, 60.0),
        ),
        ({"RateLimit": "limit=100, remaining=50, reset=5"}, Budget("", 100, 50, 5.0, None)),
        (
            {"RateLimit": "limit=100, remaining=50, reset=5", "RateLimit_Policy": '100;w=10;comment="a, b"'},
            Budget("", 100, 50, 5.0, 10.0),
        ),
        (
            {"RateLimit_Limit": "100", "RateLimit_Remaining": "50", "RateLimit_Reset": "5"},
            Budget("", 100, 50, 5.0, None),
        ),
        (
            {
                "RateLimit_Limit": "100, 100;w=60, 1000;w=3600",
                "RateLimit_Remaining": "50",
                "RateLimit_Reset": "5",
            },
            Budget("", 100, 50, 5.0, 60.0),
        ),
        (
            {"X_RateLimit_Limit": "5000", "X_RateLimit_Remaining": "4999", "X_RateLimit_Reset": "1790000600"},
            Budget("", 5000, 4999, 599.75, None),
        ),
        ({"X_RateLimit_Remaining": "1", "X_RateLimit_Reset": "1790000600500"}, Budget("", None, 1, 600.25, None)),
        ({"X_RateLimit_Remaining": "1", "X_RateLimit_Reset": "17"}, Budget("", None, 1, 17.0, None)),
        ({"X_RateLimit_Remaining": "1", "X_RateLimit_Reset": "1789999999"}, Budget("", None, 1, 0.0, None)),
        ({"X_RateLimit_Remaining": "1", "X_RateLimit_Reset": "20000"}, Budget("", None, 1, MAX_RESET, None)),
        ({"X_Rate_Limit_Remaining": "1.9", "X_Rate_Limit_Reset": "0.25"}, Budget("", None, 1, 0.25, None)),
        ({"X_RateLimit_Limit_Minute": "20", "X_RateLimit_Remaining_Minute": "9"}, Budget("", 20, 9, None, 60.0)),
    ],
)
def test_spellings_of_a_budget(headers: dict[str, str], budget: Budget) -> None:
    assert said(200, **headers) == Advice(0.0, False, (budget,), ())


def test_budgets_of_several_units() -> None:
    advice = said(
        x_ratelimit_limit_requests="60",
        x_ratelimit_remaining_requests="59",
        x_ratelimit_reset_requests="20ms",
        x_ratelimit_limit_tokens="150000",
        x_ratelimit_remaining_tokens="149984",
        x_ratelimit_reset_tokens="6m0s",
    )
    assert advice.budgets == (Budget("", 60, 59, 0.02, None), Budget("tokens", 150_000, 149_984, 360.0, None))


def test_conflicting_values_of_one_header_leave_the_tightest() -> None:
    repeated = [("X-RateLimit-Limit", "10"), ("x-ratelimit-limit", "90"), ("X-RATELIMIT-REMAINING", "8, 3, 5")]
    repeated += [("X-RateLimit-Reset", "4"), ("X-RateLimit-Reset", "40")]
    assert said(200, *repeated).budgets == (Budget("", 10, 3, 40.0, None),)
    assert said(X_RateLimit_Limit="10", X_RateLimit_Remaining="50").budgets[0].remaining == 10


@pytest.mark.parametrize(
    "headers",
    [
        {"RateLimit": '"day";r=900;t=3000, "burst";r=2;t=1, "hour";r=2;t=9'},
        {"RateLimit": '"a";r=5;t=99', "X_RateLimit_Remaining": "2", "X_RateLimit_Reset": "9"},
    ],
)
def test_of_several_budgets_of_a_unit_the_one_with_the_least_left_counts(headers: dict[str, str]) -> None:
    assert said(200, **headers).budgets == (Budget("", None, 2, 9.0, None),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RateLimit", '"default";r=-1;t=30'),
        ("RateLimit", '"default";r=1e9'),
        ("RateLimit", '"default;r=1'),
        ("RateLimit", '"default";r=1,'),
        ("RateLimit", '"default"'),
        ("RateLimit", "remaining=NaN"),
        ("RateLimit", "x" * 5000 + ";r=1"),
        ("RateLimit-Policy", "w=60"),
        ("RateLimit-Policy", "sixty;w=60"),
        ("X-RateLimit-Remaining", "-1"),
        ("X-RateLimit-Remaining", "unlimited"),
        ("X-RateLimit-Remaining", "٣"),
        ("X-RateLimit-Remaining", ""),
        ("X-RateLimit-Limit-Tokens", "NaN"),
    ],
)
def test_what_cannot_be_understood_says_nothing_and_is_named(name: str, text: str) -> None:
    assert said(200, (name, text)) == Advice(0.0, False, (), (name.lower(),))


def test_a_bad_window_or_reset_spoils_only_itself() -> None:
    advice = said(200, RateLimit='"a";r=5;t=-3', RateLimit_Policy='"a";q=9;w=0')
    assert advice == Advice(0.0, False, (Budget("", 9, 5, None, None),), ("ratelimit", "ratelimit-policy"))


def test_other_headers_are_not_read() -> None:
    names = ["Content-Type", "X-RateLimit-Used", "X-RateLimit-Resource", "X-RateLimit-Remaining-" + "a" * 10_000]
    assert said(200, *((name, "0") for name in names)) == Advice(0.0, False, (), ())


# Whatever comes

PIECES = st.sampled_from(
    [
        *(
            "0",
            "1",
            "5",
            "-1",
            "1e400",
            "NaN",
            "٣",
            "9" * 400,
            "1790000600",
            "6m0s",
            "20ms",
            '"a"',
            '"',
            "\\",
            ",",
            ", ",
        ),
        *(
            ";",
            "=",
            ";r=",
            ";t=",
            ";q=",
            ";w=",
            ';qu="x"',
            "limit=",
            "remaining=",
            "reset=",
            ":",
            " ",
            "\t",
            "Mon, ",
            DATE,
        ),
    ]
)
NAMES = ["Retry-After", "RateLimit", "RateLimit-Policy", "RateLimit-Limit", "RateLimit-Reset", "X-RateLimit-Limit"]
NAMES += [
    "X-RateLimit-Remaining",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-remaining-tokens",
    "Date",
    "RateLimit-Limit-Day",
]
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=8).map("".join), st.from_regex(r"\A[0-9.]{1,20}\Z"))
LINES = st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), st.text(max_size=20)), TEXTS), max_size=12)


@given(status=st.sampled_from([200, 403, 429, 503, 0, -1]), lines=LINES)
@example(429, [("Retry-After", "1" * 10_000), ("RateLimit", ";r=" * 3000)])
@example(200, [(f"x-ratelimit-remaining-u{n}", "1") for n in range(1000)])
@example(200, [("X-RateLimit-Limit", "9" * 400), ("RateLimit-Policy", f'"a";q=1;qu="{"u" * 99}"')])
@example(200, [("RateLimit-Policy", ",".join(f'"{n}";q=1;qu="{n}"' for n in range(60)))] * 3)
def test_never_raises_and_stays_in_bounds(status: int, lines: list[tuple[str, str]]) -> None:
    advice = read(status, lines, now=NOW)
    assert advice.refused or advice.pause == 0.0
    assert 0.0 <= advice.pause <= MAX_PAUSE
    assert not advice.refused or advice.pause > 0.0
    assert len({budget.unit for budget in advice.budgets}) == len(advice.budgets) <= MAX_BUDGETS
    assert set(advice.ignored) <= {name.lower() for name, _ in lines}
    for budget in advice.budgets:
        assert len(budget.unit) <= 32
        assert all(0 <= number <= 2**53 for number in (budget.limit, budget.remaining) if number is not None)
        assert budget.reset is None or (isfinite(budget.reset) and 0.0 <= budget.reset <= MAX_RESET)
        assert budget.window is None or 0.0 < budget.window <= 365 * 86400.0


@given(status=st.sampled_from([429, 200]), lines=LINES.filter(lambda lines: all(n.lower() != "date" for n, _ in lines)))
def test_more_headers_never_shorten_a_retry_after_nor_raise_what_remains(
    status: int, lines: list[tuple[str, str]]
) -> None:
    first = [("Retry-After", "20"), ("X-RateLimit-Remaining", "4")]
    advice = read(status, [*first, *lines], now=NOW)
    assert advice.pause >= (20.0 if status == 429 else 0.0)
    remaining = {budget.unit: budget.remaining for budget in advice.budgets}[""]
    assert remaining is not None
    assert remaining <= 4
