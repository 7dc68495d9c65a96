"""The canonical encoding: equal bytes if and only if no call could tell the arguments apart, and bounded cost."""

# ruff: noqa: DTZ001 - naive datetimes are arguments like any other
from __future__ import annotations

import enum
import hashlib
import math
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
from collections import OrderedDict, namedtuple
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr

from workerkit.core.encoding import digest, encode, encode_arguments
from workerkit.errors import DefinitionError, EncodingError


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Odd(enum.Enum):
    A = object()  # members are told by name: a value need not have an encoding
    B = b"x", object()


class Shade(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    ONE = 1


class Perm(enum.Flag):
    R = 1
    W = 2


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind must work too
Pair = namedtuple("Pair", "x y")  # noqa: PYI024


@dataclass
class Order:
    id: int
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    id: int


@dataclass
class Other:
    id: int
    items: list[Any] = field(default_factory=list)


class Model(BaseModel):
    id: int
    payload: Any = None


class Twin(BaseModel):
    id: int
    payload: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Private(BaseModel):
    id: int = 0
    _note: Any = PrivateAttr(default=None)

    def noted(self, note: object) -> Private:
        self._note = note
        return self


class UserId(int):
    pass


class Safe(str):  # noqa: SLOT000 - an instance __dict__ is the point
    def encode(self, *_: Any) -> bytes:
        return b"lie"


class Bag(dict):  # type: ignore[type-arg]
    pass


ONE_OF_EACH: list[Any] = [
    None, True, False, 0, 1, -1, 255, 2**64, -(2**64), 10**5000, 0.0, -0.0, 1.0, math.inf, -math.inf, math.nan,
    "?", "??",
    "", "1", "1.0", "None", "True", "a", "\ud800", "\U00010000", "\ud800\udc00", "s1:a", "\0", "{", "é", "e\u0301",
    b"", b"1", b"a", bytearray(b"1"), bytearray(b""), [], [1], ["1"], [[1]], [1, 2], [2, 1], [1, [2]], [[1], 2],
    (), (1,), (1, 2), ((1,),), ("ab", "c"), ("a", "bc"), {}, {"a": 1}, {"a": "1"}, {1: "a"}, {True: "a"},
    {"a": {"a": 1}},
    {"a": 1, "b": 2}, {"a": 2, "b": 1}, [("a", 1)], [["a", 1]], {"1": 1, 1: 2}, {"1": 2, 1: 1},
    set(), {1}, {"1"}, {1, 2}, frozenset(), frozenset({1}), {frozenset({1})}, {(1,)}, {(1, 2)}, {1, 2, (1, 2)},
    datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    datetime(2024, 1, 1, fold=1), datetime(2024, 1, 1, 0, 0, 0, 1),
    datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
    datetime(2024, 1, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2024, 1, 1, 1, tzinfo=ZoneInfo("Europe/Paris")),
    date(2024, 1, 1), "2024-01-01", time(1), time(1, fold=1), time(1, tzinfo=UTC), timedelta(1), timedelta(0, 1),
    timedelta(0, 0, 1), UTC, ZoneInfo("UTC"), Decimal(1), Decimal("1.0"), Decimal("NaN"), Decimal("sNaN"),
    Decimal("-0"),
    Decimal(0), UUID(int=0), UUID(int=1), bytes(16), str(UUID(int=0)), Color.RED, Color.BLUE, Shade.RED,
    Odd.A, Odd.B,
    Level.ONE,
    Perm.R, Perm.W, Perm.R | Perm.W, Perm(0), Point(1, 2), Pair(1, 2), Order(1), Order(1, [1]), Other(1), Slotted(1),
    Model(id=1), Model(id=1, payload="x"), Twin(id=1),
    Open.model_validate({"a": 1}), Open.model_validate({"b": 1}),

    Open(), Private().noted(1), Private(),
    UserId(1), Safe("a"), Safe("b"), Bag(a=1), PurePosixPath("a"), PureWindowsPath("a"), PurePosixPath("a/b"),
]  # fmt: skip


def test_one_of_each_never_collide() -> None:
    collisions = [(a, b) for a, b in combinations(ONE_OF_EACH, 2) if encode(a) == encode(b)]
    assert collisions == []
    inside = [(a, b) for a, b in combinations(ONE_OF_EACH, 2) if encode([a, 0]) == encode([b, 0])]
    assert inside == []


def test_no_encoding_begins_another() -> None:
    encodings = sorted(map(encode, ONE_OF_EACH))
    assert [pair for pair in pairwise(encodings) if pair[1].startswith(pair[0])] == []


def typed(value: Any) -> Any:
    """The test's own typed identity: equal if and only if the type and content are, at every level."""
    kind = type(value)
    if kind is float:
        return kind, "nan" if math.isnan(value) else struct.pack(">d", value)
    if kind in (list, tuple):
        return kind, tuple(map(typed, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(typed, value))
    if kind is dict:
        return kind, frozenset((typed(key), typed(each)) for key, each in value.items())
    if kind is datetime:
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, repr(value.tzinfo)
    return kind, bytes(value) if kind is bytearray else str(value) if kind is Decimal else value


grammar = st.text("01a:;ltsdNT", max_size=5)
keys = st.sampled_from([None, True, 1, 1.0, 0, False, 0.0, -0.0, math.nan, "1", b"1", "", (), (1,), (True,)]) | grammar
leaves = (
    keys
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=4)
    | st.binary(max_size=4)
    | st.binary(max_size=2).map(bytearray)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.decimals()
    | st.sampled_from([Color.RED, Level.ONE, Perm.R, UUID(int=1), date(2024, 1, 1), frozenset({1}), frozenset({True})])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=3)
    ),
    max_leaves=8,
)
tiny = st.recursive(
    st.sampled_from([None, True, 1, 1.0, "1", b"1", "", 0, -0.0, 0.0]),
    lambda inner: st.lists(inner, max_size=2) | st.lists(inner, max_size=2).map(tuple),
    max_leaves=4,
)


