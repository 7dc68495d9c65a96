"""Names made from a call's arguments: `"user:{user_id}"`, `"{order.customer_id}"`, or a function of the arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import Parameter, signature
from pathlib import PurePath
from string import Formatter
from typing import Any
from uuid import UUID

from workerkit.errors import DefinitionError, EncodingError

_FIELD = re.compile(r"([^\W\d]\w*)((?:\.[^\W\d_]\w*|\[[^\[\]{}]+\])*)")
_STEP = re.compile(r"\.(\w+)|\[([^\]]+)\]")
# Types whose text says what they are. Others could print an address, a mask (SecretStr) or an order that changes.
_TEXTUAL = (str, int, float, type(None), Decimal, UUID, Enum, date, time, timedelta, PurePath)

_Part = Callable[[Mapping[str, Any]], str]


class Template:
    """Text with `{fields}` over the arguments `names`, or a callable; `template(bound)` is the finished text.

    A field is an argument, with attributes and items after it (`{order.lines[0].sku}`; none that begin with "_"; no
    conversion or format). Text without fields is a constant. A callable gets, by keyword, each argument that it names
    (`lambda account: ...`), all others too if it has `**kwargs`; its result must be one simple value. Values become
    text as they are: with several fields, put a separator between them that no value contains, or use one field.

    `what` names the setting in errors. A template that cannot work raises `DefinitionError` here; a call whose value is
    missing or is not simple (text, number, date, UUID, Enum, path, None) raises `EncodingError`.
    """

    __slots__ = ("_parts", "what")

    def __init__(self, source: str | Callable[..., object], names: Sequence[str], what: str) -> None:
        self.what = what
        self._parts: tuple[str | _Part, ...]
        if isinstance(source, str):
            self._parts = tuple(self._compile(source, names))
        elif callable(source):
            self._parts = (self._call(source, names),)
        else:
            raise DefinitionError(f"{what} must be text or a callable, not {type(source).__name__}")

    def __call__(self, bound: Mapping[str, Any]) -> str:
        return "".join([part if isinstance(part, str) else part(bound) for part in self._parts])

    def _compile(self, text: str, names: Sequence[str]) -> list[str | _Part]:
        parts: list[str | _Part] = []
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise DefinitionError(f"{self.what}: {text!r} is no template ({error}); a literal brace is {{{{") from None
        for literal, field, spec, conversion in pieces:
            if literal:
                parts.append(literal)
            if spec or conversion:
                raise DefinitionError(f"{self.what}: {text!r} formats {{{field}}}; write a callable instead")
            if field is not None:
                parts.append(self._field(field, names))
        return parts

    def _field(self, field: str, names: Sequence[str]) -> _Part:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise DefinitionError(
                f"{self.what}: {{{field}}} is no field; write an argument, {{account}}, "
                "or its public attributes and items, {order.lines[0].sku}"
            )
        name, rest = match.groups()
        self._known(name, names)
        steps = [(attribute, _item(item)) for attribute, item in _STEP.findall(rest)]

        def part(bound: Mapping[str, Any]) -> str:
            value = bound[name]
            try:
                for attribute, item in steps:
                    value = getattr(value, attribute) if attribute else value[item]
            except (AttributeError, LookupError, TypeError):
                raise self._error(name, f"{{{field}}} is not in a {type(bound[name]).__qualname__}") from None
            return self._text(value, name, f"{{{field}}}")

        return part

    def _call(self, function: Callable[..., object], names: Sequence[str]) -> _Part:
        try:
            parameters = signature(function).parameters.values()
        except (TypeError, ValueError):
            raise DefinitionError(f"{self.what}: the callable has no readable signature; write a lambda") from None
        wanted = []
        for each in parameters:
            if each.kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL):
                raise DefinitionError(f"{self.what}: {each} cannot be passed by name; write lambda account: ...")
            if each.kind is Parameter.VAR_KEYWORD:
                wanted = list(names)
                break
            if each.name in names or each.default is Parameter.empty:
                self._known(each.name, names)
                wanted.append(each.name)

        def part(bound: Mapping[str, Any]) -> str:
            result = function(**{name: bound[name] for name in wanted})
            return self._text(result, ", ".join(wanted), "the callable's result")

        return part

    def _known(self, name: str, names: Sequence[str]) -> None:
        if name not in names:
            there = ", ".join(names) or "none"
            raise DefinitionError(f"{self.what}: there is no argument {name!r}; there are: {there}")

    def _text(self, value: object, name: str, source: str) -> str:
        if type(value) is str:
            return value
        if isinstance(value, _TEXTUAL):
            try:
                return str(value)
            except ValueError:  # an int of more than 4,300 digits
                pass
        raise self._error(name, f"{source} is a {type(value).__qualname__}, which has no plain text")

    def _error(self, name: str, reason: str) -> EncodingError:
        return EncodingError(f"{self.what}: {reason}; name a simple value in it, or write a callable", argument=name)


def _item(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text
