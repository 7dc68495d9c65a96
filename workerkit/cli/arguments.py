"""A call as it is written on a command line: `7 '{"a": 1}' user=3`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from workerkit.api.memo import Memo
from workerkit.cli.verb import Refusal

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_IN_ORDER = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_FREE = inspect.Parameter.empty


class Arguments(NamedTuple):
    """The arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join([*map(_short, self.args), *(f"{name}={_short(value)}" for name, value in self.kwargs.items())])


def parsed(name: str, memo: Memo[Any, Any], words: Sequence[str]) -> Arguments:
    """`words` as arguments of a memoized function: JSON where they are that, else text, as the annotations have it.

    Raises Refusal, which shows the signature, for a call that does not fit.
    """
    signature, hints = memo.signature, _Hints(memo.fn)
    by_name = {each.name: each for each in signature.parameters.values() if each.kind in _NAMED}
    rest = next((each for each in signature.parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD), None)
    in_order = _in_order(signature)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    try:
        for word in words:
            key, equals, text = word.partition("=")
            parameter = by_name.get(key, rest if key.isidentifier() else None) if equals else None
            if parameter is not None:
                kwargs[key] = _value(key, text, hints(parameter))
            else:
                parameter = next(in_order)
                args.append(_value(parameter.name if parameter else "it", word, hints(parameter)))
        signature.bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise Refusal(f"{name}{_written(signature)}: {error}") from None
    return Arguments(tuple(args), kwargs)


class _Text:
    """An annotation that is text, shown without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _written(signature: inspect.Signature) -> inspect.Signature:
    """The signature as it is written, where annotations are kept as text."""

    def bare(annotation: Any) -> Any:
        return _Text(annotation) if isinstance(annotation, str) else annotation

    parameters = [each.replace(annotation=bare(each.annotation)) for each in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=bare(signature.return_annotation))


class _Hints:
    """What a function's parameters are annotated with; nothing where that cannot be known here."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = inspect.unwrap(fn)

    def __call__(self, parameter: inspect.Parameter | None) -> Any:
        if parameter is None or parameter.annotation is _FREE:
            return _FREE
        holder = type("Holder", (), {"__annotations__": {"it": parameter.annotation}})
        try:
            return get_type_hints(holder, getattr(self._fn, "__globals__", {}), include_extras=True)["it"]
        except Exception:  # noqa: BLE001 - an annotation may name what only type checkers import
            return _FREE


def _in_order(signature: inspect.Signature) -> Iterator[inspect.Parameter | None]:
    yield from (each for each in signature.parameters.values() if each.kind in _IN_ORDER)
    star = (each for each in signature.parameters.values() if each.kind is inspect.Parameter.VAR_POSITIONAL)
    yield from repeat(next(star, None))


def _value(name: str, text: str, hint: Any) -> Any:
    """What `text` says: of what it may mean that which fits the annotation as it is, else what can be made to fit."""
    meant = _meant(text)
    adapter = None if hint is _FREE else _adapter(hint)
    if adapter is None:
        return meant[0]
    for each in meant:
        try:
            adapter.validate_python(each, strict=True)
            return each
        except ValidationError:
            pass
    for each in meant:
        try:
            return adapter.validate_python(each)
        except ValidationError:
            pass
    raise ValueError(f"{name} cannot be {text!r:.60}")


def _meant(text: str) -> list[Any]:
    try:
        return [json.loads(text, parse_constant=_refuse), text]
    except (ValueError, RecursionError):
        return [text]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint)
    except (PydanticUserError, TypeError):  # no type that pydantic knows
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:47]}..."
