"""`kit.memoize`: a function whose results are kept in Redis and computed once for all processes."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from workerkit.api import layers
from workerkit.api.engine import Engine
from workerkit.api.function import Function
from workerkit.api.memo import Memo
from workerkit.api.options import Options
from workerkit.api.places import Place
from workerkit.api.tier import Tier
from workerkit.cache.computation import MISSING
from workerkit.cache.local import Slot
from workerkit.core.envelope import Envelope
from workerkit.errors import StoreError

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
V = TypeVar("V")


class Memoized(Protocol[P, R_co, V]):
    """A memoized function: called as before, with `.memo` beside it. A call gives `R_co`; `V` is cached."""

    __name__: str
    __qualname__: str

    @property
    def memo(self) -> Memo[P, V]: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Memoize(Protocol):
    """What `kit.memoize(...)` answers. (Not Coroutine[Any, Any, V]: an Any keeps mypy from choosing an overload.)"""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, V]]) -> Memoized[P, Coroutine[None, None, V], V]: ...
    @overload
    def __call__(self, fn: Callable[P, V]) -> Memoized[P, V, V]: ...


def memoize(engine: Engine, options: Options) -> Memoize:
    """The decorator behind `kit.memoize`."""

    def decorate(fn: Callable[..., Any]) -> Any:
        layers.check(fn, "memoize")
        function: Function[Any] = Function(engine, fn, options)
        if function.is_async:
            wrapper = _aio_around(function, _aio_wrapper(function))
        else:
            wrapper = _around(function, _sync_wrapper(function))
        functools.update_wrapper(wrapper, fn)
        wrapper.__signature__ = inspect.signature(fn)  # functools.wraps alone costs Celery its argument check
        wrapper.memo = engine.memos[function.shown] = Memo[..., Any](function)
        function.wrapper = wrapper
        layers.mark(wrapper, fn, "memoize")
        return wrapper

    return decorate


def _reader(function: Function[Any]) -> Callable[..., Any]:
    """How one call is answered from Redis: the value, and the entry that it is a fresh hit of."""
    engine, flusher = function.engine, function.engine.flusher

    def read(place: Place, args: Any, kwargs: Any) -> tuple[Any, Envelope | None]:
        fetcher = function.fetcher
        if not flusher.running:
            flusher.start()
        if function.note is not None:
            function.note(place.key.value, args, kwargs)
        try:
            found = engine.runner.call(place.read)
        except StoreError as error:
            work = function.work_at(place.key, place.tags, args, kwargs, aio=False)
            return engine.runner.run(fetcher.unread(work, error)).value, None
        value = fetcher.hit(found)
        if value is not MISSING:
            return value, found.envelope
        answer = engine.runner.run(
            fetcher.fetch(function.work_at(place.key, place.tags, args, kwargs, aio=False), found)
        )
        return answer.value, answer.envelope if answer.source == "hit" else None

    return read


def _sync_wrapper(function: Function[Any]) -> Any:
    tier, read = function.tier, _reader(function)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return read(function.locate(args, kwargs), args, kwargs)[0]

    if tier is None:
        return wrapper
    local, takes_self, served = tier.threads, function.takes_self, _server(function, tier)

    def keeping(*args: Any, **kwargs: Any) -> Any:
        own = function.own(args) if takes_self else args
        slot = local.find(own, kwargs)
        if slot is not None:
            return served(slot, args, kwargs)
        place = function.locate(args, kwargs)
        slot = local.find_key(place.key.value, own, kwargs)
        if slot is not None:
            return served(slot, args, kwargs)
        tier.listen()
        generation = local.generation
        value, entry = read(place, args, kwargs)
        if entry is not None:
            tier.keep(local, generation, place.key.value, own, kwargs, entry, value)
        return value

    return keeping


def _server(function: Function[Any], tier: Tier) -> Callable[..., Any]:
    """How one call is answered from the process's memory."""

    def served(slot: Slot, args: Any, kwargs: Any) -> Any:
        if function.note is not None:
            function.note(slot.key, args, kwargs)
        return tier.served(slot)

    return served


def _aio_reader(function: Function[Any]) -> Callable[..., Any]:
    """How one call is answered from Redis: the value, and the entry that it is a fresh hit of."""
    engine = function.engine

    async def read(place: Place, args: Any, kwargs: Any) -> tuple[Any, Envelope | None]:
        fetcher, runner = function.fetcher, engine.aio_runner
        engine.flusher.aio_started()
        if function.note is not None:
            function.note(place.key.value, args, kwargs)
        try:
            found = await runner.call(place.read)
        except StoreError as error:
            work = function.work_at(place.key, place.tags, args, kwargs, aio=True)
            return (await runner.run(fetcher.unread(work, error))).value, None
        value = fetcher.hit(found)
        if value is not MISSING:
            return value, found.envelope
        work = function.work_at(place.key, place.tags, args, kwargs, aio=True)
        answer = await runner.run(fetcher.fetch(work, found))
        return answer.value, answer.envelope if answer.source == "hit" else None

    return read


def _aio_wrapper(function: Function[Any]) -> Any:
    tier, read = function.tier, _aio_reader(function)

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return (await read(function.locate(args, kwargs), args, kwargs))[0]

    if tier is None:
        return wrapper
    served = _server(function, tier)

    async def keeping(*args: Any, **kwargs: Any) -> Any:
        here = tier.loops.here()
        if time.monotonic() >= here.listener.breath:
            await here.listener.breathe()
        local, own = here.local, function.own(args)
        slot = local.find(own, kwargs)
        if slot is not None:
            return served(slot, args, kwargs)
        place = function.locate(args, kwargs)
        slot = local.find_key(place.key.value, own, kwargs)
        if slot is not None:
            return served(slot, args, kwargs)
        here.listener.start()
        generation = local.generation
        value, entry = await read(place, args, kwargs)
        if entry is not None:
            tier.keep(local, generation, place.key.value, own, kwargs, entry, value)
        return value

    return keeping


def _around(function: Function[Any], call: Callable[..., Any]) -> Any:
    """`call`, with what some functions need before and after it; as it is for the others."""
    if not function.has_surroundings:
        return call
    run = function.run

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if function.returning is not None:
            run(function.returning())
        seen = function.refreshing()
        if seen is not None:
            return run(function.refreshed(seen, args, kwargs, aio=False))
        value = call(*args, **kwargs)
        if function.closing is not None:
            run(function.closed(args, kwargs))
        return value

    return wrapper


def _aio_around(function: Function[Any], call: Callable[..., Any]) -> Any:
    if not function.has_surroundings:
        return call
    run = function.aio_run

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if function.returning is not None:
            await run(function.returning())
        seen = function.refreshing()
        if seen is not None:
            return await run(function.refreshed(seen, args, kwargs, aio=True))
        value = await call(*args, **kwargs)
        if function.closing is not None:
            await run(function.closed(args, kwargs))
        return value

    return wrapper
