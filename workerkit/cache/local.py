"""The in-process tier (L1) of one function: entries kept where a hit needs no I/O.

It does none itself: a listener says which keys change, and when it cannot know. While it cannot, nothing is kept.
"""

from __future__ import annotations

import datetime as dt
import sys
import threading
import time
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, Generic, Protocol
from uuid import UUID

from cachetools import LRUCache

from workerkit.core.durations import Duration, seconds
from workerkit.core.encoding import PLAIN
from workerkit.core.envelope import Envelope
from workerkit.errors import DefinitionError

_ALIASES = 4  # per entry: an ignored argument would otherwise add one with every call
_ALIAS_BYTES = 1024
_STRIPES = 256
_OTHER_KEYS = (":l", ":n")  # leases and counters, which share the prefix of the entries

Alias = tuple[tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class L1:
    """How much of one function each process keeps: `size` entries, each for `ttl` at most (None: while it is fresh).

    Raises DefinitionError for a size or ttl that will not do.
    """

    size: int = 1024
    ttl: Duration | None = None

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise DefinitionError(f"L1: size={self.size!r} is no number of entries; write 1 or more, as in size=1024")
        if self.ttl is not None:
            seconds(self.ttl, what="L1: ttl")


class Slot:
    """One entry. `value` is what to give out or, with a `load`, the bytes from which each caller gets its own."""

    __slots__ = ("aliases", "cost_us", "created_us", "key", "load", "tags", "turn", "until", "value")

    def __init__(self, key: str, entry: Envelope, tags: Sequence[str], until: float) -> None:
        self.key = key
        self.tags = tags
        self.until = until
        self.cost_us = entry.cost_us
        self.created_us = entry.created_us
        self.aliases: list[Alias] = []
        self.turn = 0
        self.value: Any = None
        self.load: Callable[[bytes], Any] | None = None

    def get(self) -> Any:
        """The value, which the caller may change without anyone else seeing it."""
        return self.value if self.load is None else self.load(self.value)


class Local:
    """What one process (or event loop) keeps of one function; `load` decodes an entry's body.

    Without `by_arguments` only `find_key` finds anything: a key made by the user's own function may depend on more than
    the arguments.

    `generation` is to be read before an entry is read from Redis and handed over with it: an entry that changed since
    then is not kept. `find` takes no lock, so that hits of many threads do not wait for each other: it reads two dicts
    (each read atomic) and writes nothing. What is taken out is marked as expired first, so whoever still holds it meets
    no live one. All writers, `find_key` among them, hold the lock, which costs 0.15 us.
    """

    def __init__(
        self,
        options: L1,
        load: Callable[[bytes], Any],
        *,
        by_arguments: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = options.size
        self._ttl = float("inf") if options.ttl is None else seconds(options.ttl, what="L1: ttl")
        self.load = load
        self._by_arguments = by_arguments
        self._now = now
        self.generation = 0
        self.is_open = False
        self.forked()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Slot | None:
        """The live entry of a call, by its arguments as they are written; None also when only `find_key` can tell."""
        # Types first: only arguments of plain types are ever hashed and compared, and 1 is not taken for True.
        if kwargs:
            table = self._tables.get((*map(type, args), *kwargs, *map(type, kwargs.values())))
            args = (*args, *kwargs.values())
        else:
            table = self._tables.get((*map(type, args),))
        if table is None:
            return None
        slot = table.get(args)
        if slot is None or self._now() >= slot.until:
            return None
        if slot.turn != self._turn:
            self._touch(slot)
        return slot

    def find_key(self, key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Slot | None:
        """The live entry under a Redis key; from now on `find` knows it by these arguments, if they are plain."""
        with self._lock:
            slot: Slot | None = self._entries.get(key)
            if slot is None or self._now() >= slot.until:
                return None
            self._name(slot, args, kwargs)
            return slot

    def insert(
        self,
        key: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        entry: Envelope,
        value: Any,
        *,
        until: float,
        generation: int,
        tags: Sequence[str] = (),
    ) -> bool:
        """Keep an entry that was read from Redis, until monotonic `until` at most; whether it was kept.

        `generation` is what it was before the read. `tags` are the markers' keys: a change of one is a change of this.
        """
        slot = Slot(key, entry, tags, min(until, self._now() + self._ttl))
        if is_immutable(value):
            slot.value = value
        else:
            slot.value, slot.load = entry.body, self.load
        with self._lock:
            if not self.is_open or self._changed_since(generation, (key, *tags)):
                return False
            try:
                self._put(slot)
                self._name(slot, args, kwargs)
            except BaseException:
                self._forget()  # an interrupt struck: what is left may not hang together
                raise
            return True

    def drop(self, key: str) -> None:
        """Forget the entry under a Redis key, or all entries under a tag's marker; void reads that are under way."""
        if key.endswith(_OTHER_KEYS):
            return
        with self._lock:
            self.generation += 1
            self._changes[hash(key) % _STRIPES] = self.generation
            try:
                if key in self._entries:
                    self._remove(self._entries[key])
                for slot in tuple(self._tagged.get(key, ())):
                    self._remove(slot)
            except BaseException:
                self._forget()
                raise

    def clear(self) -> None:
        """Forget everything; void all reads that are under way."""
        with self._lock:
            self.generation += 1
            self._since = self.generation
            self._forget()

    def open(self) -> None:
        """From now on every change is told."""
        with self._lock:
            self.clear()
            self.is_open = True

    def close(self) -> None:
        """Changes may be missed from now on: nothing is kept until it is opened again."""
        with self._lock:
            self.is_open = False
            self.clear()

    def forked(self) -> None:
        """Begin empty and closed in a new process, whatever the parent's other threads were doing."""
        # Reentrant: a finalizer or signal handler may call the function in the middle of a change.
        self._lock = threading.RLock()
        self.is_open = False
        self.generation += 1
        self._since = self.generation
        # Which generation a key last changed in; keys that share a place only make each other's reads void.
        self._changes = [0] * _STRIPES
        self._turn = 0
        self._forget()

    def _forget(self) -> None:
        self._entries: LRUCache[str, Slot] = LRUCache(self._size)
        self._tables: dict[tuple[Any, ...], dict[tuple[Any, ...], Slot]] = {}
        self._tagged: dict[str, set[Slot]] = {}

    def _changed_since(self, generation: int, keys: Sequence[str]) -> bool:
        return generation < self._since or any(self._changes[hash(key) % _STRIPES] > generation for key in keys)

    def _touch(self, slot: Slot) -> None:
        """Make it the entry last used. Once between two inserts will do: only an insert asks which is the oldest."""
        with self._lock:
            self._entries.get(slot.key)
            slot.turn = self._turn

    def _put(self, slot: Slot) -> None:
        entries = self._entries
        if slot.key in entries:
            self._remove(entries[slot.key])
        while len(entries) >= self._size:
            self._unlink(entries.popitem()[1])
        entries[slot.key] = slot
        for tag in slot.tags:
            self._tagged.setdefault(tag, set()).add(slot)
        self._turn += 1

    def _remove(self, slot: Slot) -> None:
        del self._entries[slot.key]
        self._unlink(slot)

    def _unlink(self, slot: Slot) -> None:
        slot.until = float("-inf")
        for signature, values in slot.aliases:
            table = self._tables.get(signature, {})
            if table.get(values) is slot:
                del table[values]
                if not table:
                    del self._tables[signature]
        for tag in slot.tags:
            tagged = self._tagged.get(tag, set())
            tagged.discard(slot)
            if not tagged:
                self._tagged.pop(tag, None)

    def _name(self, slot: Slot, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Let `find` know the entry by these arguments, if they are few and plain."""
        values = (*args, *kwargs.values())
        types = (*map(type, values),)
        if not self._by_arguments or len(slot.aliases) == _ALIASES or not PLAIN.issuperset(types):
            return
        if sum(map(sys.getsizeof, values)) > _ALIAS_BYTES:
            return
        signature = (*types[: len(args)], *kwargs, *types[len(args) :])
        table = self._tables.setdefault(signature, {})
        if table.get(values) is not slot:
            table[values] = slot
            slot.aliases.append((signature, values))


_ATOMS = PLAIN | {
    float,
    dt.date,
    dt.datetime,
    dt.time,
    dt.timedelta,
    Decimal,
    UUID,
}


def is_immutable(value: Any) -> bool:
    """Whether nobody can change `value`, nor anything in it; what is not known counts as no."""
    kind: Any = type(value)
    if kind in _ATOMS or isinstance(value, Enum):
        return True
    inside: Any
    if kind is frozenset or (isinstance(value, tuple) and not hasattr(value, "__dict__")):
        inside = value
    elif _is_frozen(kind):
        fields = getattr(kind, "__dataclass_fields__", ())
        extra = getattr(value, "__pydantic_extra__", None) or {}
        inside = (*[getattr(value, name) for name in fields], *getattr(value, "__dict__", {}).values(), *extra.values())
    else:
        return False
    try:
        return all(map(is_immutable, inside)) and not getattr(value, "__pydantic_private__", None)
    except RecursionError:
        return False


@lru_cache(256)
def _is_frozen(kind: type) -> bool:
    """Whether it is a frozen dataclass or pydantic model through and through: no other class has added to it."""
    from pydantic import BaseModel, RootModel

    if issubclass(kind, BaseModel):
        if not kind.model_config.get("frozen"):
            return False
    elif not _is_frozen_dataclass(kind):
        return False
    plain = {object, ABC, Generic, Protocol, BaseModel, RootModel}
    for base in kind.__mro__:
        if base in plain:
            continue
        if not (issubclass(base, BaseModel) or _is_frozen_dataclass(base)):
            return False
        if any(isinstance(each, cached_property) for each in vars(base).values()):
            return False  # it would keep what it computed, perhaps a list, for all of them
    return True


def _is_frozen_dataclass(kind: type) -> bool:
    parameters = vars(kind).get("__dataclass_params__")
    return parameters is not None and bool(parameters.frozen)
