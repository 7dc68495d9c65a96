"""Cached entries and their leases, as Calls.

A lease lives beside its value, in the same slot, because one script must see both.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from workerkit.cache.tags import Tags, Versions, versions
from workerkit.core.call import Call
from workerkit.core.envelope import Envelope, pack, unpacker
from workerkit.core.lua import Script

_CLAIM = Script("workerkit.cache", "claim")
_STORE = Script("workerkit.cache", "store")
_RENEW = Script("workerkit.cache", "renew")
_HOLD = Script("workerkit.cache", "hold")
_PUT = Script("workerkit.cache", "put")
# The first letter of a lease's token says what it is for; the claim's script reads it too.
COMPUTING, QUEUED, BACKING_OFF = "c", "q", "b"
QUEUE_MS = 60_000  # how long a queued refresh may take before another is queued; it holds up nobody meanwhile
FAILURE = 1  # the flag of an entry that holds a remembered failure instead of a value


class EntryKey(NamedTuple):
    """The two Redis keys of one entry."""

    value: str
    lease: str


class Found(NamedTuple):
    """What a read met: the entry, if it can be read; whether there was anything, and the id of it; the tags' versions.

    `tags` are those that the arguments give, as they stood in the same moment.
    """

    envelope: Envelope | None
    there: bool
    seen: bytes
    tags: Versions = ()


class Claim(NamedTuple):
    """The answer to a claim: `since_us` when one leads, the `holder`'s token when another does."""

    verdict: Literal["hit", "lead", "wait"]
    found: Found
    since_us: int = 0
    holder: str = ""


NOTHING = Found(None, False, b"")


def new_token(kind: str = COMPUTING) -> str:
    return kind + secrets.token_hex(8)


class Entries:
    """Makes the Calls on entries; `secret` signs them, `max_bytes` bounds them, `lease_ms` is a lease's life."""

    def __init__(self, tags: Tags, *, secret: bytes | None, max_bytes: int, lease_ms: int) -> None:
        self.tags = tags
        self._secret = secret
        self._max_bytes = max_bytes
        self._lease_ms = lease_ms

    def get(self, key: EntryKey, tags: tuple[str, ...] = ()) -> Call[Found]:
        """Read an entry, and the versions of its tags in the same moment."""
        read = self._reader(key)
        if not tags:
            return Call("cache.get", "cache", read, args=("GET", key.value))

        def parse(reply: Any) -> Found:
            return read(reply[0])._replace(tags=versions(tags, reply[1:]))

        markers = [self.tags.key(part) for part in tags]
        return Call("cache.get", "cache", parse, args=("MGET", key.value, *markers))

    def claim(self, key: EntryKey, token: str, seen: bytes, *, yielding: str = COMPUTING) -> Call[Claim]:
        """Ask to compute, `yielding` to the kinds of lease it names.

        Idempotent by `token`, so it may be repeated after an unknown outcome.
        """

        def parse(reply: Any) -> Claim:
            if reply[0] == 0:
                return Claim("hit", self.found(key, reply[1]))
            if reply[0] == 1:
                return Claim("lead", NOTHING, since_us=int(reply[1]))
            return Claim("wait", NOTHING, holder=reply[1].decode("utf-8", "replace"))

        life_ms = max(self._lease_ms, QUEUE_MS) if token.startswith(QUEUED) else self._lease_ms
        args = (token, life_ms, seen, yielding)
        return Call("cache.claim", "cache", parse, script=_CLAIM, keys=key, args=args)

    def store(self, key: EntryKey, token: str, entry: bytes, life_ms: int) -> Call[bool]:
        """Keep what was computed under the lease `token`; False when an invalidation has taken that away."""
        return Call("cache.store", "cache", bool, script=_STORE, keys=key, args=(token, entry, life_ms))

    def renew(self, key: EntryKey, token: str) -> Call[bool]:
        return Call("cache.renew", "cache", bool, script=_RENEW, keys=(key.lease,), args=(token, self._lease_ms))

    def release(self, key: EntryKey, token: str) -> Call[bool]:
        return Call("cache.release", "cache", bool, script=_RENEW, keys=(key.lease,), args=(token, 0))

    def back_off(self, key: EntryKey, token: str, pause_ms: int) -> Call[bool]:
        """End a computation that failed while there is an old value: who has that does not try again for a while."""
        args = (token, new_token(BACKING_OFF), max(1, pause_ms))
        return Call("cache.back_off", "cache", bool, script=_HOLD, keys=(key.lease,), args=args)

    def put(self, key: EntryKey, entry: bytes, life_ms: int) -> Call[bool]:
        """Store a value that nobody needed to compute; a computation under way does not overwrite it."""
        return Call("cache.put", "cache", lambda _: True, script=_PUT, keys=key, args=(entry, life_ms))

    def drop(self, key: EntryKey) -> Call[bool]:
        """Invalidate: the value, and the lease of a computation that began before."""
        return Call("cache.drop", "cache", bool, args=("DEL", key.value, key.lease))

    def pack(self, key: EntryKey, envelope: Envelope) -> bytes:
        return pack(envelope, key=key.value, secret=self._secret, max_bytes=self._max_bytes)

    def found(self, key: EntryKey, data: bytes | None) -> Found:
        return self._reader(key)(data)

    def _reader(self, key: EntryKey) -> Callable[[bytes | None], Found]:
        unpack = unpacker(key.value, secret=self._secret, max_bytes=self._max_bytes)

        def read(data: bytes | None) -> Found:
            if data is None:
                return NOTHING
            envelope = unpack(data)
            if envelope is not None and envelope.flags & ~FAILURE:
                envelope = None  # it means something that this version knows nothing of
            # As Found(...) does it, without the frame of the __new__ that a NamedTuple has.
            return tuple.__new__(Found, (envelope, True, data[7:15], ()))

        return read


def envelope(
    body: bytes, codec: int, *, now_us: int, soft: float, hard: float, cost: float, tags: Versions = (), flags: int = 0
) -> Envelope:
    """A fresh entry: stale after `soft` seconds, gone after `hard`, computed in `cost` seconds."""
    return Envelope(
        entry_id=secrets.token_bytes(8),
        created_us=now_us,
        soft_us=now_us + int(soft * 1e6),
        hard_us=now_us + int(hard * 1e6),
        cost_us=int(cost * 1e6),
        tags=tags,
        codec=codec,
        flags=flags,
        body=body,
    )
