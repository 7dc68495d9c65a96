"""kombu's serializers as codecs: typed like JSON, chosen by name alone; pickle only for who names it."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
import yaml
from celery.exceptions import SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import register, unregister
from pydantic import AfterValidator, BaseModel, Field, create_model

from workerkit.celery import codecs
from workerkit.celery.codecs import KOMBU, serializer_codec
from workerkit.core.codec import Codec
from workerkit.errors import CodecError, DefinitionError

TYPED = ["msgpack", "yaml", "reversed"]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """A serializer of the user's own, whose text is kept in UTF-16."""
    register(
        "reversed",
        lambda value: json.dumps(value)[::-1],
        lambda data: json.loads(str(data, "utf-16")[::-1]),  # type: ignore[call-overload]  # the stubs say str
        "application/x-reversed",
        "utf-16",
    )
    yield
    unregister("reversed")


class Profile(BaseModel):
    id: int
    name: str = Field("x", alias="theName")
    at: datetime | None = None


class Foreign:
    """Nothing that pydantic knows."""

    def __init__(self, a: object) -> None:
        self.a = a


@dataclass
class Holder:
    foreign: Foreign


class Bomb:
    exploded = False

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> Bomb:
    Bomb.exploded = True
    return Bomb()


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, {"a": [1, 1.5, None, True, "x", {}], "2024-01-01": "2024-01-01"}),
        (Any, None),
        (Any, ["yes", "no", "null", "~", "1e3", "0x10", "1:30", "", " x ", "a: b", "- c", "\x00\x85\u2028\n", "*a"]),
        (Any, math.nan),
        (Any, [math.inf, -math.inf, -0.0, 1e308]),
        (Profile, Profile(id=1, theName="y", at=datetime(2024, 1, 1, tzinfo=UTC))),
        (list[Profile], [Profile(id=1, theName="a"), Profile(id=2, theName="b")]),
        (Profile | None, None),
        (bytes, b"\xff\x00png"),
        (tuple[int, ...], (1, 2)),
        (set[int], {1, 2}),
        (dict[int, str], {1: "a"}),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=1)),
        (timedelta, timedelta(seconds=1.5)),
        (float, 1),
        (Any, {"z": 1, "yes": {"b": [], "a": 2}, "é": 3}),
    ],
)
def test_comes_back_as_it_was(name: str, annotation: Any, value: Any) -> None:
    codec = serializer_codec(name, annotation)
    back = codec.load(codec.dump(value))
    assert repr(back) == repr(value) or back == value
    assert type(back) is (float if annotation is float else type(value))


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, (1,)),
        (Any, {1: "a"}),
        (dict[bool, str], {1: "b", 0: "a"}),
        (Any, b"x"),
        (Any, object()),
        (Any, "\ud800"),
        (Profile, {"id": 1}),
        (int, "7"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(name: str, annotation: Any, value: Any) -> None:
    with pytest.raises(CodecError, match=rf'{name}.*annotat.*codec="json"'):
        serializer_codec(name, annotation).dump(value)


def test_what_only_json_can_hold_is_refused_with_the_way_out() -> None:
    with pytest.raises(CodecError, match=r'a int cannot be written as msgpack.*OverflowError.*codec="json"'):
        serializer_codec("msgpack", int).dump(2**70)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
def test_plain_json_types_need_no_annotation(value: Any) -> None:
    for codec in (serializer_codec("msgpack"), serializer_codec("yaml"), serializer_codec("pickle")):
        back = codec.load(codec.dump(value))
        assert json.dumps(back, sort_keys=True) == json.dumps(value, sort_keys=True)


@given(st.binary())
def test_any_bytes_are_a_value_or_a_codec_error(data: bytes) -> None:
    for name in ("msgpack", "yaml"):
        try:
            value = serializer_codec(name, Profile).load(data)
        except CodecError:
            continue
        assert isinstance(value, Profile)


@pytest.mark.parametrize("name", [*TYPED, "pickle"])
@pytest.mark.parametrize("data", [b"", b"hunter2: [", b"\x80\x04chunter2\nx\n.", b"[" * 500, b"\xdf\xff\xff\xff\xff"])
def test_bytes_that_do_not_fit_are_an_error_without_content(name: str, data: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        serializer_codec(name, Profile).load(data)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", [*TYPED, "json"])
def test_pickle_is_not_loaded_where_it_was_not_named(name: str) -> None:
    data = pickle.dumps(Bomb())
    with pytest.raises(CodecError):
        serializer_codec(name).load(data)
    assert not Bomb.exploded


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!<tag:yaml.org,2002:python/object:os.x> {}"],
)
def test_yaml_that_names_a_class_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        serializer_codec("yaml").load(text.encode())


def test_yaml_that_grows_by_reference_is_refused() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    with pytest.raises(CodecError):
        serializer_codec("yaml").load("\n".join(lines).encode())
    with pytest.raises(CodecError):
        serializer_codec("yaml").load(b"[&a x, *a]")


def test_pickle_gives_the_object_itself() -> None:
    codec = serializer_codec("pickle", Foreign)
    assert codec.load(codec.dump(Foreign((1, {2}, datetime)))).a == (1, {2}, datetime)
    loop: list[Any] = []
    loop.append(loop)
    back = serializer_codec("pickle").load(serializer_codec("pickle").dump(loop))
    assert back[0] is back


@pytest.mark.parametrize("value", [lambda: 1, Foreign(lambda: 1), memoryview(b"")])
def test_what_pickle_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(CodecError, match=r"cannot be pickled.*return plain data, or leave codec= out"):
        serializer_codec("pickle").dump(value)


class Changeling:
    def __reduce__(self) -> Any:
        return str, ("hunter2",)


class Broken:
    def __reduce__(self) -> Any:
        return int, ("hunter2",)


@pytest.mark.parametrize("value", [Changeling(), Broken()])
def test_what_pickle_would_give_back_as_something_else_is_refused(value: Any) -> None:
    with pytest.raises(CodecError) as caught:
        serializer_codec("pickle").dump(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", [*TYPED, "pickle"])
def test_an_error_never_shows_the_value(name: str) -> None:
    with pytest.raises(CodecError) as caught:
        serializer_codec(name).dump({"password": ("hunter2", lambda: 1)})
    assert "hunter2" not in str(caught.value)
    assert "password" not in str(caught.value)


def soft_limit(_: object) -> object:
    raise SoftTimeLimitExceeded


@pytest.mark.parametrize("name", ["msgpack", "slow"])
def test_the_soft_time_limit_passes_through(name: str) -> None:
    armed = False

    def slow(data: Any) -> Any:
        return soft_limit(data) if armed else json.loads(data)

    register("slow", json.dumps, slow, "application/x-slow")
    codec = serializer_codec(name, Annotated[int, AfterValidator(soft_limit)] if name == "msgpack" else int)
    armed = True
    with pytest.raises(SoftTimeLimitExceeded):
        codec.load(b"1")
    with pytest.raises(SoftTimeLimitExceeded):
        codec.dump(1)
    unregister("slow")


def test_a_serializer_that_raises_anything_is_a_codec_error() -> None:
    class Odd(Exception):
        pass

    def odd(value: Any) -> Any:
        if value == "odd":
            raise Odd
        return json.dumps(value)

    register("odd", odd, json.loads, "application/x-odd")
    codec = serializer_codec("odd", str)
    assert codec.load(codec.dump("even")) == "even"
    with pytest.raises(CodecError):
        codec.dump("odd")
    unregister("odd")
    with pytest.raises(CodecError):  # even when it is gone
        codec.dump("even")


def test_fingerprint_is_of_serializer_and_shape() -> None:
    def model(**fields: Any) -> Any:
        return create_model("Model", **fields)

    def fingerprints(annotation: Any) -> list[str]:
        names = [*TYPED, "pickle"]
        return [Codec(annotation).fingerprint, *(serializer_codec(name, annotation).fingerprint for name in names)]

    base = fingerprints(model(a=(int, ...)))
    assert all(len(each) == 8 and int(each, 16) >= 0 for each in base)
    assert fingerprints(model(a=(int, ...), __doc__="Words.")) == base
    assert len({*base, *fingerprints(model(a=(str, ...))), *fingerprints(Any)}) == 15


def test_fingerprint_of_what_only_pickle_can_hold() -> None:
    class Other:
        pass

    def noted() -> Any:
        return Annotated[Foreign, object()]

    kinds: list[Any] = [Foreign, Other, Holder, list[Foreign], list[Other], noted()]
    assert len({serializer_codec("pickle", kind).fingerprint for kind in kinds}) == len(kinds)
    keep = noted(), noted()  # two objects at two places
    assert len({serializer_codec("pickle", kind).fingerprint for kind in keep}) == 1
    with pytest.raises(DefinitionError, match="annotate a type that pydantic knows"):
        _ = serializer_codec("msgpack", Foreign).fingerprint


@pytest.mark.parametrize("name", ["protobuf", "raw", "", None, ["yaml"], "application/x-yaml"])
def test_an_unknown_serializer_is_refused_with_those_there_are(name: Any) -> None:
    with pytest.raises(DefinitionError, match=r"codec: .*there are: .*json, msgpack, pickle, reversed, yaml.*register"):
        serializer_codec(name)


def test_a_serializer_that_cannot_do_it_is_refused() -> None:
    register("mute", None, json.loads, "application/x-mute")
    register("deaf", json.dumps, None, "application/x-deaf")
    register("lossy", lambda _: "{}", json.loads, "application/x-lossy")
    register("broken", lambda value: value["absent"], json.loads, "application/x-broken")
    register("mixed", json.dumps, json.loads, "application/x-mixed", "binary")
    for name in ("deaf", "lossy"):
        with pytest.raises(DefinitionError, match=f"codec='{name}'.*does not give back"):
            serializer_codec(name)
    for name in ("broken", "mixed"):
        with pytest.raises(DefinitionError, match=f"codec='{name}'.*fails on"):
            serializer_codec(name)
    with pytest.raises(DefinitionError, match="codec='mute'"):
        serializer_codec("mute")
    for name in ("mute", "deaf", "lossy", "broken", "mixed"):
        unregister(name)


@pytest.mark.parametrize(("name", "library"), [("msgpack", "msgpack"), ("yaml", "PyYAML")])
def test_a_missing_library_is_named(name: str, library: str) -> None:
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"  # what makes an import fail
        "from workerkit.celery.codecs import serializer_codec\n"
        f"try: serializer_codec({name!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DefinitionError")
    assert f"pip install {library}" in done.stdout


def test_what_decodes_is_the_registry_s_word_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def loads(data: bytes, content_type: str, encoding: str, accept: Any) -> Any:
        asked.append((content_type, encoding, accept))
        return yaml.safe_load(data)

    codec = serializer_codec("yaml")
    monkeypatch.setattr(codecs, "loads", loads)
    assert codec.load(b"[1]") == [1]
    assert asked == [("application/x-yaml", "utf-8", {"application/x-yaml"})]


def test_codec_ids() -> None:
    assert {serializer_codec(name).id for name in [*TYPED, "pickle"]} == {KOMBU} == {2}
