"""Binding: what `inspect.Signature.bind` says, for every kind of parameter, and Python's own errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workerkit.core.binding import Binder
from workerkit.core.encoding import encode_arguments
from workerkit.errors import DefinitionError, EncodingError


def profile(user_id: int, b: int = 2, *, verbose: bool = False) -> None: ...


def everything(a: int, /, b: int, c: int = 3, *args: int, d: int, e: int = 5, **kwargs: int) -> None: ...


def test_every_way_of_writing_a_call_is_one() -> None:
    binder = Binder(profile)
    calls = [((1,), {}), ((), {"user_id": 1}), ((1, 2), {}), ((1,), {"b": 2}), ((1,), {"verbose": False, "b": 2})]
    assert [binder(args, kwargs) for args, kwargs in calls] == [{"user_id": 1, "b": 2, "verbose": False}] * 5
    assert binder.bind(1, verbose=True) == {"user_id": 1, "b": 2, "verbose": True}


def test_every_kind_of_parameter() -> None:
    binder = Binder(everything)
    assert binder((1, 2, 3, 4, 5), {"d": 6, "a": 7, "x": 8}) == {
        "a": 1, "b": 2, "c": 3, "args": (4, 5), "d": 6, "e": 5, "kwargs": {"a": 7, "x": 8},
    }  # fmt: skip
    assert binder.names == ("a", "b", "c", "args", "d", "e", "kwargs")
    assert binder.signature == inspect.signature(everything)


def test_the_dict_is_in_the_order_of_the_signature() -> None:
    assert list(Binder(profile)((), {"verbose": True, "b": 1, "user_id": 0})) == ["user_id", "b", "verbose"]


def test_defaults_are_the_very_objects() -> None:
    marker = object()  # whose repr is no source

    def fn(a: object = marker, *, b: object = marker) -> None: ...

    bound = Binder(fn)((), {})
    assert bound["a"] is marker
    assert bound["b"] is marker


def test_ignored_parameters_are_left_out_and_still_bound() -> None:
    binder = Binder(profile, ignore=("b", "verbose"))
    assert binder.names == ("user_id",)
    assert binder((1, 5), {"verbose": True}) == {"user_id": 1}
    with pytest.raises(TypeError):
        binder((), {"b": 5})


def test_ignoring_what_is_not_there() -> None:
    with pytest.raises(DefinitionError, match=r"profile has no parameter 'nope'; it has: user_id, b, verbose"):
        Binder(profile, ignore=("b", "nope"))
    with pytest.raises(DefinitionError, match=r'write ignore=\("b",\)'):
        Binder(profile, ignore="b")


class Service:
    def method(self, a: int, b: int = 2) -> None: ...

    def collects(*args: int, **kwargs: int) -> None: ...


def test_skip_first_leaves_self_out_of_the_calls() -> None:
    binder = Binder(Service.method, skip_first=True)
    assert binder((1,), {}) == {"a": 1, "b": 2}
    assert binder.signature == inspect.signature(Service().method)
    assert Binder(Service.collects, skip_first=True)((1,), {"x": 2}) == {"args": (1,), "kwargs": {"x": 2}}
    assert Binder(Service.method, skip_first=True, ignore=("self", "b"))((1,), {}) == {"a": 1}


@pytest.mark.parametrize("fn", [lambda: 0, lambda *, a: 0, lambda **kwargs: 0])
def test_skip_first_needs_a_first(fn: Callable[..., object]) -> None:
    with pytest.raises(DefinitionError, match="takes no positional argument"):
        Binder(fn, skip_first=True)


def test_wrapped_partial_lambda_and_coroutine_functions() -> None:
    @wraps(profile)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    async def coroutine(a: int, b: int = 2) -> None: ...

    assert Binder(wrapper)((1,), {})["b"] == 2
    assert Binder(partial(profile, 1))((), {}) == {"b": 2, "verbose": False}
    assert Binder(partial(profile, b=9))((1,), {}) == {"user_id": 1, "b": 9, "verbose": False}
    assert Binder(lambda bind, d=1: 0)((7,), {}) == {"bind": 7, "d": 1}
    assert Binder(coroutine)((1,), {}) == {"a": 1, "b": 2}


def test_what_has_no_signature_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no readable signature"):
        Binder(cast("Any", 42))


WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}), ((1, 2, 3), {}), ((1,), {"user_id": 2}), ((1,), {"nope": 2}), ((1, 2, 3), {"verbose": 1}), ((), {"c": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs"), WRONG)
@pytest.mark.parametrize("fn", [profile, everything, lambda a: 0])
def test_a_wrong_call_gets_pythons_own_error(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as expected:
        fn(*args, **kwargs)
    with pytest.raises(TypeError) as caught:
        Binder(fn)(args, kwargs)
    assert str(caught.value) == str(expected.value)


KINDS = list(inspect._ParameterKind)


@st.composite
def signatures(draw: st.DrawFn) -> inspect.Signature:
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS), max_size=6)))
    parameters, defaulted, stars = [], False, set()
    for name, kind in zip("abcdef", kinds, strict=False):
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            if kind not in stars:
                stars.add(kind)
                parameters.append(inspect.Parameter(name, kind))
            continue
        positional = kind is not inspect.Parameter.KEYWORD_ONLY
        has = draw(st.booleans()) or (positional and defaulted)
        defaulted |= has and positional
        parameters.append(inspect.Parameter(name, kind, default=f"default-{name}" if has else inspect.Parameter.empty))
    return inspect.Signature(parameters)


@given(signatures(), st.lists(st.integers(), max_size=5), st.dictionaries(st.sampled_from("abcdefg"), st.integers()))
def test_agrees_with_inspect(sig: inspect.Signature, args: list[int], kwargs: dict[str, int]) -> None:
    def fn(*args: Any, **kwargs: Any) -> None: ...

    fn.__signature__ = sig  # type: ignore[attr-defined]
    binder = Binder(fn)
    assert binder.signature == sig
    positional_only = {each.name for each in sig.parameters.values() if each.kind is each.POSITIONAL_ONLY}
    assume(not positional_only & kwargs.keys())  # Python lets **kwargs take such a name, inspect on 3.11 does not
    try:
        expected = sig.bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            binder(tuple(args), kwargs)
        return
    expected.apply_defaults()
    assert binder(tuple(args), kwargs) == dict(expected.arguments)


short = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
long = st.sampled_from(["x" * 5000, 1 << 5000, b"x" * 1025, [1, (2,)], {"a": {1}}, 1.5])


@given(st.lists(short | long, min_size=4, max_size=7), st.dictionaries(st.sampled_from(["e", "x", "y"]), short | long))
def test_encode_is_the_encoding_of_what_was_bound(args: list[Any], kwargs: dict[str, Any]) -> None:
    kwargs["d"] = args.pop()
    binder = Binder(everything, ignore=("b",))
    assert binder.encode(*args, **kwargs) == encode_arguments(binder(tuple(args), kwargs).items())


def test_encode_takes_parameters_of_any_name() -> None:
    def fn(_: int, __: int, encode: int) -> None: ...

    assert Binder(fn).encode(1, __=2, encode=3) == encode_arguments([("_", 1), ("__", 2), ("encode", 3)])
    assert Binder(lambda: None).encode() == b""


def test_encode_names_the_argument_that_cannot_be_encoded() -> None:
    with pytest.raises(EncodingError, match="argument 'b'") as caught:
        Binder(profile).encode(1, b=object())
    assert caught.value.argument == "b"
    with pytest.raises(EncodingError, match="takes the encoding past"):
        Binder(profile).encode("x" * (1 << 20))
    with pytest.raises(TypeError, match=r"profile\(\) missing"):
        Binder(profile).encode()
