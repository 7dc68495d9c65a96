"""A kit on the memory: its own store is put aside for the length of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from workerkit.api.engine import Engine
from workerkit.api.kit import WorkerKit
from workerkit.io.perloop import PerLoop
from workerkit.io.server import PoolOptions
from workerkit.testing.clock import Clock, FrozenClock
from workerkit.testing.frozen import frozen
from workerkit.testing.memory.listener import MemoryAioListener, MemoryListener
from workerkit.testing.memory.server import MemoryServer
from workerkit.testing.memory.store import Store

# What an engine makes of its settings when it is first asked for.
_OF_THE_STORE = ("servers", "_clock", "runner", "aio_runner", "listener", "aio_listeners")


@contextmanager
def in_memory(kit: WorkerKit, *, clock: Clock | None = None) -> Iterator[Store]:
    """Have `kit` keep everything in a new store of this process, and not connect anywhere, within the `with` block.

    It gives the store. `clock` decides the store's time: a FrozenClock, or by default this machine's. Everything hung
    on the kit works, made before or within the block, called by threads or coroutines of this process; other processes
    do not see the store. Raises DefinitionError when `lupa` is not installed (`workerkit[testing]`).
    """
    store = Store(clock)
    store.scripts  # noqa: B018 - it complains now of a Lua that is not installed
    engine = kit.engine
    before = swap(engine, store)
    try:
        with frozen(engine, clock) if isinstance(clock, FrozenClock) else nullcontext():
            try:
                yield store
            finally:
                engine.flusher.flush()  # no count of this store reaches the other
    finally:
        put_back(engine, before)


def swap(engine: Engine, store: Store) -> dict[str, Any]:
    """Give the engine another store; answers what it had of the one before."""
    settings = engine.settings
    options = PoolOptions(settings.pool_min, settings.pool_max, settings.pool_timeout)
    server = MemoryServer(store, hooks=engine.hooks, options=options)
    return put_back(
        engine,
        {
            "servers": {"cache": server, "guard": server},
            "listener": MemoryListener(server, store),
            "aio_listeners": PerLoop(lambda: MemoryAioListener(server, store)),
        },
    )


def put_back(engine: Engine, made: dict[str, Any]) -> dict[str, Any]:
    """Replace what the engine has of its store; what its handles keep in this process is forgotten."""
    there = engine.__dict__
    before = {name: there.pop(name) for name in _OF_THE_STORE if name in there}
    there.update(made)
    for tier in engine.tiers:
        tier.forget()
    for limiter in engine.limiters.values():
        if limiter.blocks is not None:
            limiter.blocks.forget()
    return before
