"""Tickets: the raw message, unharmed by parking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.rates import parse_rates
from workerkit.throttle.admission import interval_us
from workerkit.waitlist.ticket import Ticket

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
    parked = first.next()
    assert (first.generation, parked.generation, parked.next().generation) == (0, 1, 2)
    assert parked.published_as("p").publication == "p"
    assert parked.published_as("p").next().publication == ""
    assert parked.identity == first.identity


def test_a_retry_and_a_replaced_task_are_other_executions() -> None:
    headers = {"id": "i", "retries": 1}
    assert ticket(headers=headers).identity != ticket().identity
    assert ticket(headers={"id": "i", "replaced_task_nesting": 1}).identity != ticket().identity


def test_turns_are_as_far_apart_as_the_rate_that_refused() -> None:
    charges = [(rate, 1) for rate in parse_rates("100/s", "3600/h")]
    assert interval_us(charges, "100/s") == 10_000
    assert interval_us(charges, "3600/h") == 1_000_000
    assert interval_us(charges, "concurrency") == 10_000
    assert interval_us((), "concurrency") == 10_000
    dear = list(zip(parse_rates("60/m", "6000 tokens/m"), (1, 800), strict=True))
    assert interval_us(dear, "6000 tokens/m") == 8_000_000
    assert interval_us(dear, "60/m") == 1_000_000
