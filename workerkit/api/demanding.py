"""Which of a memoized function's calls are asked for: noted where they are read, for warmups with `hot=`."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from workerkit.api.function import Function
from workerkit.errors import DefinitionError
from workerkit.warming.demand import Demand

MAX_CALL = 1024  # bytes of a call's arguments; those of longer ones are not stored
_SECRET = re.compile(
    r"""
    (?: ^ | [\W_] | (?<=[a-z0-9])(?=[A-Z]) | (?<=[A-Z])(?=[A-Z][a-z]) )  # where a word begins, in camelCase too
    (?i:
        pass(?:word|wd|phrase|code)s? | pwd | secrets? | credentials? | creds? | authorization | bearer | jwt | otp
        | cookies? | session[\W_]?(?:id|key)s?
        | (?:api|private|secret|access|auth|encryption|signing)[\W_]?keys?
        | (?:access|api|auth|bearer|csrf|id|refresh|session)?tokens?
          (?<! max.tokens)(?<! min.tokens)(?<! num.tokens)(?<! maxtokens)  # numbers of them
          (?! [\W_]?(?:count|left|limit|used))
    )
    (?: $ | [\W_\d] | (?<=[a-z])(?=[A-Z]) )
    """,
    re.VERBOSE,
)


class Demands:
    """The functions of one kit whose calls are noted."""

    def __init__(self) -> None:
        self._by_function: dict[Function[Any], Demand] = {}

    def record(self, function: Function[Any], name: str) -> None:
        """Have a function's calls noted from now on, in this process.

        Raises DefinitionError where what is noted could not be called again, or must not be stored.
        """
        if function.note is None:
            _check(function, name)
            function.note = lambda part, args, kwargs: self.of(function).note(part, args, kwargs)

    def of(self, function: Function[Any]) -> Demand:
        """Made with the first call, as the settings may not be known before."""
        demand = self._by_function.get(function)
        if demand is None:
            engine = function.engine
            made = Demand(engine.keys("h"), function.name, lambda args, kwargs: encoded(function, args, kwargs))
            demand = self._by_function.setdefault(function, made)
            if demand is made:  # else flushed twice each time
                engine.flusher.add_demand(demand)
            function.note = demand.note
        return demand


def _check(function: Function[Any], name: str) -> None:
    shown, parameters = function.fn.__qualname__, function.signature.parameters
    if function.takes_self:
        raise DefinitionError(
            f"warmup {name}: hot= cannot know what `self` of {shown} was; give args=, or warm a function"
        )
    for each in parameters.values():
        if each.name in function.options.ignore and each.default is inspect.Parameter.empty:
            raise DefinitionError(
                f"warmup {name}: hot= stores no ignored arguments, and {shown} cannot be called without {each.name}; "
                "give it a default, or give args="
            )
        if _SECRET.search(each.name) and each.name not in function.options.ignore:
            raise DefinitionError(
                f"warmup {name}: hot= stores arguments, and {shown}'s {each.name} looks like a secret; give args="
            )


def encoded(function: Function[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """A call as JSON; None for one that would not come back as it is, is long, or has what must not be stored."""
    try:
        if function.options.ignore and _gives_ignored(function, args, kwargs):
            return None
        data = _ENCODER.encode([args, kwargs])
        if len(data) > MAX_CALL:
            return None
        if not kwargs and _PLAIN.issuperset(map(type, args)):
            return data.encode()
        again, named = _DECODER.decode(data)
        # The same entry: JSON would make a list of a tuple, and text of a key that is a number.
        same = function.place(tuple(again), named)[0] == function.place(args, kwargs)[0]
    except Exception:  # noqa: BLE001 - the user's key= may raise anything, of what came back above all
        return None
    return data.encode() if same else None


def _gives_ignored(function: Function[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = function.signature.bind_partial(*args, **kwargs).arguments
    return not given.keys().isdisjoint(function.options.ignore)


def _without_secrets(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a JSON object: named arguments, and what is within arguments."""
    for name, _ in pairs:
        if _SECRET.search(name):
            raise ValueError("a secret")
    return dict(pairs)


_PLAIN = {str, int, float, bool, type(None)}  # which come back as they are
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(object_pairs_hook=_without_secrets)


def decoded(call: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `encoded` wrote."""
    args, kwargs = json.loads(call)
    return tuple(args), kwargs
