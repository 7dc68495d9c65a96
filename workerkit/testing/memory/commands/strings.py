"""Strings."""

from __future__ import annotations

from workerkit.testing.memory.commands.registry import Options, Words, arity, command, whole
from workerkit.testing.memory.replies import OK, SYNTAX, Refused, Reply
from workerkit.testing.memory.store import Store

_UNITS = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}


@command("GET", 2)
def get(store: Store, words: Words) -> Reply:
    return store.read(words[0], bytes)


@command("MGET", -2)
def mget(store: Store, words: Words) -> Reply:
    found = (store.find(key) for key in words)
    return [value if isinstance(value, bytes) else None for value in found]


@command("MSET", -3)
def mset(store: Store, words: Words) -> Reply:
    if len(words) % 2:
        raise arity(b"MSET")
    for key, value in zip(words[::2], words[1::2], strict=True):
        store.put(key, value)
    return OK


@command("SET", -3)
def set_(store: Store, words: Words) -> Reply:
    key, value, *more = words
    options, flags, life = Options(more), set[bytes](), b""
    while options:
        name = options.name()
        if name in _UNITS:
            life = options.word()
        elif name not in {b"NX", b"XX", b"GET", b"KEEPTTL"}:
            raise Refused(SYNTAX)
        flags.add(name)
    units = sorted(flags & {*_UNITS, b"KEEPTTL"})
    if flags >= {b"NX", b"XX"} or len(units) > 1:
        raise Refused(SYNTAX)
    until = _until(store, units[0], life) if units and units[0] in _UNITS else None
    return _set(store, key, value, flags, until)


def _until(store: Store, unit: bytes, word: bytes) -> int:
    scale, absolute = _UNITS[unit]
    given = whole(word) * scale
    until = given if absolute else store.now_ms + given
    if given <= 0 or until >= 2**63:
        raise Refused("ERR invalid expire time in 'set' command")
    return until


def _set(store: Store, key: bytes, value: bytes, flags: set[bytes], until: int | None) -> Reply:
    before = store.read(key, bytes) if b"GET" in flags else None
    there = store.find(key) is not None
    refused = (b"NX" in flags and there) or (b"XX" in flags and not there)
    if not refused:
        store.put(key, value, store.expiry(key) if b"KEEPTTL" in flags else until)
    if b"GET" in flags:
        return before
    return None if refused else OK


@command("STRLEN", 2)
def strlen(store: Store, words: Words) -> Reply:
    return len(store.read(words[0], bytes) or b"")


def _add(store: Store, key: bytes, step: int) -> int:
    before = store.read(key, bytes)
    total = (0 if before is None else whole(before)) + step
    if not -(2**63) <= total < 2**63:
        raise Refused("ERR increment or decrement would overflow")
    store.put(key, str(total).encode(), store.expiry(key))
    return total


@command("INCR", 2)
def incr(store: Store, words: Words) -> Reply:
    return _add(store, words[0], 1)


@command("DECR", 2)
def decr(store: Store, words: Words) -> Reply:
    return _add(store, words[0], -1)


@command("INCRBY", 3)
def incrby(store: Store, words: Words) -> Reply:
    return _add(store, words[0], whole(words[1]))
