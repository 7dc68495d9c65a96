"""A stampede: callers in several processes who ask for the same cold key at the same moment."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from statistics import median, quantiles
from typing import Any, NamedTuple

from _crew import Crew
from _rows import Row, Run
from _subjects import VALUE, need

PROCESSES = 4
COST = 0.3  # seconds that the computation takes; it waits, as for an API
TTL = 60
Span = tuple[float, float]


class Seen(NamedTuple):
    """What one process saw, by the clock that all processes share: its callers' calls, its computations."""

    calls: list[Span]
    computations: list[Span]


class Stampede(NamedTuple):
    """What came of one. The added wait of a caller is its latency less what the computation still needed."""

    computations: int
    added: list[float]


def stampede(crew: Crew, subject: Any, url: str, key: str, callers: int) -> Stampede:
    """`callers` callers, shared out among the crew, ask `subject` for `key` half a second from now."""
    at = time.monotonic() + 0.5
    seen = crew.do(_join, subject, url, key, callers // PROCESSES, at)
    done = min(end for process in seen for _, end in process.computations)
    added = [end - max(began, done) for process in seen for began, end in process.calls]
    return Stampede(sum(len(process.computations) for process in seen), added)


def stampede_rows(
    run: Run, name: str, ours: Any, peers: Mapping[str, Any], goals: Mapping[str, Mapping[str, float]]
) -> Iterator[Row]:
    """One row a peer: added wait in the median, ours and theirs in turn, after one round that opens connections."""
    rounds, callers = (1, 100) if run.quick else (3, 1000)
    found: list[list[Stampede]] = []
    with Crew(PROCESSES) as crew:
        for number in range(rounds + 1):
            key = f"{name}:{number}"
            found.append([stampede(crew, subject, run.url, key, callers) for subject in (ours, *peers.values())])
    mine, *others = (list(side) for side in zip(*found[1:], strict=True))
    for peer_name, theirs in zip(peers, others, strict=True):
        yield _row(name, peer_name, mine, theirs, goals.get(peer_name, {}), callers)


def _row(
    name: str, peer_name: str, mine: list[Stampede], theirs: list[Stampede], goal: Mapping[str, float], callers: int
) -> Row:
    ratios = [median(a.added) / median(b.added) for a, b in zip(mine, theirs, strict=True)]
    waits, tails, counts = (
        [summary(side) for side in (mine, theirs)]
        for summary in (
            lambda side: median(median(each.added) for each in side) * 1e3,
            lambda side: median(quantiles(each.added, n=100)[98] for each in side) * 1e3,
            lambda side: max(each.computations for each in side),
        )
    )
    extra = {"callers": callers, "computations": counts[0], "peer_computations": counts[1]}
    extra |= {"ours_p99": tails[0], "peer_p99": tails[1]}
    least, most = min(ratios), max(ratios)
    return Row(name, "ms", *waits, peer_name, median(ratios), least, most, len(ratios), goal=goal, extra=extra)


def _join(subject: Callable[[str, Callable[[], Any]], Any], url: str, key: str, callers: int, at: float) -> Seen:
    """In a process of the crew: so many callers at that moment."""
    computations: list[Span] = []
    return Seen(subject(url)(key, callers, at, computations), computations)


Calls = Callable[[str, int, float, list[Span]], list[Span]]


def _in_threads(call: Callable[[str, list[Span]], Any]) -> Calls:
    def all_of(key: str, callers: int, at: float, computations: list[Span]) -> list[Span]:
        calls: list[Span] = []

        def one() -> None:
            time.sleep(max(0.0, at - time.monotonic()))
            began = time.monotonic()
            _check(call(key, computations))
            calls.append((began, time.monotonic()))

        threads = [threading.Thread(target=one) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _complete(calls, callers)

    return all_of


def _in_tasks(call: Callable[[str, list[Span]], Awaitable[Any]], runner: asyncio.Runner) -> Calls:
    async def one(key: str, at: float, computations: list[Span]) -> Span:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        began = time.monotonic()
        _check(await call(key, computations))
        return began, time.monotonic()

    async def gathered(key: str, callers: int, at: float, computations: list[Span]) -> list[Span]:
        return await asyncio.gather(*(one(key, at, computations) for _ in range(callers)))

    return lambda *args: runner.run(gathered(*args))


def _complete(calls: list[Span], callers: int) -> list[Span]:
    if len(calls) < callers:
        raise RuntimeError(f"{callers - len(calls)} of {callers} callers failed")
    return calls


def _check(value: Any) -> None:
    if value != VALUE:
        raise ValueError(f"a caller got {value!r}")


def _compute(computations: list[Span]) -> Any:
    began = time.monotonic()
    time.sleep(COST)
    computations.append((began, time.monotonic()))
    return VALUE


async def _aio_compute(computations: list[Span]) -> Any:
    began = time.monotonic()
    await asyncio.sleep(COST)
    computations.append((began, time.monotonic()))
    return VALUE


def woken(url: str) -> Calls:
    """No cache at all: in each process everybody waits for a lock of their own, all let go when the time is over."""

    def all_of(key: str, callers: int, at: float, computations: list[Span]) -> list[Span]:
        latches = [threading.Lock() for _ in range(callers)]
        waiting = iter(latches)
        for latch in latches:
            latch.acquire()

        def let_go() -> None:
            time.sleep(max(0.0, at + COST - time.monotonic()))
            computations.append((at, time.monotonic()))
            for latch in latches:
                latch.release()

        def wait(key: str, computations: list[Span]) -> Any:
            next(waiting).acquire()
            return VALUE

        threading.Thread(target=let_go).start()
        return _in_threads(wait)(key, callers, at, [])

    return all_of


@functools.cache
def workerkit(url: str) -> Calls:
    from workerkit import WorkerKit

    kit = WorkerKit(url=url)

    @kit.memoize(TTL, ignore=["computations"])
    def value(key: str, computations: list[Span]) -> dict[str, Any]:
        return _compute(computations)  # type: ignore[no-any-return]  # VALUE

    return _in_threads(value)


@functools.cache
def workerkit_aio(url: str) -> Calls:
    from workerkit import WorkerKit

    kit = WorkerKit(url=url)

    @kit.memoize(TTL, ignore=["computations"])
    async def value(key: str, computations: list[Span]) -> dict[str, Any]:
        return await _aio_compute(computations)  # type: ignore[no-any-return]  # as above

    return _in_tasks(value, asyncio.Runner())


@functools.cache
def dogpile(url: str) -> Calls:
    """With its lock in Redis; its pool takes every thread, because redis-py's stops at 100 connections."""
    region = need("dogpile.cache").make_region(
        serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
    )
    region.configure(
        "dogpile.cache.redis",
        expiration_time=TTL,
        arguments={
            "url": url,
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": TTL,
            "connection_kwargs": {"max_connections": 1000},
        },
    )
    return _in_threads(lambda key, computations: region.get_or_create(key, lambda: _compute(computations)))


@functools.cache
def cashews(url: str) -> Calls:
    """With its lock: `lock=True`."""
    cache = need("cashews").Cache()
    cache.setup(url, pickle_type="json")
    current: dict[str, list[Span]] = {}  # a key takes the arguments it names, and cashews formats all of them

    @cache(ttl=TTL, key="value:{key}", lock=True)  # type: ignore[untyped-decorator]  # loaded by name
    async def value(key: str) -> Any:
        return await _aio_compute(current[key])

    def call(key: str, computations: list[Span]) -> Awaitable[Any]:
        current[key] = computations
        return value(key)  # type: ignore[no-any-return]  # as above

    return _in_tasks(call, asyncio.Runner())
