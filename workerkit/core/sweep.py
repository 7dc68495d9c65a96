"""Deleting what begins with a prefix: a walk over a store's keys, for somebody who asks for it. It blocks no server."""

from __future__ import annotations

from typing import Any

from workerkit.core.call import Call, Store
from workerkit.core.flow import Batch, Flow

_PAGE = 1000  # keys looked at in one step


def sweep(store: Store, prefix: str, endings: tuple[bytes, ...] = (b"",)) -> Flow[list[bytes]]:
    """Delete the keys that begin with `prefix`, as `Keys` makes it, and have one of `endings`; those that were there.

    What was there all the time is found, whatever else comes and goes meanwhile.
    """
    swept: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, found = yield from _scan(store, cursor, f"{prefix}*")
        keys = [key for key in found if key.endswith(endings)]
        if keys:
            gone = yield from Batch(*[Call("sweep.unlink", store, bool, args=("UNLINK", key)) for key in keys])
            swept += [key for key, there in zip(keys, gone, strict=True) if there]
        if cursor == b"0":
            return swept


def _scan(store: Store, cursor: bytes, pattern: str) -> Call[tuple[bytes, list[bytes]]]:
    def parse(reply: Any) -> tuple[bytes, list[bytes]]:
        return reply[0], reply[1]

    return Call("sweep.scan", store, parse, args=("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE))
