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
from typing import Any, NamedTuple

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

_ADD = Script("workerkit.warming", "demand")
_TOP = Script("workerkit.warming", "top")

HELD = 2000  # calls that a process holds
HELD_BYTES = 1 << 19  # of their arguments
FREE = 250  # calls that are taken hold of between two flushes without drawing
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


class Demand:
    """The calls of one function in this process. `encode` answers None for arguments that must not be stored.

    Losing the GIL in between may lose a count, never a call.
    """

    __slots__ = ("_bytes", "_calls", "_counts", "_encode", "_flush", "_free", "_keys", "_sent", "_skip", "left_out")

    def __init__(self, keys: Keys, name: str, encode: Encode) -> None:
        self._keys = (keys.key(name, "all", "d"), keys.key(name, "all", "a"))
        self._encode = encode
        self._counts: dict[str, int] = {}
        self._calls: dict[str, bytes] = {}
        self._sent: dict[str, int] = {}  # at which flush
        self._bytes = self._flush = self._skip = 0
        self._free = FREE
        self.left_out = 0  # calls that could not be held because of their arguments

    def note(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call was asked for; `part` names its entry. The whole of the hot path."""
        count = self._counts.get(part)
        if count is not None:
            self._counts[part] = count + 1
        elif self._skip:
            self._skip -= 1
        else:
            self._hold(part, args, kwargs)

    def _hold(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        weight = 1
        if self._free:
            self._free -= 1
        else:
            self._skip, weight = ONE_IN - 1, ONE_IN
        call = self._encode(args, kwargs)
        if call is None:
            self.left_out += 1
            call = b""
        if len(self._counts) >= HELD or self._bytes + len(call) > HELD_BYTES:
            self._let_go()
        self._counts[part] = weight
        self._calls[part] = call
        self._bytes += len(call)

    def _let_go(self) -> None:
        """Of the half that is asked for less."""
        keep = heapq.nlargest(len(self._counts) // 2, self._counts, key=self._counts.__getitem__)
        self._keep(keep)

    def _keep(self, parts: Iterable[str]) -> None:
        kept = {part: self._counts[part] for part in parts}
        self._calls = {part: self._calls[part] for part in kept}
        self._sent = {part: flush for part, flush in self._sent.items() if part in kept}
        self._bytes = sum(map(len, self._calls.values()))
        self._counts = kept

    def take(self) -> list[Taken]:
        """What was counted since the last time; whatever was not asked for is let go of."""
        self._free, self._flush = FREE, self._flush + 1
        asked = {part: count for part, count in self._counts.items() if count and self._calls[part]}
        most = heapq.nlargest(SENT, asked, key=asked.__getitem__)
        taken = [Taken(part, asked[part], self._unsent(part)) for part in most]
        self._keep([part for part, count in self._counts.items() if count])
        self._counts = dict.fromkeys(self._counts, 0)
        return taken

    def _unsent(self, part: str) -> bytes:
        sent = self._sent.get(part)
        if sent is not None and self._flush - sent < FORGET:
            return b""
        self._sent[part] = self._flush
        return self._calls[part]

    def give_back(self, taken: Iterable[Taken]) -> None:
        """Count again what could not be sent."""
        for part, count, call in taken:
            if part in self._counts:
                self._counts[part] += count
                if call:
                    del self._sent[part]

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
