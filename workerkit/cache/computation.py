"""What one call of a memoized function brings, and what its computation may say of its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from workerkit.cache.entries import EntryKey
from workerkit.core.envelope import Envelope
from workerkit.core.flow import Invoke
from workerkit.errors import DefinitionError

V = TypeVar("V")
MISSING: Any = object()
Source = Literal["l1", "hit", "stale", "error", "computed"]


class Computation(Generic[V]):
    """A computation under way. `token` is its lease's, "" when it has none and its result will not be kept."""

    __slots__ = ("_old", "skipped", "spare", "tags", "token")

    def __init__(self, token: str, old: Any = MISSING, *, spare: bool = False) -> None:
        self.token = token
        self._old = old
        self.spare = spare and old is not MISSING  # whether the old value is served when this computation gives up
        self.skipped = False
        self.tags: list[str] = []

    @property
    def stale(self) -> V | None:
        """The value that is being replaced, None when there is none."""
        return None if self._old is MISSING else self._old

    def tag(self, *tags: str) -> None:
        """Put the result under further tags."""
        for tag in tags:
            if not isinstance(tag, str) or not tag:
                raise DefinitionError(f"memo.current.tag: a tag is a text, such as 'user:7', not {type(tag).__name__}")
            self.tags.append(tag)

    def skip(self) -> None:
        """Do not keep the result."""
        self.skipped = True


class Work(NamedTuple):
    """One call: its keys, the tags that its arguments give, and how to compute it, here or by a queued refresh."""

    key: EntryKey
    tags: tuple[str, ...]
    compute: Callable[[Computation[Any]], Invoke[Any]]
    enqueue: Callable[[bytes], Invoke[None]] | None = None


class Entry(NamedTuple, Generic[V]):
    """A value and how it was come by.

    `source` is "l1" (this process's memory), "hit" (fresh, from Redis), "stale" (old, while it is refreshed), "error"
    (old, because its refresh failed or its limit is used up) or "computed"; `age` is in seconds.
    """

    value: V
    source: Source
    age: float = 0.0


class Raised(NamedTuple):
    """What a computation came to that failed, where only its own caller is to get the error."""

    error: Exception


class Answer(NamedTuple):
    """What a fetch came to: the value, how it was come by, and the entry that it is from, unless it was computed."""

    value: Any
    source: Source
    envelope: Envelope | None = None

    def entry(self, now_us: Callable[[], int]) -> Entry[Any]:
        # Where Redis was never reached the time is not known, and not needed.
        age_us = 0 if self.envelope is None else max(0, now_us() - self.envelope.created_us)
        return Entry(self.value, self.source, age_us / 1e6)
