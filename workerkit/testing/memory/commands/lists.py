"""Lists."""

from __future__ import annotations

from workerkit.testing.memory.commands.registry import Words, command, slice_of, whole
from workerkit.testing.memory.replies import OK, Reply
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.values import List


@command("LPUSH", -3)
def lpush(store: Store, words: Words) -> Reply:
    there = store.opened(words[0], List)
    there[:0] = reversed(words[1:])
    store.touch(words[0])
    return len(there)


@command("RPUSH", -3)
def rpush(store: Store, words: Words) -> Reply:
    there = store.opened(words[0], List)
    there += words[1:]
    store.touch(words[0])
    return len(there)


@command("LLEN", 2)
def llen(store: Store, words: Words) -> Reply:
    return len(store.read(words[0], List) or ())


@command("LRANGE", 4)
def lrange(store: Store, words: Words) -> Reply:
    first, last = whole(words[1]), whole(words[2])
    there = store.read(words[0], List) or List()
    return list(there[slice_of(len(there), first, last)])


@command("LTRIM", 4)
def ltrim(store: Store, words: Words) -> Reply:
    first, last = whole(words[1]), whole(words[2])
    there = store.read(words[0], List)
    if there is not None:
        there[:] = there[slice_of(len(there), first, last)]
        store.touch(words[0])
    return OK
