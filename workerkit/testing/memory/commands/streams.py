"""Streams."""

from __future__ import annotations

import re

from workerkit.testing.memory.commands.registry import Options, Words, arity, command
from workerkit.testing.memory.replies import SYNTAX, Refused, Reply
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.values import EntryId, Stream

_LAST = 2**64 - 1
_BAD_ID = "ERR Invalid stream ID specified as stream command argument"


def _id(word: bytes, number: int) -> EntryId:
    """An id; `number` stands for the part that is left out."""
    if word in {b"-", b"+"}:
        return EntryId(0, 0) if word == b"-" else EntryId(_LAST, _LAST)
    found = re.fullmatch(rb"(\d{1,20})(?:-(\d{1,20}))?", word)
    if found is None or int(found[1]) > _LAST or int(found[2] or 0) > _LAST:
        raise Refused(_BAD_ID)
    return EntryId(int(found[1]), number if found[2] is None else int(found[2]))


def _next(stream: Stream, now_ms: int) -> EntryId:
    return EntryId(now_ms, 0) if now_ms > stream.last.ms else EntryId(stream.last.ms, stream.last.number + 1)


@command("XADD", -5)
def xadd(store: Store, words: Words) -> Reply:
    options, most = Options(words[1:]), None
    name = options.word()
    if name.upper() == b"MAXLEN":
        bound = options.word()
        # As exactly as "=" has it: a server keeps up to a hundred entries more with "~".
        most = Options([options.word() if bound in {b"~", b"="} else bound]).whole()
        name = options.word()
    fields = options.rest()
    if not fields or len(fields) % 2:
        raise arity(b"XADD")
    given = None if name == b"*" else _id(name, 0)
    if given == (0, 0):
        raise Refused("ERR The ID specified in XADD must be greater than 0-0")
    there = store.read(words[0], Stream)
    if there is not None and given is not None and given <= there.last:
        raise Refused("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream = store.opened(words[0], Stream)
    entry = given or _next(stream, store.now_ms)
    stream.entries.append((entry, list(fields)))
    stream.last = entry
    if most is not None:
        del stream.entries[: max(0, len(stream) - most)]
    store.touch(words[0])
    return str(entry).encode()


@command("XLEN", 2)
def xlen(store: Store, words: Words) -> Reply:
    return len(store.read(words[0], Stream) or ())


@command("XRANGE", -4)
def xrange(store: Store, words: Words) -> Reply:
    return _range(store, words, reverse=False)


@command("XREVRANGE", -4)
def xrevrange(store: Store, words: Words) -> Reply:
    return _range(store, words, reverse=True)


def _range(store: Store, words: Words, *, reverse: bool) -> Reply:
    first, last = (words[2], words[1]) if reverse else (words[1], words[2])
    begin, end = _id(first.removeprefix(b"("), 0), _id(last.removeprefix(b"("), _LAST)
    most = _most(words[3:])
    stream = store.read(words[0], Stream)
    if stream is None:
        return []
    if most is not None and most <= 0:
        return None
    out = {begin for word in (first,) if word.startswith(b"(")} | {end for word in (last,) if word.startswith(b"(")}
    found = [[str(at).encode(), pairs] for at, pairs in stream.entries if begin <= at <= end and at not in out]
    return (found[::-1] if reverse else found)[:most]


def _most(words: Words) -> int | None:
    options, most = Options(words), None
    while options:
        if options.name() != b"COUNT":
            raise Refused(SYNTAX)
        most = options.whole()
    return most
