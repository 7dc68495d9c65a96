"""Tags by versions: an entry remembers the version of each of its tags, and another version makes it a miss.

A tag is one marker, however many entries are under it; invalidating is one write, and no set of members ever grows.
A version is the server's time in microseconds with three random digits, so it only grows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from workerkit.core.call import Call
from workerkit.core.encoding import digest
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

_TOUCH = Script("workerkit.cache", "touch")
_BUMP = Script("workerkit.cache", "bump")
LIFE_MS = 86_400_000  # a marker lives a day at least: longer than any computation that may have begun under it

Versions = tuple[tuple[str, int], ...]


class Touched(NamedTuple):
    """A tag's version; `new` says that it had none."""

    version: int
    new: bool

    @property
    def since_us(self) -> int:
        """When the tag got this version, in server microseconds."""
        return self.version // 1000


class Tags:
    """Makes the Calls on tags. A tag goes by its digest: its name may hold what no key should show."""

    def __init__(self, keys: Keys, secret: bytes | None) -> None:
        self._keys = keys
        self._secret = secret
        self.part = lru_cache(4096)(self._digest)
        self.key = lru_cache(4096)(self._marker)

    def _digest(self, tag: str) -> str:
        """What a tag is called in keys and entries."""
        return digest(tag.encode("utf-8", "surrogatepass"), self._secret)

    def _marker(self, part: str) -> str:
        return self._keys.key("tag", part, "t")

    @property
    def prefix(self) -> str:
        """What the keys of all markers begin with."""
        return self._keys.prefix("tag")

    def read(self, parts: tuple[str, ...]) -> Call[Versions]:
        """The versions of tags; 0 for one that has none."""
        keys = [self.key(part) for part in parts]
        return Call("cache.tags", "cache", lambda reply: versions(parts, reply), args=("MGET", *keys))

    def touch(self, part: str, life_ms: int) -> Call[Touched]:
        """The version of a tag, which from now on has one, for `life_ms` at least."""
        args = (_random_digits(), max(life_ms, LIFE_MS))
        return Call("cache.touch", "cache", _touched, script=_TOUCH, keys=(self.key(part),), args=args)

    def bump(self, part: str) -> Call[bool]:
        """Invalidate everything under a tag."""
        keys = (self.key(part),)
        return Call("cache.bump", "cache", bool, script=_BUMP, keys=keys, args=(_random_digits(), LIFE_MS))


def versions(parts: tuple[str, ...], markers: Iterable[bytes | None]) -> Versions:
    return tuple([(part, _number(marker)) for part, marker in zip(parts, markers, strict=True)])


def _number(marker: bytes | None) -> int:
    # A marker that is no number was not written here; as "none" it makes a miss.
    return int(marker) if marker is not None and marker.isdigit() else 0


def _touched(reply: Any) -> Touched:
    return Touched(_number(reply[0]), bool(reply[1]))


def _random_digits() -> str:
    return f"{random.randrange(1000):03d}"  # noqa: S311 - tells versions of one microsecond apart, hides nothing
