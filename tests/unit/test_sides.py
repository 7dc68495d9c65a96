"""`.aio` has the verbs of the sync side, with the same arguments and results."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from workerkit.api.cache import AioCache, Cache
from workerkit.api.limiter import AioLimiter, Limiter
from workerkit.api.memo import AioMemo, Memo
from workerkit.api.parked import AioParkedTasks, ParkedTasks
from workerkit.limits.lease import Slot

MEMO = {"key", "tags", "entry", "peek", "set", "invalidate", "bust", "refresh", "explain", "stats"}
MEMO |= {"delay", "apply_async"}
CACHE = {"get", "get_many", "set", "set_many", "get_or_compute", "delete", "invalidate", "stats"}
ASK = {"try_acquire", "slot", "reserve", "cancel"}
LIMITER = ASK | {"peek", "usage", "labelled", "busiest", "waiting", "stats", "reset", "pause", "configure", "learn"}
WAITLIST = {"count", "lines", "tasks", "explain", "move", "cancel", "restore", "drain"}
NO_COROUTINES = {"tags", "key", "slot"}  # they do no I/O themselves


@pytest.mark.parametrize(
    ("sync", "aio", "verbs"),
    [
        (Memo, AioMemo, MEMO),
        (Cache, AioCache, CACHE),
        (Limiter, AioLimiter, LIMITER),
        (ParkedTasks, AioParkedTasks, WAITLIST),
    ],
)
def test_both_sides_have_the_same_verbs(sync: type, aio: type, verbs: set[str]) -> None:
    assert {name for name in vars(aio) if not name.startswith("_")} == verbs
    for name in verbs:
        ours, theirs = (inspect.signature(getattr(side, name)) for side in (sync, aio))
        if name != "get_or_compute":  # whose async side also takes coroutine functions
            assert ours.parameters == theirs.parameters, name
            assert ours.return_annotation == theirs.return_annotation.removeprefix("Aio"), name
        assert list(ours.parameters) == list(theirs.parameters), name
        assert inspect.iscoroutinefunction(getattr(aio, name)) == (name not in NO_COROUTINES), name
        assert getattr(aio, name).__doc__, name


def test_every_verb_says_what_it_does() -> None:
    handles: list[Any] = [Memo, Cache, Limiter, Slot, ParkedTasks]
    silent = [
        f"{handle.__name__}.{name}"
        for handle in handles
        for name, verb in vars(handle).items()
        if not name.startswith("_") and inspect.isfunction(verb) and not verb.__doc__
        if not inspect.isgeneratorfunction(verb)  # what both sides share
    ]
    assert silent == []
