"""The same limit, by us and by each peer: context managers that yield what asks for one admission and says yes or no.

All are as each library comes, by redis-py where it is not ours. A rate is written so that all of them read it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import redis
import redis.asyncio
from _subjects import need

from workerkit import WorkerKit
from workerkit.api.limiter import Limiter

Options = Mapping[str, Any]
Ask = Callable[[str], bool]  # whether one call under this key may be made
AioAsk = Callable[[str], Awaitable[bool]]
NEVER = 2**53  # the moment, in microseconds since 1970, after which a script of ours would refuse to run
# The peers open as many connections as there are callers, and wait for as long as a full server takes to be emptied.
KIT: dict[str, Any] = {"pool_max": 64, "timeout": 30.0}
OWNER = "bench"
HERE = Path(__file__).resolve().parent


class Subject(NamedTuple):
    """Who limits: `sync` and `aio` are opened with a server's address and the rates; `same`: whether it promises what
    ours does, so that the row's goal is meant."""

    name: str
    sync: Callable[..., AbstractContextManager[Ask]]
    aio: Callable[..., AbstractAsyncContextManager[AioAsk]]
    same: bool = True


def ours(**options: Any) -> Subject:
    """`try_acquire` of a limiter with these options; where there is a cap, a decision that takes a lease as well."""
    return Subject("workerkit", functools.partial(_ours, options), functools.partial(_aio_ours, options))


def slots(**options: Any) -> Subject:
    """Enters a slot and leaves it."""
    return Subject("workerkit", functools.partial(_slots, options), functools.partial(_aio_slots, options))


def script(**options: Any) -> Subject:
    """The same Lua with the same arguments, which cost nothing here, and nothing done with the reply."""
    sync, aio = functools.partial(_script, options), functools.partial(_aio_script, options)
    return Subject("redis-py Script, same Lua", sync, aio)


def limits(strategy: str, *, note: str = "") -> Subject:
    """Asked once for each rate."""
    sync, aio = functools.partial(_limits, strategy), functools.partial(_aio_limits, strategy)
    return Subject(f"limits {strategy}{note}", sync, aio, same=not note)


def throttled(using: str, *, note: str = "") -> Subject:
    """One rate only."""
    sync, aio = functools.partial(_throttled, using), functools.partial(_aio_throttled, using)
    return Subject(f"throttled-py {using}{note}", sync, aio, same=not note)


def library() -> Any:
    """The library `limits`; Python would find the bench beside this file, which has the same name."""
    bench, path = sys.modules.get("limits"), list(sys.path)
    if hasattr(bench, "CASES"):
        del sys.modules["limits"]
    sys.path[:] = [each for each in path if Path(each).resolve() != HERE]
    try:
        return need("limits")
    finally:
        sys.path[:] = path
        if bench:
            sys.modules["limits"] = bench


def call(limiter: Limiter, key: str) -> Any:
    """The Call of one decision: to be held where there is a cap."""
    policy, part, ones = limiter.policy, limiter.part(key), limiter.definition.ones
    if limiter.definition.concurrency:
        return policy.request(limiter.keys, part, ones, OWNER)
    return policy.acquire(limiter.keys, part, ones)


@contextlib.contextmanager
def _ours(options: Options, url: str, *rates: str) -> Iterator[Ask]:
    with WorkerKit(url=url, **KIT) as kit:
        limiter, runner = kit.limiter("bench", *rates, **options), kit.engine.runner
        if limiter.definition.concurrency:
            yield lambda key: runner.call(call(limiter, key)).decision.allowed
        else:
            yield lambda key: limiter.try_acquire(key).allowed


@contextlib.asynccontextmanager
async def _aio_ours(options: Options, url: str, *rates: str) -> AsyncIterator[AioAsk]:
    async with WorkerKit(url=url, **KIT) as kit:
        limiter, runner = kit.limiter("bench", *rates, **options), kit.engine.aio_runner

        async def ask(key: str) -> bool:
            return (await limiter.aio.try_acquire(key)).allowed

        async def hold(key: str) -> bool:
            allowed: bool = (await runner.call(call(limiter, key))).decision.allowed
            return allowed

        yield hold if limiter.definition.concurrency else ask