def retyped(value: Any) -> Any:
    """Much the same value as another type, or with one item of it so."""
    if isinstance(value, (list, tuple)):
        return type(value)([retyped(value[0]), *value[1:]]) if value else repr(value)
    turn: dict[type, Any] = {
        type(None): str, bool: int, int: str, float: lambda x: -x, str: str.swapcase, bytes: bytearray,
        bytearray: bytes, set: frozenset, frozenset: set, dict: lambda x: {key: retyped(x[key]) for key in x},
    }  # fmt: skip
    return turn.get(type(value), repr)(value)


near = values.map(lambda value: (value, retyped(value)))
pairs = st.tuples(values, values) | near | values.map(lambda value: (value, value))


@given(pairs)
def test_equal_bytes_mean_equal_values(pair: tuple[object, object]) -> None:
    a, b = pair
    assert (encode(a) == encode(b)) == (typed(a) == typed(b))


@given(tiny, tiny)
def test_equal_bytes_mean_equal_small_values(a: object, b: object) -> None:
    assert (encode(a) == encode(b)) == (typed(a) == typed(b))


separators = st.sampled_from(["", "s", "s:", "s0:", "s1:", "s2:", ":", ";", "\0", "l1:", "i1;"])


@given(grammar, grammar, grammar, separators)
def test_a_string_cannot_be_read_as_structure(x: str, y: str, z: str, separator: str) -> None:
    a, b = [x + separator + y, z], [x, y + separator + z]
    assert (encode(a) == encode(b)) == (a == b)
    assert encode(encode(a).decode()) != encode(a)


