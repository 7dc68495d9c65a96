"""Keys of any kind, and their expiries."""

from __future__ import annotations

import re
from hashlib import blake2b

from workerkit.testing.memory.commands.registry import Options, Words, command, whole
from workerkit.testing.memory.replies import OK, SYNTAX, Refused, Reply, Status
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.values import NAMES


@command("DEL", -2)
def delete(store: Store, words: Words) -> Reply:
    return sum(store.delete(key) for key in words)


command("UNLINK", -2)(delete)


@command("EXISTS", -2)
def exists(store: Store, words: Words) -> Reply:
    return sum(store.find(key) is not None for key in words)


@command("TYPE", 2)
def type_(store: Store, words: Words) -> Reply:
    value = store.find(words[0])
    return Status(b"none" if value is None else NAMES[type(value)].encode())


def _expire(store: Store, words: Words, *, scale: int, absolute: bool, name: str) -> int:
    if len(words) > 2:
        raise Refused(f"ERR Unsupported option {words[2].decode(errors='backslashreplace')}")
    at = whole(words[1]) * scale
    if not -(2**63) <= at < 2**63 - (0 if absolute else store.now_ms):
        raise Refused(f"ERR invalid expire time in '{name}' command")
    if store.find(words[0]) is None:
        return 0
    store.expire(words[0], at if absolute else store.now_ms + at)
    return 1


@command("PEXPIRE", -3)
def pexpire(store: Store, words: Words) -> Reply:
    return _expire(store, words, scale=1, absolute=False, name="pexpire")


@command("PEXPIREAT", -3)
def pexpireat(store: Store, words: Words) -> Reply:
    return _expire(store, words, scale=1, absolute=True, name="pexpireat")


@command("EXPIRE", -3)
def expire(store: Store, words: Words) -> Reply:
    return _expire(store, words, scale=1000, absolute=False, name="expire")


@command("PERSIST", 2)
def persist(store: Store, words: Words) -> Reply:
    return int(store.find(words[0]) is not None and store.persist(words[0]))


def _expiry(store: Store, key: bytes, *, since: int) -> int:
    """In ms after `since`, -1 for never, -2 without the key."""
    if store.find(key) is None:
        return -2
    at = store.expiry(key)
    return -1 if at is None else max(0, at - since)


@command("PTTL", 2)
def pttl(store: Store, words: Words) -> Reply:
    return _expiry(store, words[0], since=store.now_ms)


@command("TTL", 2)
def ttl(store: Store, words: Words) -> Reply:
    left = _expiry(store, words[0], since=store.now_ms)
    return left if left < 0 else (left + 500) // 1000


@command("PEXPIRETIME", 2)
def pexpiretime(store: Store, words: Words) -> Reply:
    return _expiry(store, words[0], since=0)


@command("KEYS", 2)
def keys(store: Store, words: Words) -> Reply:
    pattern = glob(words[0])
    return [key for key in store.all_keys() if pattern.fullmatch(key)]


@command("SCAN", -2)
def scan(store: Store, words: Words) -> Reply:
    """In the order of the keys' digests, so that no key comes or goes in front of a cursor that is out."""
    cursor, options, pattern, count = whole(words[0], "ERR invalid cursor"), Options(words[1:]), b"*", 10
    while options:
        name = options.name()
        if name == b"MATCH":
            pattern = options.word()
        elif name == b"COUNT":
            count = max(1, options.whole())
        else:
            raise Refused(SYNTAX)
    ahead = sorted((place, key) for key in store.all_keys() if (place := _place(key)) >= cursor)
    page, rest, matches = ahead[:count], ahead[count:], glob(pattern)
    return [str(rest[0][0] if rest else 0).encode(), [key for _, key in page if matches.fullmatch(key)]]


def _place(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=7).digest()) + 1


def glob(pattern: bytes) -> re.Pattern[bytes]:
    """A pattern of KEYS as a regular expression."""
    out, at = b"", 0
    while at < len(pattern):
        letter = pattern[at : at + 1]
        end = pattern.find(b"]", at + 1)
        if letter == b"[" and end > 0:
            inside = pattern[at + 1 : end]
            out += b"[%b]" % (b"^" + inside[1:] if inside.startswith(b"^") else inside)
            at = end
        elif letter == b"\\" and at + 1 < len(pattern):
            at += 1
            out += re.escape(pattern[at : at + 1])
        else:
            out += {b"*": b".*", b"?": b"."}.get(letter) or re.escape(letter)
        at += 1
    return re.compile(out, re.DOTALL)


@command("DBSIZE", 1)
def dbsize(store: Store, words: Words) -> Reply:
    return len(store.all_keys())


@command("FLUSHALL", -1)
def flushall(store: Store, words: Words) -> Reply:
    store.clear()
    return OK


command("FLUSHDB", -1)(flushall)