@contextlib.contextmanager
def _slots(options: Options, url: str, *rates: str) -> Iterator[Ask]:
    with WorkerKit(url=url, **KIT) as kit:
        limiter = kit.limiter("bench", *rates, **options)

        def ask(key: str) -> bool:
            with limiter.slot(key) as slot:
                return slot.decision.allowed

        yield ask


@contextlib.asynccontextmanager
async def _aio_slots(options: Options, url: str, *rates: str) -> AsyncIterator[AioAsk]:
    async with WorkerKit(url=url, **KIT) as kit:
        limiter = kit.limiter("bench", *rates, **options)

        async def ask(key: str) -> bool:
            async with limiter.aio.slot(key) as slot:
                return slot.decision.allowed

        yield ask


@contextlib.contextmanager
def _words(options: Options, url: str, *rates: str) -> Iterator[tuple[str, Callable[[str], Any]]]:
    """The source of our script, and its keys and arguments for a key."""
    with WorkerKit(url=url, **KIT) as kit:
        limiter = kit.limiter("script", *rates, **options)

        @functools.cache
        def words(key: str) -> Any:
            found = call(limiter, key)
            return found.keys, (NEVER, *found.args)

        yield call(limiter, "").script.source, words


@contextlib.contextmanager
def _script(options: Options, url: str, *rates: str) -> Iterator[Ask]:
    with redis.Redis.from_url(url) as client, _words(options, url, *rates) as (source, words):
        run = client.register_script(source)

        def ask(key: str) -> bool:
            keys, args = words(key)
            return bool(run(keys, args)[0])

        yield ask


@contextlib.asynccontextmanager
async def _aio_script(options: Options, url: str, *rates: str) -> AsyncIterator[AioAsk]:
    async with redis.asyncio.Redis.from_url(url) as client:
        with _words(options, url, *rates) as (source, words):
            run = client.register_script(source)

            async def ask(key: str) -> bool:
                keys, args = words(key)
                return bool((await run(keys, args))[0])

            yield ask


@contextlib.contextmanager
def _limits(strategy: str, url: str, *rates: str) -> Iterator[Ask]:
    peer = library()
    storage = peer.storage.RedisStorage(url)
    limiter = peer.strategies.STRATEGIES[strategy](storage)
    first, *others = map(peer.parse, rates)

    def ask(key: str) -> bool:
        return limiter.hit(first, key) and all(limiter.hit(item, key) for item in others)

    yield ask if others else lambda key: limiter.hit(first, key)
    storage.storage.close()


@contextlib.asynccontextmanager
async def _aio_limits(strategy: str, url: str, *rates: str) -> AsyncIterator[AioAsk]:
    peer = library()
    storage = peer.aio.storage.RedisStorage(f"async+{url}", implementation="redispy")
    limiter = peer.aio.strategies.STRATEGIES[strategy](storage)
    first, *others = map(peer.parse, rates)

    async def ask(key: str) -> bool:
        for item in (first, *others):
            if not await limiter.hit(item, key):
                return False
        return True

    yield ask if others else lambda key: limiter.hit(first, key)
    await storage.bridge.storage.aclose()


@contextlib.contextmanager
def _throttled(using: str, url: str, rate: str) -> Iterator[Ask]:
    peer = need("throttled")
    backend = peer.RedisStore(server=url, options={"REUSE_CONNECTION": False})
    limiter = peer.Throttled(using=using, quota=rate, store=backend)
    yield lambda key: not limiter.limit(key).limited
    backend._backend.get_client().close()  # noqa: SLF001 - there is no other way to close it


@contextlib.asynccontextmanager
async def _aio_throttled(using: str, url: str, rate: str) -> AsyncIterator[AioAsk]:
    peer = need("throttled.asyncio")
    backend = peer.RedisStore(server=url, options={"REUSE_CONNECTION": False})
    limiter = peer.Throttled(using=using, quota=rate, store=backend)

    async def ask(key: str) -> bool:
        return not (await limiter.limit(key)).limited

    yield ask
    await backend._backend.get_client().aclose()  # noqa: SLF001 - as above
