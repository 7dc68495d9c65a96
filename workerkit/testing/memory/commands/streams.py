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
    stream = store.opened(words[0], Stream)
    entry = given or _next(stream, store.now_ms)
    if entry <= stream.last:
        raise Refused("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream.entries.append((entry, list(fields)))
    stream.last = entry
    if most is not None:
        del stream.entries[: max(0, len(stream) - most)]
    store.touch(words[0])
    return str(entry).encode()


@command("XLEN", 2)
def xlen(store: Store, words: Words) -> Reply:
    return len(store.read(words[0], Stream) or ())


def _range(store: Store, key: bytes, first: bytes, last: bytes, more: Words) -> list[list[object]]:
    begin, end = _id(first.removeprefix(b"("), 0), _id(last.removeprefix(b"("), _LAST)
    stream = store.read(key, Stream)
    return [
        [str(at).encode(), fields]
        for at, fields in (stream.entries if stream else ())
        if begin <= at <= end and not (first[:1] == b"(" and at == begin) and not (last[:1] == b"(" and at == end)
    ]


def _most(more: Words) -> int | None:
    options, most = Options(more), None
    while options:
        if options.name() != b"COUNT":
            raise Refused(SYNTAX)
        most = max(0, options.whole())
    return most


@command("XRANGE", -4)
def xrange(store: Store, words: Words) -> Reply:
    most = _most(words[3:])
    return _range(store, words[0], words[1], words[2], words[3:])[:most]


@command("XREVRANGE", -4)
def xrevrange(store: Store, words: Words) -> Reply:
    most = _most(words[3:])
    return _range(store, words[0], words[2], words[1], words[3:])[::-1][:most]
