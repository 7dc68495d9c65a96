"""The referee against its definition, spelled out the slow way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.demo.referee import Verdict, judge
from workerkit.errors import DefinitionError

# few distinct values, so that calls meet at the same instant and exactly a second apart; and any others
MOMENTS = st.integers(0, 24).map(lambda n: n / 8) | st.floats(0, 3)
LENGTHS = st.integers(0, 8).map(lambda n: n / 8) | st.floats(0, 1)
CALLS = st.lists(st.tuples(MOMENTS, LENGTHS, st.sampled_from([200, 429])), max_size=40)


def log(*calls: tuple[float, float, int], path: str = "/lookup/a") -> list[str]:
    return [json.dumps({"t": start, "end": end, "path": path, "status": status}) for start, end, status in calls]


@given(CALLS, st.integers(1, 6))
def test_it_says_what_counting_by_hand_says(calls, rate):
    spans = [(start, start + length, status) for start, length, status in calls]
    starts = [start for start, _, _ in spans]
    verdict = judge(log(*spans), rate=rate)
    assert verdict == Verdict(
        calls=len(calls),
        rejected=sum(status == 429 for _, _, status in calls),
        # brute force: a call breaks the limit when it and those of the second before it are more than the rate
        violations=sum(
            sum(0 <= late - early < 1 and at <= place for at, early in enumerate(sorted(starts))) > rate
            for place, late in enumerate(sorted(starts))
        ),
        max_in_any_second=max((sum(0 <= other - begin < 1 for other in starts) for begin in starts), default=0),
        max_concurrent=max((sum(s <= instant < e for s, e, _ in spans) for instant in starts), default=0),
    )


def test_a_window_is_half_open():
    assert judge(log((0.0, 0.1, 200), (1.0, 1.1, 200))).max_in_any_second == 1
    assert judge(log((0.0, 0.1, 200), (0.999999, 1.1, 200))).max_in_any_second == 2


def test_the_window_may_begin_anywhere():
    clustered = [(0.9 + n / 1000, 2.0, 200) for n in range(30)] + [(1.1 + n / 1000, 2.0, 200) for n in range(30)]
    verdict = judge(log(*clustered))
    assert (verdict.max_in_any_second, verdict.violations) == (60, 10)


def test_an_end_and_an_arrival_at_one_instant_do_not_meet():
    assert judge(log((0.0, 0.5, 200), (0.5, 1.0, 200))).max_concurrent == 1
    assert judge(log((0.0, 0.5, 200), (0.4, 1.0, 200))).max_concurrent == 2


def test_lines_come_in_the_order_of_their_ends():
    assert judge(log((0.5, 0.6, 200), (0.0, 0.7, 200))).max_concurrent == 2


def test_health_checks_and_blank_lines_are_no_calls():
    assert judge(["\n", *log((0.0, 0.1, 200), path="/healthz")]) == Verdict(0, 0, 0, 0, 0)


@pytest.mark.parametrize("line", ["{", "[]", '{"t": 1, "end": 2, "path": "/lookup/a"}', '{"t": "x", "end": 2}'])
def test_a_damaged_log_is_no_evidence(line):
    with pytest.raises(DefinitionError, match="line 2 "):
        judge([*log((0.0, 0.1, 200)), line])
