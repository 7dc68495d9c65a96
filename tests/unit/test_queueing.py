"""Who goes first: a throttle's priority, fairness key and weight; bad ones are refused where they are written."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit import WorkerKit
from workerkit.api.queueing import HEAVIEST, Queueing
from workerkit.errors import DefinitionError, EncodingError
from workerkit.waitlist.line import Line, Place

INF, NAN = float("inf"), float("nan")
LINE = Line("api", "part", "label", (1,))
PRIORITY = "priority=.* must be a whole number from 0 to 9"
WEIGHT = "weight=.* must be a number above 0, 1000 at most"


@pytest.fixture
def kit():
    return WorkerKit(url="redis://nowhere.invalid", hooks=[])


def place(priority=0, fairness_key=None, weight=1, *, line=LINE, **arguments):
    """The place of a call with these arguments."""
    queueing = Queueing(priority, fairness_key, weight, lambda text: f"<{text}>")
    return queueing.of(list(arguments))(arguments, 20_000, line)


def test_without_options_all_are_equal():
    assert place() == Place(0, "", 1, 20_000, 1)


@pytest.mark.parametrize("priority", range(10))
def test_a_priority(priority):
    assert place(priority).priority == place(lambda: priority).priority == place(lambda n: n, n=priority).priority


@given(st.floats(min_value=0, max_value=HEAVIEST, exclude_min=True) | st.integers(1, 1000))
def test_a_weight(weight):
    assert place(weight=weight).weight == place(weight=lambda n: n, n=weight).weight == weight


def test_a_fairness_key_stands_there_as_a_digest():
    assert place(fairness_key="{tenant}", tenant="a").group == "<a>"
    assert place(fairness_key="{tenant}:{region}", tenant="a", region=7).group == "<a:7>"
    assert place(fairness_key=lambda tenant: tenant[:1], tenant="abc").group == "<a>"
    assert place(fairness_key="", tenant="a").group == "<>"


def test_callables_see_the_arguments_that_they_name():
    made = place(lambda plan: 9 if plan == "gold" else 0, "{tenant}", lambda plan, **_: 3.5, tenant="t", plan="gold")
    assert made == Place(9, "<t>", 3.5, 20_000, 1)


def test_a_turn_costs_what_its_largest_unit_does():
    assert place(line=Line("llm", "p", "l", (1, 800))).cost == 800
    assert place(line=Line("db", "p", "l", ())).cost == 1


@pytest.mark.parametrize("priority", [-1, 10, 99, 1.5, NAN, INF, True, False, "high", "", None, b"1", [1], 2**80])
def test_a_priority_that_will_not_do(kit, priority):
    with pytest.raises(DefinitionError, match=f"throttle: {PRIORITY}"):
        kit.throttle(priority=priority)


@pytest.mark.parametrize("weight", [0, 0.0, -1, -0.5, 1000.1, INF, NAN, True, "heavy", "", None, b"1", [1], 10**400])
def test_a_weight_that_will_not_do(kit, weight):
    with pytest.raises(DefinitionError, match=f"throttle: {WEIGHT}"):
        kit.throttle(weight=weight)


@pytest.mark.parametrize("key", ["{tenant}", "{", "{tenant!r}", 7, b"a", ["a"], lambda tenant: tenant, lambda *a: "x"])
def test_a_fairness_key_that_will_not_do(kit, key):
    with pytest.raises(DefinitionError, match="throttle: fairness_key"):
        kit.throttle(fairness_key=key)(lambda account: None)


@pytest.mark.parametrize("option", ["priority", "weight"])
@pytest.mark.parametrize("function", [lambda tenant: 1, lambda *args: 1, lambda account, /: 1, dict.get])
def test_a_function_that_cannot_be_called_with_the_arguments(kit, option, function):
    with pytest.raises(DefinitionError, match=f"throttle: {option}"):
        kit.throttle(**{option: function})(lambda account: None)


@pytest.mark.parametrize("answer", [10, -1, 2.5, Decimal("0.5"), "high", None])
def test_what_a_priority_function_answers_is_checked_at_the_call(kit, answer):
    kit.throttle(priority=lambda: answer)(lambda account: None)
    with pytest.raises(DefinitionError, match=PRIORITY):
        place(lambda: answer)


@pytest.mark.parametrize("answer", [0, -1.0, 1001, NAN, INF, "heavy", None])
def test_what_a_weight_function_answers_is_checked_at_the_call(kit, answer):
    kit.throttle(weight=lambda: answer)(lambda account: None)
    with pytest.raises(DefinitionError, match=WEIGHT):
        place(weight=lambda: answer)


@pytest.mark.parametrize(
    "options", [{"priority": lambda: [1]}, {"weight": lambda: {"a": 1}}, {"fairness_key": lambda: (1,)}]
)
def test_an_answer_that_is_no_simple_value(options):
    with pytest.raises(EncodingError, match="which has no plain text"):
        place(**options)


def test_an_error_of_the_users_own_function_passes():
    with pytest.raises(KeyError):
        place(lambda plans: plans["mine"], plans={})


def test_options_of_a_limiter_need_one(kit):
    for wrong in ({"key": "{account}"}, {"cost": 2}, {"tokens": 3}, {"wait": 1}):
        with pytest.raises(DefinitionError, match=r"kit.throttle\(limiter, ...\)"):
            kit.throttle(**wrong)
    kit.throttle(priority=3, fairness_key="{account}", weight=2)(lambda account: None)


@pytest.mark.parametrize("limiter", ["api", 7, len, object()])
def test_what_is_no_limiter(kit, limiter):
    with pytest.raises(DefinitionError, match="is no limiter; write"):
        kit.throttle(limiter)
