"""Forgetting all entries of a function at once: a walk over the store's keys, for somebody who asks for it.

A call pays nothing for this, as it would for a generation in each key. The walk does not block the server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow

_ENTRY = (b":v", b":l")  # the values and their leases; the function's counts stay
_PAGE = 1000  # keys looked at in one step


def bust(prefixes: Iterable[str]) -> Flow[int]:
    """Delete what begins with one of `prefixes`, as `Keys.prefix` makes them; how many entries there were.

    A lease goes with its entry: what is being computed is not stored. What was there all the time is found, whatever
    else comes and goes meanwhile.
    """
    forgotten = 0
    for prefix in prefixes:
        cursor = b"0"
        while True:
            cursor, found = yield from _scan(cursor, f"{prefix}*")
            keys = [key for key in found if key.endswith(_ENTRY)]
            if keys:
                gone = yield from Batch(*[Call("cache.bust", "cache", int, args=("UNLINK", key)) for key in keys])
                forgotten += sum(one for key, one in zip(keys, gone, strict=True) if key.endswith(_ENTRY[0]))
            if cursor == b"0":
                break
    return forgotten


def _scan(cursor: bytes, pattern: str) -> Call[tuple[bytes, list[bytes]]]:
    def parse(reply: Any) -> tuple[bytes, list[bytes]]:
        return reply[0], reply[1]

    return Call("cache.scan", "cache", parse, args=("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE))
