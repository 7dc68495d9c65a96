"""What fetching and computing share: the options of one memoized function, and the tools to read and write entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from workerkit.cache.computation import MISSING, Answer, Source
from workerkit.cache.entries import Entries, EntryKey, envelope
from workerkit.cache.failures import Failures
from workerkit.cache.ledger import Ledger
from workerkit.cache.tags import Touched, Versions
from workerkit.cache.windows import Windows
from workerkit.core.call import Call
from workerkit.core.envelope import Envelope
from workerkit.core.flow import Batch, Flow
from workerkit.errors import CodecError, StoreError

T = TypeVar("T")


class Codec(Protocol):
    """What turns values into bytes and back."""

    @property
    def id(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def dump(self, value: Any) -> bytes: ...
    def load(self, data: bytes) -> Any: ...


class Old(NamedTuple):
    """A value that can be served instead of a new one."""

    value: Any
    envelope: Envelope

    def served(self, source: Source) -> Answer:
        return Answer(self.value, source, self.envelope)


class Terms(NamedTuple):
    """What an application knows of errors.

    Whether one is its caller's own business; whether it is retried; whether it only puts the call off to another time.
    """

    personal: Callable[[Exception], bool]
    retried: Callable[[Exception], bool]
    put_off: Callable[[Exception], bool]


@dataclass(frozen=True, slots=True)
class Policy:
    """How one function's values are kept.

    `life` says of a value how many seconds it is fresh, or None to leave it out; `wait` bounds the waiting for
    another's computation, in seconds. `now_us` is the server's time; `evicts` says whether the server may drop a tag's
    marker; `failed` is told of each failed refresh, `trouble` of each failed use of the cache.
    """

    entries: Entries
    codec: Codec
    ledger: Ledger
    windows: Windows
    failures: Failures
    life: Callable[[Any], float | None]
    wait: float
    now_us: Callable[[], int]
    evicts: Callable[[], bool]
    terms: Terms
    failed: Callable[[Exception], None]
    trouble: Callable[[str], None]

    def load(self, entry: Envelope) -> Any:
        """The value of an entry, or MISSING."""
        try:
            if entry.codec != self.codec.id:
                raise CodecError("an entry was written by another codec")
            return self.codec.load(entry.body)
        except CodecError as error:
            self.trouble(str(error))
            return MISSING

    def pack(
        self, key: EntryKey, body: bytes, tags: Versions, *, fresh: float, hard: float, cost: float, flags: int = 0
    ) -> bytes:
        """The bytes of a new entry: stale after `fresh` seconds, gone after `hard`, computed in `cost` seconds."""
        now_us = self.now_us()
        made = envelope(body, self.codec.id, now_us=now_us, soft=fresh, hard=hard, cost=cost, tags=tags, flags=flags)
        return self.entries.pack(key, made)

    def touch(self, parts: tuple[str, ...], life: float) -> Flow[Versions]:
        """The versions of tags, each of which has one from now on, for `life` seconds at least."""
        if not parts:
            return ()
        touches = [self.entries.tags.touch(part, milliseconds(life)) for part in parts]
        return versions_of(parts, (yield from Batch(*touches)))

    def tolerant(self, act: Call[T] | Flow[T]) -> Flow[T | None]:
        """The result, or None when the cache cannot be used."""
        try:
            return (yield from act)
        except StoreError as error:
            self.trouble(str(error))
            return None


def flight(key: EntryKey, old: Old | None) -> tuple[str, bytes]:
    """What callers of one process share a computation by: who has no old value (any more) is never given another's."""
    return key.value, b"" if old is None else old.envelope.entry_id


def milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def versions_of(parts: tuple[str, ...], touched: list[Touched]) -> Versions:
    return tuple([(part, each.version) for part, each in zip(parts, touched, strict=True)])
