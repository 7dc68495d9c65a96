"""Which of a memoized function's calls are asked for: noted where they are read, for warmups with `hot=`."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from workerkit.api.function import Function
from workerkit.errors import DefinitionError, EncodingError
from workerkit.warming.demand import Demand

MAX_CALL = 1024  # bytes of a call's arguments; those of longer ones are not stored
_SECRET = re.compile(r"(^|_)(password|passwd|pwd|secrets?|tokens?|api_?key|credentials?|authorization|cookie)($|_)")


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
            demand = Demand(engine.keys("h"), function.name, lambda args, kwargs: encoded(function, args, kwargs))
            demand = self._by_function.setdefault(function, demand)
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
        if _SECRET.search(each.name.lower()) and each.name not in function.options.ignore:
            raise DefinitionError(
                f"warmup {name}: hot= stores arguments, and {shown}'s {each.name} looks like a secret; give args="
            )


def encoded(function: Function[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """A call as JSON; None for one that would not come back as it is, is long, or has what must not be stored."""
    if any(name in kwargs for name in function.options.ignore) or not _plain(function, args):
        return None
    try:
        data = json.dumps([args, kwargs], allow_nan=False, separators=(",", ":")).encode()
        again, named = decoded(data)
        # The same entry: JSON would make a list of a tuple, and text of a key that is a number.
        same = len(data) <= MAX_CALL and function.place(again, named)[0] == function.place(args, kwargs)[0]
    except (TypeError, ValueError, RecursionError, EncodingError):
        return None
    return data if same else None


def _plain(function: Function[Any], args: tuple[Any, ...]) -> bool:
    """Whether no ignored argument is given by its place."""
    ignored = function.options.ignore
    return not ignored or not any(
        each.name in ignored or each.kind is inspect.Parameter.VAR_POSITIONAL
        for each in list(function.signature.parameters.values())[: len(args)]
    )


def decoded(call: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `encoded` wrote."""
    args, kwargs = json.loads(call)
    return tuple(args), kwargs
