"""Scripts."""

from __future__ import annotations

from workerkit.testing.memory.commands.registry import Words, command, text, whole
from workerkit.testing.memory.replies import OK, Refused, Reply
from workerkit.testing.memory.store import Store


@command("EVAL", -3)
def eval_(store: Store, words: Words) -> Reply:
    _count(words)
    return _run(store, store.scripts.load(words[0]), words)


@command("EVALSHA", -3)
def evalsha(store: Store, words: Words) -> Reply:
    _count(words)
    if not store.scripts.knows(words[0]):
        raise Refused("NOSCRIPT No matching script.")
    return _run(store, words[0], words)


def _run(store: Store, digest: bytes, words: Words) -> Reply:
    count = _count(words)
    return store.scripts.run(digest, words[2 : 2 + count], words[2 + count :])


def _count(words: Words) -> int:
    """How many of the words are keys."""
    count = whole(words[1])
    if count > len(words) - 2:
        raise Refused("ERR Number of keys can't be greater than number of args")
    if count < 0:
        raise Refused("ERR Number of keys can't be negative")
    return count


@command("SCRIPT", -2)
def script(store: Store, words: Words) -> Reply:
    name = words[0].upper()
    if name == b"LOAD" and len(words) == 2:
        return store.scripts.load(words[1])
    if name == b"EXISTS":
        return [int(store.scripts.knows(digest)) for digest in words[1:]]
    if name == b"FLUSH":
        store.scripts.forget()
        return OK
    raise Refused(f"ERR workerkit's memory has no SCRIPT {text(words[0])}")
