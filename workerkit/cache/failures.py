"""Negative caching: failures that are remembered, and raised again without calling the function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workerkit.core.codec import Codec
from workerkit.core.durations import Duration, seconds
from workerkit.errors import CodecError, DefinitionError


class Failures:
    """The failures of one function that are worth remembering, and for how many seconds each.

    What is stored names no class: only the place of one among those declared here, under its own name.
    """

    def __init__(self, negative: Mapping[type[Exception], Duration] | None) -> None:
        if negative is not None and not isinstance(negative, Mapping):
            raise DefinitionError("memoize: negative is a dict, such as negative={NotFound: '30s'}")
        self._lives: dict[type[Exception], float] = {}
        for kind, life in (negative or {}).items():
            if not isinstance(kind, type) or not issubclass(kind, Exception):
                raise DefinitionError(f"memoize: negative maps exception classes to durations; {kind!r} is none")
            self._lives[kind] = seconds(life, what=f"memoize: negative[{kind.__name__}]")
        self._by_name = {_name(kind): kind for kind in self._lives}
        self._codec = Codec()

    def life(self, error: Exception) -> float | None:
        """Seconds for which `error` is remembered, by the nearest of its classes; None when it is not."""
        kind = self._declared(error)
        return None if kind is None else self._lives[kind]

    def dump(self, error: Exception) -> bytes:
        """The error as bytes: which of the declared classes it is of, and its arguments, or else its text."""
        kind = self._declared(error) or type(error)
        try:
            return self._codec.dump([_name(kind), list(error.args)])
        except CodecError:
            return self._codec.dump([_name(kind), [str(error)]])

    def load(self, data: bytes) -> Exception | None:
        """The remembered error; None when it is none of those declared here (any more)."""
        try:
            name, args = self._codec.load(data)
            kind = self._by_name[name]
        except (CodecError, ValueError, TypeError, KeyError):
            return None
        try:
            return _make(kind, args) if isinstance(args, list) else None
        except Exception:  # noqa: BLE001 - nor what the user's __new__ wants
            return None

    def _declared(self, error: Exception) -> type[Exception] | None:
        return next((kind for kind in type(error).__mro__ if kind in self._lives), None)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _make(kind: type[Exception], args: list[Any]) -> Exception:
    try:
        error = kind(*args)
    except Exception:  # noqa: BLE001 - the user's __init__ may want anything; what it was called with is not known
        error = kind.__new__(kind, *args)
        error.args = tuple(args)
    error.add_note("workerkit: remembered by negative=; the function was not called again")
    return error
