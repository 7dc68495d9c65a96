"""The codec: a hit gives what a miss gave, or the value is refused; errors hold no content."""

# ruff: noqa: DTZ001 - naive datetimes are values like any other
from __future__ import annotations

import enum
import math
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import GenericAlias
from typing import Annotated, Any, ForwardRef, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, computed_field, create_model
from typing_extensions import TypedDict

from workerkit.core.codec import JSON, Codec
from workerkit.errors import CodecError, DefinitionError


class Profile(BaseModel):
    id: int
    name: str = Field("x", alias="theName", serialization_alias="outName")
    at: datetime | None = None


class Animal(BaseModel):
    name: str


class Dog(Animal):
    pass


class Cat(BaseModel):
    name: str


class Holder(BaseModel):
    inner: Any = None
    pet: Animal | None = None


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int

    @computed_field
    def double(self) -> int:
        return self.a * 2


class Hidden(BaseModel):
    shown: int = 0
    hidden: int = Field(0, exclude=True)


class Floats(BaseModel):
    x: float | None


class Noted(BaseModel):
    id: int
    _note: str = PrivateAttr(default="")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    _note: str = PrivateAttr(default="")


@dataclass
class Point:
    x: float
    y: float


@dataclass(eq=False)
class Identity:
    x: float


class Movie(TypedDict):
    title: str
    year: int


class Pair(NamedTuple):
    a: int
    b: str


class Color(enum.StrEnum):
    RED = "red"


def noted(value: Any) -> Any:
    value._note = "not kept"
    return value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, {"a": [1, 1.5, None, True, "x", {}]}),
        (Any, None),
        (None, None),
        (int, 7),
        (bytes, b"\xff\x00png"),
        (str, ""),
        (Profile, Profile(id=1, theName="y", at=datetime(2024, 1, 1, tzinfo=UTC))),
        (list[Profile], [Profile(id=1, theName="a"), Profile(id=2, theName="b")]),
        (Profile | None, None),
        (Point, Point(1.0, 2.0)),
        (Movie, {"title": "x", "year": 1}),
        (Pair, Pair(1, "x")),
        (tuple[int, ...], (1, 2)),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (dict[int, str], {1: "a"}),
        (datetime, datetime(2024, 1, 1)),
        (timedelta, timedelta(seconds=1.5)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=1)),
        (Color, Color.RED),
        (Computed, Computed(a=1)),
        (Open, Open.model_validate({"a": 1, "b": [2]})),
        (dict[str, Any], {"a": [1]}),
        (Annotated[int, Field(gt=0)], 3),
        (Animal | Cat, Animal(name="x")),
    ],
)
def test_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    codec = Codec(annotation)
    back = codec.load(codec.dump(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, (1,)),
        (Any, {1}),
        (Any, datetime(2024, 1, 1)),
        (Any, b"x"),
        (Any, Decimal(1)),
        (Any, {1: "a"}),
        (Any, [{"deep": ("tuple",)}]),
        (Any, Color.RED),
        (Any, {Color.RED: 1}),
        (Any, OrderedDict(a=1)),
        (Any, Animal(name="x")),
        (dict[str, Any], {"a": (1,)}),
        (Sequence[int], (1, 2)),
        (Animal, Dog(name="x")),
        (list[Animal], [Animal(name="x"), Dog(name="y")]),
        (Holder, Holder(pet=Dog(name="x"))),
        (Holder, Holder(inner=(1,))),
        (Animal | Cat, Cat(name="x")),
        (datetime | str, "2024-01-01T00:00:00"),
        (Profile, {"id": 1}),
        (int, "7"),
        (int, None),
        (float, True),
        (bool, 1),
        (Hidden, Hidden(hidden=5)),
        (Floats, Floats(x=math.nan)),
        (Open, Open.model_validate({"a": (1,)})),
        (Any, object()),
        (Any, "\ud800"),
        (float, 2**53 + 1),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(CodecError) as caught:
        Codec(annotation).dump(value)
    assert "annotat" in str(caught.value)


def test_cycles_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError):
        Codec().dump(loop)


@pytest.mark.parametrize("annotation", [float, Any, list[float], dict[str, float], Point, Identity])
def test_nan_and_infinity_survive_or_are_refused(annotation: Any) -> None:
    codec = Codec(annotation)
    for number in (math.nan, math.inf, -math.inf, -0.0, 1e308):
        value: Any = {float: number, Any: number, list[float]: [number], dict[str, float]: {"a": number}}.get(
            annotation
        )
        if value is not None:
            assert repr(codec.load(codec.dump(value))) == repr(value)
        elif math.isfinite(number):
            assert codec.load(codec.dump(annotation(*[number] * (2 if annotation is Point else 1)))).x == number
        else:  # a dataclass has a config of its own, which writes null
            with pytest.raises(CodecError):
                codec.dump(annotation(*[number] * (2 if annotation is Point else 1)))


