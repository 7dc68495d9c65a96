"""Forgetting all entries of a function at once; a call pays nothing for it, as for a generation in each key."""

from __future__ import annotations

from collections.abc import Iterable

from workerkit.core.flow import Flow
from workerkit.core.sweep import sweep

_VALUE, _LEASE = b":v", b":l"  # the function's counts stay


def bust(prefixes: Iterable[str]) -> Flow[int]:
    """Forget the entries whose keys begin with one of `prefixes`; how many there were.

    A lease goes with its entry: what is being computed is not stored.
    """
    forgotten = 0
    for prefix in prefixes:
        swept = yield from sweep("cache", prefix, (_VALUE, _LEASE))
        forgotten += sum(key.endswith(_VALUE) for key in swept)
    return forgotten
