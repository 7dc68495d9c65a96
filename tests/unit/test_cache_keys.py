"""C6: no two different calls share a key, all ways of writing one call do, and nothing in an argument steers it."""

from __future__ import annotations

import datetime as dt
import enum
import re
from decimal import Decimal
from itertools import combinations
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workerkit import WorkerKit

GRAMMAR = re.compile(r"wk:c:\{[A-Za-z0-9_.@%~-]+:[0-9a-f]{32}\}:v")


class Colour(enum.Enum):
    RED = 1
    BLUE = "1"


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    a: Any
    b: Any


@pytest.fixture(scope="module")
def kit():
    return WorkerKit(url="redis://127.0.0.1:1", hooks=[])


@pytest.fixture(scope="module")
def key(kit):
    @kit.memoize("1m")
    def fn(*args: Any, **kwargs: Any) -> None: ...

    return fn.memo.key


def shape(value: Any) -> Any:
    """What a call can tell of a value: two values are the same argument when their shapes are equal."""
    kind = type(value)
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(map(shape, value))
    if kind is dict:
        return kind, frozenset((shape(name), shape(each)) for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(shape, value))
    return kind, repr(value)


# fmt: off
ALL = [
    0, 1, -1, 2**63, True, False, None, 1.0, 0.0, -0.0, float("nan"), float("inf"), Decimal(1), Decimal("1.0"),
    Decimal("NaN"), "", "1", "True", "None", "1.0", "nan", "a", "A", "\u00e9", "e\u0301", "\ud800", "\udfff",
    "\ud800\udc00", "\U00010000", "\0", "\n", " ", ":", "{", "}", "{}", "a:b", "}:v", "*", "%7B", "~", "[1]", "(1,)",
    "b'1'", "s1:1", "i1;", "N", b"", b"1", b"\xff", bytearray(b"1"), [], (), {}, set(), frozenset(), [1], (1,), [True],
    ["1"], [[]], [()], ([],), [1, 2], [2, 1], [12], ["a", "b"], ["ab"], ["ab", ""], ["", "ab"], {"a": 1}, {"a": "1"},
    {"a": True}, {1: "a"}, {"1": "a"}, {"a": {"b": 1}}, {"a": {}, "b": 1}, {1}, {"1"}, {True}, frozenset({1}),
    frozenset({"1"}), dt.date(2024, 1, 1), *[dt.datetime(2024, 1, 1, fold=fold, tzinfo=tz) for fold in (0, 1)
    for tz in (None, dt.UTC, dt.timezone(dt.timedelta(hours=1)))], dt.time(1), dt.timedelta(1), dt.timedelta(seconds=1),
    "2024-01-01", "2024-01-01T00:00:00", UUID(int=1), str(UUID(int=1)), UUID(int=1).bytes, Colour.RED, Colour.BLUE,
    Number.ONE, "RED", "Colour.RED", Pair(1, 2), (1, 2), [(1, 2)], Pair([1], "2"),
]
CALLS = [
    ((), {}), ((None,), {}), ((1,), {}), (((1,),), {}), (([1],), {}), ((1, 2), {}), ((2, 1), {}), ((12,), {}),
    (("a", "b"), {}), (("ab",), {}), (("ab", ""), {}), (("", "ab"), {}), ((), {"a": 1}), ((), {"b": 1}),
    ((), {"a": 1, "b": 2}), ((), {"a": 2, "b": 1}), (({"a": 1},), {}), ((("a", 1),), {}), (("a", 1), {}),
    ((), {"a": {"b": 1}}),
]
# fmt: on


def test_no_two_values_share_a_key(key):
    keys = {key(value): value for value in ALL}
    assert len(keys) == len(ALL)
    for each in keys:
        assert GRAMMAR.fullmatch(each)


def test_where_an_argument_stands_counts(key):
    for (args, kwargs), (others, named) in combinations(CALLS, 2):
        assert key(*args, **kwargs) != key(*others, **named), (args, kwargs, others, named)


def test_all_ways_to_write_a_call_are_one_key(kit):
    @kit.memoize("1m")
    def fn(a: int, b: Any = (1, "x"), *, c: str = "c") -> None: ...

    key = fn.memo.key
    same = {key(1), key(a=1), key(1, (1, "x")), key(b=(1, "x"), a=1), key(1, c="c"), key(c="c", b=(1, "x"), a=1)}
    assert len(same) == 1
    assert same.isdisjoint({key(2), key(1, [1, "x"]), key(1, c="d"), key("1"), key(True)})


def test_functions_versions_and_shapes_of_results_are_apart(kit):
    def made(name, version="", returns=int):
        def fn(a: int): ...

        fn.__qualname__, fn.__annotations__["return"] = name, returns
        return kit.memoize("1m", version=version)(fn).memo.key(1)

    keys = [made("f"), made("g"), made("f:g"), made("f", "1"), made("f", "2"), made("f", returns=str)]
    keys += [made("f{"), made("f}"), made("f" * 200), made("f" * 201), made("f%3A"), made("f", "1-2"), made("f-2", "1")]
    assert len(set(keys)) == len(keys)
    for each in keys:
        assert GRAMMAR.fullmatch(each), each


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.sampled_from(ALL[:40]),
    st.floats(),
    st.text(st.sampled_from("a1:{}%~\0\ud800é"), max_size=4),
    st.binary(max_size=3),
    st.decimals(),
    st.dates(),
    st.datetimes(),
    st.uuids(),
    st.sampled_from(Colour),
)
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.lists(inside, max_size=3),
        st.lists(inside, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=2), st.integers(0, 2), st.booleans()), inside, max_size=3),
        st.frozensets(st.one_of(st.integers(0, 2), st.text("a1", max_size=2)), max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None)
@given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=3))
def test_calls_share_a_key_exactly_when_they_are_the_same(key, one, other):
    same = shape(one) == shape(other)
    assert (key(*one) == key(*other)) == same
    assert key(*one) == key(*one)
    assert GRAMMAR.fullmatch(key(*one))
