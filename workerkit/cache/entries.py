"""Cached entries and their leases, as Calls.

A lease lives beside its value, in the same slot, because one script must see both.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal, NamedTuple

from workerkit.core.call import Call
from workerkit.core.envelope import Envelope, pack, unpack
from workerkit.core.lua import Script

_CLAIM = Script("workerkit.cache", "claim")
_STORE = Script("workerkit.cache", "store")
_RENEW = Script("workerkit.cache", "renew")
_PUT = Script("workerkit.cache", "put")


class EntryKey(NamedTuple):
    """The two Redis keys of one entry."""

    value: str
    lease: str


class Found(NamedTuple):
    """What a read met: the entry, if it can be read; whether there was anything, and the id of it."""

    envelope: Envelope | None
    there: bool
    seen: bytes


class Claim(NamedTuple):
    """The answer to a claim."""

    verdict: Literal["hit", "lead", "wait"]
    found: Found


_NOTHING = Found(None, False, b"")


class Entries:
    """Makes the Calls on entries; `secret` signs them, `max_bytes` bounds them, `lease_ms` is a lease's life."""

    def __init__(self, *, secret: bytes | None, max_bytes: int, lease_ms: int) -> None:
        self._secret = secret
        self._max_bytes = max_bytes
        self._lease_ms = lease_ms

    def get(self, key: EntryKey) -> Call[Found]:
        return Call("cache.get", "cache", lambda data: self._found(key, data), args=("GET", key.value))

    def claim(self, key: EntryKey, token: str, seen: bytes) -> Call[Claim]:
        """Ask to compute; idempotent by `token`, so it may be repeated after an unknown outcome."""

        def parse(reply: Any) -> Claim:
            if reply[0] == 0:
                return Claim("hit", self._found(key, reply[1]))
            return Claim("lead" if reply[0] == 1 else "wait", _NOTHING)

        return Call("cache.claim", "cache", parse, script=_CLAIM, keys=key, args=(token, self._lease_ms, seen))

    def store(self, key: EntryKey, token: str, entry: bytes, life_ms: int) -> Call[bool]:
        return Call("cache.store", "cache", bool, script=_STORE, keys=key, args=(token, entry, life_ms))

    def renew(self, key: EntryKey, token: str) -> Call[bool]:
        return Call("cache.renew", "cache", bool, script=_RENEW, keys=(key.lease,), args=(token, self._lease_ms))

    def release(self, key: EntryKey, token: str) -> Call[bool]:
        return Call("cache.release", "cache", bool, script=_RENEW, keys=(key.lease,), args=(token, 0))

    def put(self, key: EntryKey, entry: bytes, life_ms: int) -> Call[bool]:
        """Store a value that nobody needed to compute; a computation under way does not overwrite it."""
        return Call("cache.put", "cache", lambda _: True, script=_PUT, keys=key, args=(entry, life_ms))

    def drop(self, key: EntryKey) -> Call[bool]:
        """Invalidate: the value, and the lease of a computation that began before."""
        return Call("cache.drop", "cache", bool, args=("DEL", key.value, key.lease))

    def pack(self, key: EntryKey, envelope: Envelope) -> bytes:
        return pack(envelope, key=key.value, secret=self._secret, max_bytes=self._max_bytes)

    def _found(self, key: EntryKey, data: bytes | None) -> Found:
        if data is None:
            return _NOTHING
        envelope = unpack(data, key=key.value, secret=self._secret, max_bytes=self._max_bytes)
        return Found(envelope, True, data[7:15])


def envelope(body: bytes, codec: int, *, now_us: int, soft: float, hard: float, cost: float) -> Envelope:
    """A fresh entry: stale after `soft` seconds, gone after `hard`, computed in `cost` seconds."""
    return Envelope(
        entry_id=secrets.token_bytes(8),
        created_us=now_us,
        soft_us=now_us + int(soft * 1e6),
        hard_us=now_us + int(hard * 1e6),
        cost_us=int(cost * 1e6),
        tags=(),
        codec=codec,
        flags=0,
        body=body,
    )
