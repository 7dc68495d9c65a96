"""What a process counts of what is asked for."""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.keys import Keys
from workerkit.warming.demand import FORGET, FREE, HELD, HELD_BYTES, ONE_IN, SENT, Demand


def encoded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    return None if "secret" in args else repr((args, kwargs)).encode()


def demand(encode: Any = encoded) -> Demand:
    return Demand(Keys("wk", "h"), "f", encode)


def ask(it: Demand, *calls: object) -> None:
    for call in calls:
        it.note(str(call), (call,), {})


def taken(it: Demand) -> dict[str, int]:
    return {part: count for part, count, _ in it.take()}


@given(st.lists(st.integers(0, FREE - 1)))
def test_few_calls_are_counted_exactly(calls: list[int]) -> None:
    it = demand()
    ask(it, *calls)
    assert taken(it) == Counter(map(str, calls))
    assert taken(it) == {}
    ask(it, *calls)
    assert taken(it) == Counter(map(str, calls))


def test_arguments_are_sent_once_and_again_after_long() -> None:
    it = demand()
    sent = []
    for flush in range(FORGET + 2):
        ask(it, 7)
        ((_, _, call),) = it.take()
        if call:
            sent.append((flush, call))
    assert sent == [(0, b"((7,), {})"), (FORGET, b"((7,), {})")]


def test_what_is_not_asked_for_any_more_is_let_go_of() -> None:
    it = demand()
    ask(it, 7)
    it.take()
    it.take()
    ask(it, 7)
    assert it.take()[0].call == b"((7,), {})"


def test_what_could_not_be_sent_is_sent_with_the_next() -> None:
    it = demand()
    ask(it, 7, 7)
    lost = it.take()
    it.give_back(lost)
    ask(it, 7)
    assert it.take() == [("7", 3, b"((7,), {})")]
    ask(it, 8)
    lost = it.take()
    it.take()
    it.give_back(lost)  # meanwhile it was let go of
    assert it.take() == []


def test_secrets_are_neither_stored_nor_looked_at_twice() -> None:
    seen = []

    def encode(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        seen.append(args)
        return encoded(args, kwargs)

    it = demand(encode)
    ask(it, *["secret"] * 100, "plain")
    assert taken(it) == {"plain": 1}
    assert it.left_out == 1
    assert len(seen) == 2


def test_the_tail_is_sampled_without_a_bias() -> None:
    it, chance = demand(), random.Random(7)
    ask(it, *(f"free {number}" for number in range(FREE)))
    calls = [f"tail {chance.randrange(10**9)}" for _ in range(ONE_IN * 1000)]
    ask(it, *calls)
    held = {part: count for part, count in it._counts.items() if part.startswith("tail")}
    assert set(held.values()) == {ONE_IN}
    assert sum(held.values()) == len(calls)


def test_it_stays_small() -> None:
    it = demand(lambda args, kwargs: b"x" * 1000)
    for number in range(200_000):
        it.note(f"wk:c:{{f:{number:032}}}:v", (number,), {})
    assert len(it._counts) <= HELD
    size = sys.getsizeof(it._counts) + sys.getsizeof(it._calls) + sys.getsizeof(it._sent) + 3 * 64 * len(it._counts)
    size += sum(sys.getsizeof(part) for part in it._counts) + sum(map(sys.getsizeof, it._calls.values()))
    assert size <= 1 << 20
    assert it._bytes == sum(map(len, it._calls.values())) <= HELD_BYTES
    assert len(it.take()) <= SENT


def test_the_most_popular_of_a_long_tail_are_known() -> None:
    """Zipf(1.0) over 10,000 calls, told every 2,000."""
    chance, it, fleet = random.Random(11), demand(), Counter[str]()
    weights = [1 / rank for rank in range(1, 10_001)]
    for _ in range(50):
        ask(it, *chance.choices(range(10_000), weights, k=2000))
        fleet.update(taken(it))
    top = {part for part, _ in fleet.most_common(100)}
    assert len(top & set(map(str, range(100)))) >= 80  # what chance leaves: ranks near 100 are asked for 100 times
    exact = Counter(map(str, random.Random(11).choices(range(10_000), weights, k=2000)))
    assert exact.keys() - fleet.keys() != set()  # it is a sample
