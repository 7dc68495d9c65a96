"""What is asked for, so that a warmup knows what to keep warm.

A process counts by sample and hold (Estan and Varghese 2002): a call that is held is counted each time; one that is not
is taken hold of at once while few are, else with a chance, and then counts for all those it stands for. What is held is
added to the fleet's counts, which fade by forward decay (Cormode et al. 2009): a count weighs more the later it comes,
instead of all others losing weight all the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from math import log
from operator import itemgetter
from typing import Any, NamedTuple

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

_ADD = Script("workerkit.warming", "demand")
_TOP = Script("workerkit.warming", "top")

HELD = 2000  # calls that a process holds
HELD_BYTES = 350_000  # of their arguments; with all else it comes to less than 1 MB
FREE = 500  # calls that are taken hold of between two flushes without drawing
ONE_IN = 8  # of the others
SENT = 500  # calls that are sent by one flush
FORGET = 300  # flushes after which arguments are sent again, should the fleet have lost them
CAP = 4000  # calls that the fleet keeps
HALF_LIFE_MS = 300_000
LIFE_MS = 7 * 86_400_000

Encode = Callable[[tuple[Any, ...], dict[str, Any]], bytes | None]


class Asked(NamedTuple):
    """A call by its entry, how often it is asked for each second, and its arguments as `encode` wrote them."""

    part: str
    rate: float
    call: bytes


class Taken(NamedTuple):
    """What a flush sends of a call; `call` is empty where the fleet should know it."""

    part: str
    times: int
    call: bytes


class _Held:
    """A call that is held. `count` is written by who notes, `taken` by who flushes: neither undoes the other's."""

    __slots__ = ("call", "count", "known", "taken")

    def __init__(self, call: bytes, count: int) -> None:
        self.call = call
        self.count = count  # since it is held
        self.taken = 0  # of that
        self.known = 0  # up to which flush the fleet should know its arguments


class Demand:
    """The calls of one function in this process. `encode` answers None for arguments that must not be stored.

    Any threads may use it, at the same time and without a lock: one would stay locked in a child forked meanwhile. Two
    that meet may lose a count, no more.
    """

    __slots__ = ("_bytes", "_encode", "_flush", "_free", "_held", "_keys", "_skip", "left_out")

    def __init__(self, keys: Keys, name: str, encode: Encode) -> None:
        self._keys = (keys.key(name, "all", "d"), keys.key(name, "all", "a"))
        self._encode = encode
        self._held: dict[str, _Held] = {}
        self._bytes = self._flush = self._skip = 0
        self._free = FREE
        self.left_out = 0  # calls that could not be held because of their arguments

    def note(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call was asked for; `part` names its entry. The whole of the hot path."""
        held = self._held.get(part)
        if held is not None:
            held.count += 1
        elif self._skip > 0:
            self._skip -= 1
        else:
            self._hold(part, args, kwargs)

    def _hold(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        weight = 1
        if self._free > 0:
            self._free -= 1
        else:
            self._skip, weight = ONE_IN - 1, ONE_IN
        call = self._encode(args, kwargs)
        if call is None:
            self.left_out += 1
            call = b""
        if len(self._held) >= HELD or self._bytes + len(call) > HELD_BYTES:
            self._let_go()
        self._held[part] = _Held(call, weight)
        self._bytes += len(call)

    def _let_go(self) -> None:
        """Of the half that is asked for less."""
        held = self._held.copy()  # in one step, as nothing else that goes through them all is
        asked = {part: each.count - each.taken for part, each in held.items()}
        for part in heapq.nsmallest(len(asked) - len(asked) // 2, reversed(asked), key=asked.__getitem__):
            self._held.pop(part, None)
        self._bytes = sum(len(each.call) for each in self._held.copy().values())

    def take(self) -> list[Taken]:
        """What was counted since the last time; whatever was not asked for is let go of."""
        self._free, self._flush = FREE, self._flush + 1
        asked: list[tuple[int, str, _Held]] = []
        size = 0
        for part, held in self._held.copy().items():
            count, taken = held.count, held.taken
            held.taken = count
            if count == taken:
                self._held.pop(part, None)
            elif held.call:
                size += len(held.call)
                asked.append((count - taken, part, held))
        self._bytes = size
        most = heapq.nlargest(SENT, asked, key=itemgetter(0))
        return [Taken(part, times, self._unknown(held)) for times, part, held in most]

    def _unknown(self, held: _Held) -> bytes:
        if self._flush < held.known:
            return b""
        held.known = self._flush + FORGET
        return held.call

    def give_back(self, taken: Iterable[Taken]) -> None:
        """Count again what could not be sent."""
        for part, times, call in taken:
            held = self._held.get(part)  # which may have been let go of, and held anew
            if held is not None:
                held.taken -= times
                if call:
                    held.known = 0

    def add(self, taken: Iterable[Taken]) -> Call[int]:
        """Add counts to the fleet's."""
        words: list[Word] = []
        for each in taken:
            words += each
        return Call(
            "warm.demand", "cache", int, script=_ADD, keys=self._keys, args=(CAP, HALF_LIFE_MS, LIFE_MS, *words)
        )

    def top(self, most: int) -> Call[list[Asked]]:
        """The calls that the fleet asks for most, as far as it was told."""
        return Call("warm.top", "cache", _asked, script=_TOP, keys=self._keys, args=(most, HALF_LIFE_MS))


def _asked(reply: Any) -> list[Asked]:
    # A steady rate r comes to r * half-life / ln 2 once it has lasted for long.
    scale = log(2) * 1000 / HALF_LIFE_MS
    parts = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    return [Asked(part.decode(), float(score) * scale, call) for part, score, call in parts if call is not None]
