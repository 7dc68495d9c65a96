"""Calls turned into name -> value, the same for every way of writing one call.

`inspect.Signature.bind` costs microseconds, so a function with the same parameters is compiled once per definition and
Python's own argument passing does the work: names, defaults, `*args`, and the very error a wrong call would get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, Signature, signature
from typing import Any

from workerkit.core import encoding
from workerkit.core.encoding import encode_name
from workerkit.errors import DefinitionError


class Binder:
    """Binds calls of `fn`: `binder(args, kwargs)` is a dict of its parameters in order, defaults applied.

    `*args` appears as one tuple and `**kwargs` as one dict, under their own names. `ignore` leaves parameters out of
    the result (they are still part of a call). `skip_first` is for bound tasks and methods: the first positional
    parameter is no part of the calls. `bind(*args, **kwargs)` is the same without packing, `encode(*args, **kwargs)` is
    `encode_arguments` of it. A wrong call raises the TypeError that calling `fn` would; a name in `ignore` that is no
    parameter raises `DefinitionError`.
    """

    __slots__ = ("bind", "encode", "names", "signature")

    bind: Callable[..., dict[str, Any]]
    encode: Callable[..., bytes]
    names: tuple[str, ...]
    signature: Signature

    def __init__(self, fn: Callable[..., object], *, ignore: Iterable[str] = (), skip_first: bool = False) -> None:
        name = getattr(fn, "__qualname__", type(fn).__name__)
        try:
            full = signature(fn)
        except (TypeError, ValueError) as error:
            raise DefinitionError(f"{name} has no readable signature; wrap it in a def") from error
        ignored = _checked(ignore, full.parameters, name)
        self.signature = _without_first(full, name) if skip_first else full
        self.names = tuple(each for each in self.signature.parameters if each not in ignored)
        hidden = "_" * (1 + max(map(len, full.parameters), default=0))  # a name that no parameter has
        self.bind = _compile(self.signature, name, f"return {_dict(self.names)}", {})
        self.encode = _compile(self.signature, name, _encoding(self.names, hidden), {hidden: encoding})

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return self.bind(*args, **kwargs)


def _checked(ignore: Iterable[str], parameters: Mapping[str, Parameter], name: str) -> set[str]:
    if isinstance(ignore, str):
        raise DefinitionError(f'ignore must be a tuple of names: write ignore=("{ignore}",)')
    ignored = set(ignore)
    if unknown := ignored - parameters.keys():
        has = ", ".join(parameters) or "none"
        raise DefinitionError(f"ignore: {name} has no parameter {min(map(str, unknown))!r}; it has: {has}")
    return ignored


def _without_first(full: Signature, name: str) -> Signature:
    first, *rest = full.parameters.values() or (None,)
    if first is None or first.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD):
        raise DefinitionError(f"{name} takes no positional argument, so it cannot be bound; give it a first one (self)")
    return full if first.kind is Parameter.VAR_POSITIONAL else full.replace(parameters=rest)


def _dict(names: tuple[str, ...]) -> str:
    return f"{{{', '.join(f'{each!r}: {each}' for each in names)}}}"


def _encoding(names: tuple[str, ...], module: str) -> str:
    """What one would write by hand for these names: it runs at every call of a cached function."""
    short = " + ".join(f"{encode_name(each)!r} + {module}.encode_short({each})" for each in names) or 'b""'
    return f"""
    try:
        return {short}
    except {module}.NOT_SHORT:
        return {module}.encode_arguments({_dict(names)}.items())"""


def _compile(sig: Signature, name: str, body: str, scope: dict[str, Any]) -> Callable[..., Any]:
    """A function with the parameters of `sig`, whose `body` sees them and what is in `scope`."""
    # Only parameter names go into the source (`inspect` checked that they are identifiers), defaults go in as objects.
    exec(f"def bind({_source(sig)}): {body}", scope)  # noqa: S102 - the source holds checked identifiers only
    bind: Any = scope["bind"]
    defaults = {each.name: each.default for each in sig.parameters.values() if each.default is not Parameter.empty}
    keyword_only = {each for each in defaults if sig.parameters[each].kind is Parameter.KEYWORD_ONLY}
    bind.__defaults__ = tuple(value for each, value in defaults.items() if each not in keyword_only) or None
    bind.__kwdefaults__ = {each: defaults[each] for each in keyword_only} or None
    bind.__qualname__ = name  # the name that Python's error gives
    compiled: Callable[..., Any] = bind
    return compiled


def _source(sig: Signature) -> str:
    # `Signature` writes the "/" and "*" marks itself, once what is not source is taken out.
    bare = [each.replace(annotation=Parameter.empty, default=Parameter.empty) for each in sig.parameters.values()]
    return str(Signature(bare))[1:-1]
