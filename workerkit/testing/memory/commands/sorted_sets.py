"""Sorted sets."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

from workerkit.testing.memory.commands.registry import Options, Words, command, number, slice_of, whole
from workerkit.testing.memory.replies import NOT_AN_INTEGER, SYNTAX, Refused, Reply, Scored
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.values import SortedSet

_BAD_BOUND = "ERR min or max is not a float"
_NOT_A_NUMBER = "ERR resulting score is not a number (NaN)"
_EMPTY = SortedSet()


def _read(store: Store, key: bytes) -> SortedSet:
    return store.read(key, SortedSet) or _EMPTY


# Changes


@command("ZADD", -4)
def zadd(store: Store, words: Words) -> Reply:
    options, flags = Options(words[1:]), set[bytes]()
    while options and options.rest()[0].upper() in {b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"}:
        flags.add(options.name())
    pairs = options.rest()
    if not pairs or len(pairs) % 2:
        raise Refused(SYNTAX)
    _check(flags, pairs)
    scores = [number(word) for word in pairs[::2]]
    there = store.opened(words[0], SortedSet)
    try:
        return _add(there, flags, list(zip(pairs[1::2], scores, strict=True)))
    finally:
        store.touch(words[0])


def _check(flags: set[bytes], pairs: Words) -> None:
    if flags >= {b"NX", b"XX"}:
        raise Refused("ERR XX and NX options at the same time are not compatible")
    if len(flags & {b"NX", b"GT", b"LT"}) > 1:
        raise Refused("ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in flags and len(pairs) > 2:
        raise Refused("ERR INCR option supports a single increment-element pair")


def _add(there: SortedSet, flags: set[bytes], pairs: list[tuple[bytes, float]]) -> Reply:
    added = moved = 0
    score: float | None = None
    for member, given in pairs:
        before = there.scores.get(member)
        score = _new_score(flags, before, given)
        if score is not None and score != before:
            there.put(member, score)
            added, moved = added + (before is None), moved + (before is not None)
    if b"INCR" in flags:
        return score
    return added + moved if b"CH" in flags else added


def _new_score(flags: set[bytes], before: float | None, given: float) -> float | None:
    """What the member gets; None for a member that stays as it is, by the flags."""
    if before is None:
        return None if b"XX" in flags else given
    score = before + given if b"INCR" in flags else given
    if math.isnan(score):
        raise Refused(_NOT_A_NUMBER)
    less, more = b"LT" in flags and score >= before, b"GT" in flags and score <= before
    return None if b"NX" in flags or less or more else score


@command("ZINCRBY", 4)
def zincrby(store: Store, words: Words) -> Reply:
    return zadd(store, (words[0], b"INCR", words[1], words[2]))


@command("ZREM", -3)
def zrem(store: Store, words: Words) -> Reply:
    there = store.read(words[0], SortedSet)
    if there is None:
        return 0
    return _drop(store, words[0], there, words[1:])


def _drop(store: Store, key: bytes, there: SortedSet, members: Words) -> int:
    gone = sum(there.drop(member) for member in members)
    store.touch(key, changed=gone > 0)
    return gone


@command("ZREMRANGEBYSCORE", 4)
def zremrangebyscore(store: Store, words: Words) -> Reply:
    first, last = _bound(words[1]), _bound(words[2])
    there = _read(store, words[0])
    return _drop(store, words[0], there, [member for _, member in there.ranked[_between(there, first, last)]])


@command("ZREMRANGEBYRANK", 4)
def zremrangebyrank(store: Store, words: Words) -> Reply:
    first, last = whole(words[1]), whole(words[2])
    there = _read(store, words[0])
    return _drop(store, words[0], there, [member for _, member in there.ranked[slice_of(len(there), first, last)]])


# Reads


@command("ZSCORE", 3)
def zscore(store: Store, words: Words) -> Reply:
    return _read(store, words[0]).scores.get(words[1])


@command("ZMSCORE", -3)
def zmscore(store: Store, words: Words) -> Reply:
    there = _read(store, words[0])
    return [there.scores.get(member) for member in words[1:]]


@command("ZCARD", 2)
def zcard(store: Store, words: Words) -> Reply:
    return len(_read(store, words[0]))


@command("ZRANK", 3)
def zrank(store: Store, words: Words) -> Reply:
    return _read(store, words[0]).rank(words[1])


@command("ZCOUNT", 4)
def zcount(store: Store, words: Words) -> Reply:
    first, last = _bound(words[1]), _bound(words[2])
    there = _read(store, words[0])
    return len(there.ranked[_between(there, first, last)])


@command("ZRANGE", -4)
def zrange(store: Store, words: Words) -> Reply:
    return _by_rank(store, words, reverse=False)


@command("ZREVRANGE", -4)
def zrevrange(store: Store, words: Words) -> Reply:
    return _by_rank(store, words, reverse=True)


def _by_rank(store: Store, words: Words, *, reverse: bool) -> Reply:
    scored = _with_scores(words[3:])
    first, last = whole(words[1]), whole(words[2])
    ranked = _read(store, words[0]).ranked
    return _shown((ranked[::-1] if reverse else ranked)[slice_of(len(ranked), first, last)], scored=scored)


@command("ZRANGEBYSCORE", -4)
def zrangebyscore(store: Store, words: Words) -> Reply:
    return _by_score(store, words[0], words[1], words[2], words[3:], reverse=False)


@command("ZREVRANGEBYSCORE", -4)
def zrevrangebyscore(store: Store, words: Words) -> Reply:
    return _by_score(store, words[0], words[2], words[1], words[3:], reverse=True)


def _by_score(store: Store, key: bytes, first: bytes, last: bytes, more: Words, *, reverse: bool) -> Reply:
    begin, end = _bound(first), _bound(last)
    options, scored, skip, most = Options(more), False, 0, -1
    while options:
        name = options.name()
        if name == b"WITHSCORES":
            scored = True
        elif name == b"LIMIT":
            skip, most = whole(options.word(), NOT_AN_INTEGER), options.whole()
        else:
            raise Refused(SYNTAX)
    there = _read(store, key)
    found = there.ranked[_between(there, begin, end)]
    if reverse:
        found.reverse()
    if skip < 0:
        return _shown([], scored=scored)
    return _shown(found[skip:] if most < 0 else found[skip : skip + most], scored=scored)


@command("ZUNION", -3)
def zunion(store: Store, words: Words) -> Reply:
    count = whole(words[0])
    if count < 1:
        raise Refused("ERR at least 1 input key is needed for 'zunion' command")
    if count > len(words) - 1:
        raise Refused(SYNTAX)
    sets = [_read(store, key) for key in words[1 : 1 + count]]
    scored = _with_scores(words[1 + count :])
    union = SortedSet()
    for each in sets:
        for member, score in each.scores.items():
            union.put(member, union.scores.get(member, 0.0) + score)
    return _shown(union.ranked, scored=scored)


def _with_scores(options: Words) -> bool:
    if any(word.upper() != b"WITHSCORES" for word in options):
        raise Refused(SYNTAX)
    return bool(options)


def _shown(ranked: list[tuple[float, bytes]], *, scored: bool) -> Reply:
    return Scored((member, score) for score, member in ranked) if scored else [member for _, member in ranked]


def _bound(word: bytes) -> tuple[float, bool]:
    """A score, and whether it is itself left out."""
    open_ = word.startswith(b"(")
    return number(word[open_:] or b"0", _BAD_BOUND), open_


def _between(there: SortedSet, first: tuple[float, bool], last: tuple[float, bool]) -> slice:
    def score(each: tuple[float, bytes]) -> float:
        return each[0]

    begin = (bisect_right if first[1] else bisect_left)(there.ranked, first[0], key=score)
    end = (bisect_left if last[1] else bisect_right)(there.ranked, last[0], key=score)
    return slice(begin, max(begin, end))