@given(st.dictionaries(keys, leaves, max_size=5), st.randoms(use_true_random=False))
def test_order_of_dicts_and_sets_is_nothing(value: dict[Any, Any], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert encode(dict(shuffled)) == encode(value)
    assert encode(frozenset(key for key, _ in shuffled)) == encode(frozenset(value))


def test_order_is_the_same_in_every_process() -> None:
    """Strings hash differently in each process, so sets iterate differently."""
    code = "from workerkit.core.encoding import encode; print(encode({*'abcdefgh', None, 1, (2, 'x')}).hex())"
    outputs = set()
    for seed in "123":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_every_nan_is_one() -> None:
    odd = struct.unpack(">d", b"\xff\xf8\0\0\0\0\0\1")[0]
    assert math.isnan(odd)
    assert encode(odd) == encode(math.nan)


def test_equal_objects_share_their_bytes() -> None:
    assert encode(Order(1, [2])) == encode(Order(id=1, items=[2]))
    assert encode(Model(id=1)) == encode(Model(id=1, payload=None))  # which fields were set is not part of ==
    assert encode(Color.RED) == encode(Color(1))
    assert encode(Perm.R | Perm.W) == encode(Perm(3))
    assert encode(UserId(1)) == encode(UserId(1))


def test_the_format_is_what_it_was() -> None:
    """A changed format would silently empty every cache on upgrade."""
    assert encode({"b": (1, None), "a": [True, -0.5]}) == b"d2:s1:al2:Tf\xbf\xe0\0\0\0\0\0\0s1:bt2:i1;N"
    assert digest(b"abc") == hashlib.blake2b(b"abc", digest_size=16, person=b"workerkit-key").hexdigest()


class Unknown:
    pass


class Tagged(str):  # noqa: SLOT000 - an instance __dict__ is the point
    pass


class Slots(list):  # type: ignore[type-arg]
    __slots__ = ("extra",)


@dataclass
class Derived:
    text: str
    secret: InitVar[str]

    def __post_init__(self, secret: str) -> None:
        self.table = secret


@dataclass
class Listing(list):  # type: ignore[type-arg]
    id: int = 0


class Plain(Order):
    pass


@dataclass
class Unset:
    id: int = field(init=False)


class Zone(tzinfo):
    def utcoffset(self, dt: datetime | None) -> timedelta | None: ...

    def dst(self, dt: datetime | None) -> timedelta | None: ...

    def tzname(self, dt: datetime | None) -> str | None: ...


def attributed(value: Any) -> Any:
    value.extra = 1
    return value


@pytest.mark.parametrize(
    "value",
    [
        *(
            object(),
            Unknown(),
            Unknown,
            len,
            lambda: 0,
            1j,
            range(3),
            memoryview(b"a"),
            iter([]),
            OrderedDict(a=1),
            ...,
        ),
        *(attributed(Tagged("a")), attributed(Slots()), Derived("a", "b"), Listing(), Plain(1), Unset()),
        *(Model.model_construct(), datetime(2024, 1, 1, tzinfo=Zone()), type("Stamp", (datetime,), {})(2024, 1, 1)),
    ],
)
def test_what_cannot_be_encoded_is_refused(value: object) -> None:
    with pytest.raises(EncodingError) as caught:
        encode(value, where="order")
    assert caught.value.argument == "order"
    assert 'ignore=("order",)' in str(caught.value)
    assert "key=" in str(caught.value)


@dataclass
class WithCache:
    id: int

    @cached_property
    def double(self) -> int:
        return self.id * 2


def test_a_cached_property_is_no_further_state() -> None:
    value = WithCache(1)
    before = encode(value)
    assert value.double == 2
    assert encode(value) == before


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Order(1, [0, 0, 0, object()]), "order.items[3] is a builtins.object"),
        ({"secret-key": object()}, "order{value 0} is a"),
        ({"a": 1, Unknown(): 2}, "order{key 1} is a"),
        ({Unknown()}, "order{item 0} is a"),
        ([({"a": [object()]},)], "order[0][0]{value 0}[0] is a"),
        (Model(id=1, payload=[object()]), "order.payload[0] is a"),
        (Point(1, object()), "order[1] is a"),
        (datetime(2024, 1, 1, tzinfo=Zone()), "order.tzinfo is a"),
    ],
)
def test_the_error_names_the_way_and_no_content(value: object, path: str) -> None:
    with pytest.raises(EncodingError) as caught:
        encode(value, where="order")
    assert path in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_socket_is_never_encoded_by_its_repr() -> None:
    with socket.socket() as sock, pytest.raises(EncodingError, match=r"socket\.socket"):
        encode({"sock": sock})


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_capped_and_cycles_end() -> None:
    assert encode(nested(63)) == b"l1:" * 63 + b"l0:"
    with pytest.raises(EncodingError, match="deeper than 64"):
        encode(nested(64))
    loop: list[Any] = []
    loop += [loop, loop]
    ring: dict[str, Any] = {}
    ring["self"] = ring
    order = Order(1)
    order.items.append(order)
    for cycle in (loop, ring, order):
        with pytest.raises(EncodingError, match="contains itself") as caught:
            encode(cycle)
        assert len(str(caught.value)) < 400


def test_levels_are_given_back() -> None:
    assert encode([[], {}, [[1]]] * 100)
    assert encode_arguments([("a", nested(60)), ("b", nested(60))])


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 10_000_000,
        lambda: b"x" * 10_000_000,
        lambda: bytearray(10_000_000),
        lambda: 1 << 80_000_000,
        lambda: ["x" * 1000] * 10_000,
        lambda: [["x" * 1000] * 1000] * 1000,
        lambda: dict.fromkeys(range(10_000), "x" * 1000),
        lambda: Safe("x" * 1_000_000) + "é" * 500_000,
    ],
    ids=range(8),
)
def test_size_is_capped_while_encoding(make: Any) -> None:
    value = make()
    tracemalloc.start()
    try:
        with pytest.raises(EncodingError, match="past 1048576 bytes"):
            encode(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000


def test_the_cap_is_one_for_a_whole_call() -> None:
    encode_arguments([("a", "x" * 60), ("b", "x" * 20)], max_bytes=100)
    with pytest.raises(EncodingError) as caught:
        encode_arguments([("a", "x" * 60), ("b", "x" * 60)], max_bytes=100)
    assert caught.value.argument == "b"


@given(st.lists(st.tuples(grammar, tiny), max_size=3), st.lists(st.tuples(grammar, tiny), max_size=3))
def test_calls_differ_by_names_and_values(a: list[tuple[str, Any]], b: list[tuple[str, Any]]) -> None:
    assert (encode_arguments(a) == encode_arguments(b)) == (typed(a) == typed(b))


def test_digest_is_keyed_by_any_secret() -> None:
    secrets = [None, b"k", b"k\0", b"k" * 64, b"k" * 65, b"k" * 66, b"k" * 1000]
    digests = {digest(b"data", secret) for secret in secrets}
    assert len(digests) == len(secrets)
    assert all(len(each) == 32 for each in digests)
    with pytest.raises(DefinitionError, match="empty"):
        digest(b"data", b"")
