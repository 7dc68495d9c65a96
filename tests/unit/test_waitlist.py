"""Tickets: the raw message, unharmed by parking; and what is decided before anything is asked of Redis."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.call import Call
from workerkit.core.flow import Flow, Sleep
from workerkit.core.keys import Keys
from workerkit.core.rates import parse_rate, parse_rates
from workerkit.errors import OutcomeUnknown
from workerkit.limits.decision import Answer, Decision
from workerkit.limits.lease import Slot
from workerkit.throttle.admission import MARGIN, admit, enter, interval_us, park
from workerkit.waitlist.line import Line, Place
from workerkit.waitlist.ticket import CANCELLED, Ticket
from workerkit.waitlist.waitlist import Entered, Entry, Parked, Waitlist

S = 1_000_000
json_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()


def ticket(**changes: object) -> Ticket:
    base: dict[str, object] = {
        "task": "t",
        "body": b"[[], {}, {}]",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"id": "i", "retries": 0},
        "properties": {"priority": 3},
        "exchange": "",
        "routing_key": "celery",
    }
    return Ticket(**{**base, **changes})  # type: ignore[arg-type]  # checked by what the tests assert


@given(st.binary(), st.dictionaries(st.text(), json_values), st.text())
def test_dump_and_load(body: bytes, headers: dict[str, object], routing_key: str) -> None:
    made = ticket(body=body, headers=headers, routing_key=routing_key)
    assert Ticket.load(made.dump()) == made


@given(st.binary())
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        Ticket.load(data)


def test_generations_and_publications() -> None:
    first = ticket()
    parked = first.next("api:k")
    assert (first.generation, parked.generation, parked.next("api:k").generation) == (0, 1, 2)
    assert (first.line, parked.line, parked.next("api:other").line) == ("", "api:k", "api:other")
    assert parked.published_as("p").publication == "p"
    assert parked.published_as("p").next("api:k").publication == ""
    assert parked.published_as("p").generation == 1
    assert parked.id == first.id == parked.published_as("p").id
    assert CANCELLED not in parked.published_as("p").headers
    assert parked.published_as("p", cancelled=True).headers[CANCELLED] is True


def test_parking_and_publishing_change_nothing_of_the_users() -> None:
    headers = {"id": "i", "retries": 0, "mine": [1], "expires": None}
    made = ticket(headers=headers)
    back = made.next("api:k").published_as("p", cancelled=True)
    assert {name: value for name, value in back.headers.items() if not name.startswith("wk_")} == headers
    assert made.headers == headers
    for part in ("task", "body", "content_type", "content_encoding", "properties", "exchange", "routing_key"):
        assert getattr(back, part) == getattr(made, part)


def test_a_retry_and_a_replaced_task_are_other_executions() -> None:
    others = [
        ticket(headers={"id": "i", "retries": 1}),
        ticket(headers={"id": "i", "replaced_task_nesting": 1}),
        ticket(headers={"id": "j"}),
        ticket(task="u"),
    ]
    assert len({each.id for each in [ticket(), *others]}) == 5
    assert ticket(headers={"id": "i"}).id == ticket().id


@pytest.mark.parametrize(
    ("expires", "us"),
    [
        ("1970-01-01T00:00:01+00:00", S),
        ("1970-01-01T00:00:01.000005", S + 5),
        ("1970-01-01T01:00:01+01:00", S),
        ("1970-01-01T00:00:01Z", S),
        (None, 0),
        ("", 0),
        ("soon", 0),
        (12.5, 0),
    ],
)
def test_when_a_task_expires(expires: object, us: int) -> None:
    assert ticket(headers={"id": "i", "expires": expires}).expires_us == us
    assert ticket().expires_us == 0


def test_no_argument_of_a_task_is_shown() -> None:
    made = ticket(body=b"secret", headers={"id": "i", "argsrepr": "secret"})
    assert "secret" not in repr(made)


# Lines and places


@given(st.text(), st.text(), st.text(), st.text())
def test_lines_have_names_of_their_own(limiter: str, part: str, other: str, another: str) -> None:
    one, two = Line(limiter, part, "x"), Line(other, another, "y")
    assert (one.name == two.name) == ((limiter, part) == (other, another))
    assert re.fullmatch(r"[A-Za-z0-9_.@%~-]+:[A-Za-z0-9_.@%~-]+", one.name)


@given(st.text(), st.text(), st.lists(st.integers(1, 2**53)), st.text())
def test_a_line_is_read_as_it_was_written(limiter: str, label: str, costs: list[int], bound_by: str) -> None:
    line = Line(limiter, "part", label, tuple(costs), bound_by)
    assert Line.load(line.dump().encode()) == line


def test_a_turn_counts_by_its_cost_and_weight() -> None:
    assert Place().step == 1000
    assert Place(cost=7).step == 7000
    assert Place(weight=2).step == 500
    assert Place(cost=3, weight=0.5).step == 6000
    assert Place(weight=1000).step == 1
    assert Place(weight=999.0, cost=1).step == 1
    assert Place(weight=5e-324, cost=2**53).step == 2**48


# Turns


def test_turns_are_as_far_apart_as_the_rate_that_refused() -> None:
    charges = [(rate, 1) for rate in parse_rates("100/s", "3600/h")]
    assert interval_us(charges, "100/s") == 10_000
    assert interval_us(charges, "3600/h") == 1_000_000
    assert interval_us(charges, "concurrency") == 10_000
    assert interval_us((), "concurrency") == 50_000
    dear = list(zip(parse_rates("60/m", "6000 tokens/m"), (1, 800), strict=True))
    assert interval_us(dear, "6000 tokens/m") == 8_000_000
    assert interval_us(dear, "60/m") == 1_000_000
    assert interval_us([(parse_rate("9000000/s"), 1)], "9000000/s") == 1


def denied(wait: float) -> Slot:
    return Slot("", Answer(Decision(False, 0, wait, 0.0, "1/s"), 0, 0.0), (), ())


ADMITTED = Slot("", Answer(Decision(True, 0, 0.0, 0.0, ""), 0, 0.0), (), ())


def admitting(*answers: Slot | Exception, sleep_under: float = 0.1) -> tuple[Slot, list[float], int]:
    """What `admit` came to over these answers of the limiter; how long it slept, and how often it asked."""
    left = list(answers)

    def ask() -> Flow[Slot]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
        yield  # a generator

    flow, slept = admit(ask, sleep_under=sleep_under), []
    try:
        while True:
            step = next(flow)
            assert isinstance(step, Sleep)
            slept.append(step.seconds)
    except StopIteration as done:
        return done.value, slept, len(answers) - len(left)


def test_who_is_admitted_does_not_sleep() -> None:
    assert admitting(ADMITTED) == (ADMITTED, [], 1)


def test_a_short_wait_is_slept_in_place() -> None:
    slot, slept, asked = admitting(denied(0.05), denied(0.01), ADMITTED)
    assert (slot, asked) == (ADMITTED, 3)
    assert slept == [0.05 + MARGIN, 0.01 + MARGIN]


def test_a_longer_wait_is_not_and_none_where_others_wait() -> None:
    for wait, under in ((0.101, 0.1), (0.001, 0.0)):
        slot, slept, asked = admitting(denied(wait), ADMITTED, sleep_under=under)
        assert (slot.decision.allowed, slept, asked) == (False, [], 1)
    assert admitting(denied(0.1), ADMITTED)[0] is ADMITTED


def test_all_sleeps_together_are_at_most_twice_as_long() -> None:
    slot, slept, asked = admitting(*[denied(0.07)] * 9)
    assert not slot.decision.allowed
    assert (len(slept), asked) == (2, 3)


def test_who_does_not_know_whether_he_was_admitted_asks_once_more() -> None:
    assert admitting(OutcomeUnknown("?"), ADMITTED) == (ADMITTED, [], 2)
    with pytest.raises(OutcomeUnknown):
        admitting(OutcomeUnknown("?"), OutcomeUnknown("?"), ADMITTED)


WAITLIST = Waitlist(Keys("t", "w"))
LINE = Line("api", "k", "k")


def twice(flow: Flow[Any], answer: object) -> Any:
    """Run a Flow of one Call whose first answer is lost; it must be the same Call again."""
    first = next(flow)
    second = flow.throw(OutcomeUnknown("?"))
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert (first.keys, first.args, first.script) == (second.keys, second.args, second.script)
    with pytest.raises(StopIteration) as done:
        flow.send(answer)
    return done.value.value


def test_entering_and_parking_are_tried_again_where_the_outcome_is_unknown() -> None:
    entered, parked = Entered(Entry.GO_ON, 0.0), Parked(1.0, 0)
    assert twice(enter(WAITLIST, ticket(), LINE.name), entered) is entered
    assert twice(park(WAITLIST, ticket(), LINE, Place(), wait=1.0, most=9), parked) is parked
    flow = enter(WAITLIST, ticket(), LINE.name)
    next(flow)
    flow.throw(OutcomeUnknown("?"))
    with pytest.raises(OutcomeUnknown):
        flow.throw(OutcomeUnknown("?"))