def test_a_number_may_become_the_float_it_was_annotated_as() -> None:
    codec = Codec(float)
    back = codec.load(codec.dump(1))
    assert back == 1.0
    assert type(back) is float


def test_classes_without_equality_and_private_attributes() -> None:
    assert Codec(Identity).load(Codec(Identity).dump(Identity(1.0))).x == 1.0
    assert Codec(Noted).load(Codec(Noted).dump(noted(Noted(id=1)))) == Noted(id=1)
    assert Codec(Open).load(Codec(Open).dump(noted(Open.model_validate({"a": [1]})))).a == [1]
    with pytest.raises(CodecError):
        Codec(Open).dump(noted(Open.model_validate({"a": (1,)})))


texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
def test_plain_json_types_need_no_annotation(value: Any) -> None:
    assert repr(Codec().load(Codec().dump(value))) == repr(value)


@given(st.binary() | st.text('{}[]",:0123456789nulltrue').map(str.encode))
def test_any_bytes_are_a_value_or_a_codec_error(data: bytes) -> None:
    try:
        value = Codec(Profile).load(data)
    except CodecError:
        return
    assert isinstance(value, Profile)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"id": "hunter2"}', b'{"name": "hunter2"}', b"\x80\x04K\x07.", b"[" * 100_000]
)
def test_bytes_that_do_not_fit_are_an_error_without_content(data: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        Codec(Profile).load(data)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def raising(error: Exception) -> Any:
    def check(value: object) -> object:
        raise error

    return Annotated[int, AfterValidator(check)]


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("x"), ZeroDivisionError(), AttributeError("x"), TypeError()]
)
def test_a_validator_that_raises_is_a_codec_error(error: Exception) -> None:
    codec = Codec(raising(error))
    with pytest.raises(CodecError):
        codec.load(b"1")
    with pytest.raises(CodecError):
        codec.dump(1)


def test_an_error_never_shows_the_value() -> None:
    with pytest.raises(CodecError) as caught:
        Codec().dump({"password": ("hunter2", object())})
    assert "hunter2" not in str(caught.value)
    assert "password" not in str(caught.value)


def test_the_soft_time_limit_passes_through() -> None:
    class SoftTimeLimitExceeded(Exception):
        pass

    codec = Codec(raising(SoftTimeLimitExceeded()))
    with pytest.raises(SoftTimeLimitExceeded):
        codec.load(b"1")
    with pytest.raises(SoftTimeLimitExceeded):
        codec.dump(1)


def test_fingerprint_is_of_the_shape() -> None:
    def model(**fields: Any) -> Any:
        return create_model("Model", **fields)

    base = Codec(model(a=(int, ...))).fingerprint
    assert len(base) == 8
    assert int(base, 16) >= 0
    assert Codec(model(a=(int, ...))).fingerprint == base
    assert Codec(model(a=(int, ...), __doc__="Words.")).fingerprint == base
    assert Codec(model(a=(int, Field(description="Words.")))).fingerprint == base
    others = [
        model(a=(str, ...)),
        model(b=(int, ...)),
        model(a=(int, ...), description=(str, "")),
        Any,
        int,
        list[int],
    ]
    assert len({base, *(Codec(other).fingerprint for other in others)}) == 7


def test_fingerprint_of_a_type_without_a_schema() -> None:
    class Custom:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            return core_schema.is_instance_schema(cls)

    assert len(Codec(Custom).fingerprint) == 8


def test_annotations_that_cannot_work() -> None:
    with pytest.raises(DefinitionError, match="get_type_hints"):
        Codec("Profile")
    with pytest.raises(DefinitionError, match="annotate a type that pydantic knows"):
        Codec(type("Foreign", (), {})).dump(1)
    with pytest.raises(DefinitionError, match="annotate a type that pydantic knows"):
        Codec(GenericAlias(list, (ForwardRef("Nowhere"),))).load(b"[]")


def test_the_codec_id() -> None:
    assert Codec.id == JSON == 1


def test_pydantic_is_imported_at_first_use() -> None:
    code = (
        "import sys; from workerkit.core.codec import Codec; c = Codec(int); a = 'pydantic' in sys.modules; "
        "c.dump(1); print(a, 'pydantic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
