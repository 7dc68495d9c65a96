"""Rows of hits: the same function called again and again, ours and a peer's in turn."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

from _pairs import Loop, pairs, summary
from _place import placed
from _rows import Row, Run, Skip
from _subjects import TEXT, VALUE, AioFunction, Function

Opened = AbstractContextManager[Function]
AioOpened = AbstractAsyncContextManager[AioFunction]
Goal = Mapping[str, float]


def sync_rows(
    run: Run,
    name: str,
    peer_name: str,
    ours: Opened,
    peer: Opened,
    *,
    goal: Goal | None = None,
    pinned_goal: Goal | None = None,
    callers: int = 1,
) -> Iterator[Row]:
    """Two rows, unpinned and pinned, of sync functions called by `callers` threads at once."""
    with ours as mine, peer as theirs, ThreadPoolExecutor(callers) as threads:
        for function, key in itertools.product((mine, theirs), range(callers)):
            function(key)
            _check(function(key))
        loops = [_threaded(function, threads, callers) for function in (mine, theirs)]
        yield from both_places(run, name, peer_name, *loops, goal=goal, pinned_goal=pinned_goal)


def aio_rows(
    run: Run,
    name: str,
    peer_name: str,
    ours: AioOpened,
    peer: AioOpened,
    *,
    goal: Goal | None = None,
    callers: int = 1,
) -> Iterator[Row]:
    """Two rows of coroutine functions, awaited by `callers` tasks of one loop."""
    with asyncio.Runner() as runner, contextlib.ExitStack() as opened:
        loops = []
        for subject in (ours, peer):
            function = runner.run(subject.__aenter__())
            opened.callback(lambda each: runner.run(each.__aexit__(None, None, None)), subject)
            for key in range(callers):
                runner.run(_called(function, key, 1))
                _check(runner.run(_awaited(function, key)))
            loops.append(_tasked(function, runner, callers))
        yield from both_places(run, name, peer_name, *loops, goal=goal, pinned_goal=goal)


def both_places(
    run: Run, name: str, peer_name: str, ours: Loop, peer: Loop, *, goal: Goal | None, pinned_goal: Goal | None
) -> Iterator[Row]:
    """The two loops compared as the scheduler places them, then on one core with the server."""
    for pinned in (False, True):
        try:
            with placed(run.server.pid, pinned=pinned):
                found = pairs(ours, peer, rounds=run.rounds, seconds=run.slice)
        except Skip:
            return  # the first row stands: elsewhere than on Linux nothing is pinned
        wanted = (pinned_goal if pinned else goal) or {}
        yield Row(name, "us", peer_name=peer_name, pinned=pinned, goal=wanted, **summary(found, scale=1e6))


def _check(value: Any) -> None:
    if value not in (VALUE, TEXT):
        raise ValueError(f"a hit answered {value!r}")


def _threaded(function: Function, threads: ThreadPoolExecutor, callers: int) -> Loop:
    def part(key: int, calls: int) -> None:
        for _ in itertools.repeat(None, calls):
            function(key)

    def loop(calls: int) -> None:
        list(threads.map(part, range(callers), _shares(calls, callers)))

    return functools.partial(part, 0) if callers == 1 else loop


def _tasked(function: AioFunction, runner: asyncio.Runner, callers: int) -> Loop:
    async def all_of(calls: int) -> None:
        shares = enumerate(_shares(calls, callers))
        await asyncio.gather(*(_called(function, key, share) for key, share in shares))

    def alone(calls: int) -> None:
        runner.run(_called(function, 0, calls))

    return alone if callers == 1 else lambda calls: runner.run(all_of(calls))


def _shares(calls: int, callers: int) -> list[int]:
    """How many of the calls each caller makes; each has a key of its own, since some share what is in flight."""
    return [calls // callers + (number < calls % callers) for number in range(callers)]


async def _called(function: AioFunction, key: int, calls: int) -> None:
    for _ in itertools.repeat(None, calls):
        await function(key)


async def _awaited(function: AioFunction, key: int) -> Any:
    return await function(key)
