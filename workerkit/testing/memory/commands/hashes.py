"""Hashes."""

from __future__ import annotations

from workerkit.testing.memory.commands.registry import Words, arity, command, whole
from workerkit.testing.memory.replies import OK, Refused, Reply
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.values import Hash

_EMPTY = Hash()


def _read(store: Store, key: bytes) -> Hash:
    return store.read(key, Hash) or _EMPTY


@command("HGET", 3)
def hget(store: Store, words: Words) -> Reply:
    return _read(store, words[0]).get(words[1])


@command("HMGET", -3)
def hmget(store: Store, words: Words) -> Reply:
    found = _read(store, words[0])
    return [found.get(field) for field in words[1:]]


@command("HGETALL", 2)
def hgetall(store: Store, words: Words) -> Reply:
    return dict(_read(store, words[0]))


@command("HKEYS", 2)
def hkeys(store: Store, words: Words) -> Reply:
    return list(_read(store, words[0]))


@command("HVALS", 2)
def hvals(store: Store, words: Words) -> Reply:
    return list(_read(store, words[0]).values())


@command("HEXISTS", 3)
def hexists(store: Store, words: Words) -> Reply:
    return int(words[1] in _read(store, words[0]))


@command("HLEN", 2)
def hlen(store: Store, words: Words) -> Reply:
    return len(_read(store, words[0]))


@command("HSTRLEN", 3)
def hstrlen(store: Store, words: Words) -> Reply:
    return len(_read(store, words[0]).get(words[1], b""))


@command("HSET", -4)
def hset(store: Store, words: Words) -> Reply:
    if not len(words) % 2:
        raise arity(b"HSET")
    there = store.opened(words[0], Hash)
    before = len(there)
    there.update(zip(words[1::2], words[2::2], strict=True))
    store.touch(words[0])
    return len(there) - before


@command("HMSET", -4)
def hmset(store: Store, words: Words) -> Reply:
    hset(store, words)
    return OK


@command("HSETNX", 4)
def hsetnx(store: Store, words: Words) -> Reply:
    if words[1] in _read(store, words[0]):
        return 0
    return hset(store, words)


@command("HDEL", -3)
def hdel(store: Store, words: Words) -> Reply:
    there = store.read(words[0], Hash)
    if there is None:
        return 0
    gone = sum(there.pop(field, None) is not None for field in words[1:])
    store.touch(words[0], changed=gone > 0)
    return gone


@command("HINCRBY", 4)
def hincrby(store: Store, words: Words) -> Reply:
    step = whole(words[2])
    before = whole(_read(store, words[0]).get(words[1], b"0"), "ERR hash value is not an integer")
    if not -(2**63) <= before + step < 2**63:
        raise Refused("ERR increment or decrement would overflow")
    hset(store, (words[0], words[1], str(before + step).encode()))
    return before + step
