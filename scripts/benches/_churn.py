"""Callers who go on asking for one key that keeps expiring, in one of the ways of keeping it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from _stampede import Seen, Span
from _subjects import need

TTL = 2.0  # seconds that a value is fresh
COST = 0.25  # seconds that a computation takes; it waits, as for an API
THREADS = 16
PAUSE = 0.02  # seconds from a caller's answer to its next call
Ask = Callable[[list[Span]], Any]


def churn(way: Callable[[str], Ask], url: str, at: float, until: float) -> Seen:
    """In one process: THREADS callers between two moments of the clock that all processes share."""
    ask, seen = way(url), Seen([], [])

    def caller() -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        while (began := time.monotonic()) < until:
            ask(seen.computations)
            seen.calls.append((began, time.monotonic()))
            time.sleep(PAUSE)

    threads = [threading.Thread(target=caller) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


@functools.cache
def plain(url: str) -> Ask:
    """GET; without a value, compute and SET."""
    client = need("redis").Redis.from_url(url)

    def ask(computations: list[Span]) -> Any:
        found = client.get("plain")
        if found is None:
            found = _compute(computations)
            client.set("plain", found, px=int(TTL * 1000))
        return found

    return ask


@functools.cache
def leases(url: str) -> Ask:
    return _memoized(url, early=0)


@functools.cache
def early(url: str) -> Ask:
    return _memoized(url, early=1)


@functools.cache
def stale(url: str) -> Ask:
    return _memoized(url, early=0, stale=TTL)


def _memoized(url: str, **options: Any) -> Ask:
    from workerkit import WorkerKit

    kit = WorkerKit(url=url)

    @kit.memoize(TTL, key="the one", **options)
    def ask(computations: list[Span]) -> str:
        return _compute(computations)

    return ask


def _compute(computations: list[Span]) -> str:
    began = time.monotonic()
    time.sleep(COST)
    computations.append((began, time.monotonic()))
    return "value"
