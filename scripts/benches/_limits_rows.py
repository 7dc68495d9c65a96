"""Rows of decisions: asked for again and again, ours and a peer's in turn, and every answer is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from _hits import Goal, _shares, both_places
from _limits_subjects import AioAsk, Ask, Subject
from _pairs import Loop
from _rows import Case, Row, Run

MOST = 10_000  # decisions after which a limit that is there to refuse must do so


class Versus(NamedTuple):
    """Us beside a peer under the same rates, asked by `callers`, each with a key of its own; all decisions must be
    admissions, or, once the rate is used up, none of them."""

    name: str
    ours: Subject
    peer: Subject
    rates: tuple[str, ...]
    goal: Goal | None = None
    pinned_goal: Goal | None = None
    callers: int = 1
    admitted: bool = True

    def sync(self) -> Case:
        return Case(self.name, self.peer.name, partial(_sync_rows, self))

    def aio(self) -> Case:
        return Case(self.name, self.peer.name, partial(_aio_rows, self))


def _sync_rows(versus: Versus, run: Run) -> Iterator[Row]:
    with contextlib.ExitStack() as opened:
        asks = [opened.enter_context(side.sync(run.url, *versus.rates)) for side in (versus.ours, versus.peer)]
        threads = opened.enter_context(ThreadPoolExecutor(versus.callers))
        yield from _rows(run, versus, *(_threaded(ask, threads, versus) for ask in asks))


def _aio_rows(versus: Versus, run: Run) -> Iterator[Row]:
    with asyncio.Runner() as runner, contextlib.ExitStack() as opened:
        loops = []
        for side in (versus.ours, versus.peer):
            manager = side.aio(run.url, *versus.rates)
            ask = runner.run(manager.__aenter__())
            opened.callback(lambda each: runner.run(each.__aexit__(None, None, None)), manager)
            loops.append(_tasked(ask, runner, versus))
        yield from _rows(run, versus, *loops)


def _rows(run: Run, versus: Versus, ours: Loop, peer: Loop) -> Iterator[Row]:
    goal, pinned = versus.goal, versus.pinned_goal
    return both_places(run, versus.name, versus.peer.name, ours, peer, goal=goal, pinned_goal=pinned)


def check(allowed: int, calls: int, admitted: bool) -> None:
    """Raise ValueError unless all of the decisions were what they had to be."""
    if allowed != calls * admitted:
        raise ValueError(f"{allowed} of {calls} decisions were admissions, not {'all' if admitted else 'none'} of them")


def _threaded(ask: Ask, threads: ThreadPoolExecutor, versus: Versus) -> Loop:
    keys = _keys(versus)
    for key in () if versus.admitted else keys:
        any(not ask(key) for _ in range(MOST))

    def part(key: str, calls: int) -> None:
        check(sum(map(ask, itertools.repeat(key, calls))), calls, versus.admitted)

    def loop(calls: int) -> None:
        list(threads.map(part, keys, _shares(calls, versus.callers)))

    return partial(part, keys[0]) if versus.callers == 1 else loop


def _tasked(ask: AioAsk, runner: asyncio.Runner, versus: Versus) -> Loop:
    keys = _keys(versus)

    async def part(key: str, calls: int) -> None:
        allowed = 0
        for _ in itertools.repeat(None, calls):
            allowed += await ask(key)
        check(allowed, calls, versus.admitted)

    async def all_of(calls: int) -> None:
        await asyncio.gather(*map(part, keys, _shares(calls, versus.callers)))

    async def use_up(key: str) -> None:
        for _ in range(MOST):
            if not await ask(key):
                return

    for key in () if versus.admitted else keys:
        runner.run(use_up(key))
    return lambda calls: runner.run(part(keys[0], calls) if versus.callers == 1 else all_of(calls))


def _keys(versus: Versus) -> list[str]:
    return [f"caller {number}" for number in range(versus.callers)]
