"""Where the results of calls are, remembered for calls with plain arguments: a key costs a good part of a hit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from workerkit.cache.entries import EntryKey, Found
from workerkit.core.call import Call
from workerkit.core.encoding import PLAIN


class Place(NamedTuple):
    """Where the result of one call is: its keys, the tags that the arguments give, and the Call that reads it."""

    key: EntryKey
    tags: tuple[str, ...]
    read: Call[Found]


_MOST = 2048
_MOST_BYTES = 1024  # of one call's arguments


class Places:
    """Answers `make(args, kwargs)`, which must depend on nothing else."""

    __slots__ = ("_count", "_make", "_tables")

    def __init__(self, make: Callable[[tuple[Any, ...], dict[str, Any]], Place]) -> None:
        self._make = make
        self._count = 0
        self._tables: dict[tuple[type, ...], dict[tuple[Any, ...], Place]] = {}

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Place:
        if kwargs:
            return self._make(args, kwargs)
        # By types first: only plain arguments are ever hashed and compared, and 1 is not taken for True.
        types = (*map(type, args),)
        table = self._tables.get(types)
        place = None if table is None else table.get(args)
        return self._remembered(types, args) if place is None else place

    def _remembered(self, types: tuple[type, ...], args: tuple[Any, ...]) -> Place:
        place = self._make(args, {})
        if PLAIN.issuperset(types) and sum(map(sys.getsizeof, args)) <= _MOST_BYTES:
            if self._count >= _MOST:
                # All at once, as `re` does with its patterns: to find the oldest would cost every hit.
                self._tables, self._count = {}, 0
            self._tables.setdefault(types, {})[args] = place
            self._count += 1
        return place
