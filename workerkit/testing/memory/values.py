"""The kinds of values there are. A string is just `bytes`."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple


class Hash(dict[bytes, bytes]):
    """Fields and values."""

    __slots__ = ()


class List(list[bytes]):
    """Elements from head to tail."""

    __slots__ = ()


class SortedSet:
    """Members by score, equal scores by the bytes of the member."""

    __slots__ = ("ranked", "scores")

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self.ranked: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self.scores)

    def put(self, member: bytes, score: float) -> None:
        self.drop(member)
        score += 0.0  # a server keeps no -0
        self.scores[member] = score
        insort(self.ranked, (score, member))

    def drop(self, member: bytes) -> bool:
        """Whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        del self.ranked[bisect_left(self.ranked, (score, member))]
        return True

    def rank(self, member: bytes) -> int | None:
        score = self.scores.get(member)
        return None if score is None else bisect_left(self.ranked, (score, member))


class EntryId(NamedTuple):
    """The id of a stream's entry."""

    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


class Stream:
    """Entries by id; the last id there ever was."""

    __slots__ = ("entries", "last")

    def __init__(self) -> None:
        self.entries: list[tuple[EntryId, list[bytes]]] = []
        self.last = EntryId(0, 0)

    def __len__(self) -> int:
        return len(self.entries)


Value = bytes | Hash | List | SortedSet | Stream
NAMES: dict[type, str] = {bytes: "string", Hash: "hash", List: "list", SortedSet: "zset", Stream: "stream"}
