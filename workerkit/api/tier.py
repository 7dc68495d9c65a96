"""The in-process tier of one memoized function: one store for all threads, and one for each event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from workerkit.api.engine import Engine
from workerkit.cache.fetch import Fetcher
from workerkit.cache.ledger import Ledger
from workerkit.cache.local import L1, Local, Slot
from workerkit.core.envelope import Envelope
from workerkit.io.perloop import PerLoop

if TYPE_CHECKING:
    from workerkit.io.aiolistener import AioListener

# Threads that do nothing but hits keep the listener from its turn: after some milliseconds of that they rest.
_TURN, _BREATH = 4096, 50e-6


class Tier:
    """Keeps what was read from Redis, for as long as a listener says that it is still there.

    `fetcher` and `prefix` (of the function's keys) are asked for at the first use, when the settings are known;
    `by_arguments` says that equal arguments always make the same key.
    """

    def __init__(
        self,
        engine: Engine,
        options: L1,
        fetcher: Callable[[], Fetcher[Any]],
        prefix: Callable[[], str],
        *,
        by_arguments: bool,
    ) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._prefix = prefix
        self._options = options
        self._by_arguments = by_arguments
        self.threads = self._local()
        self._followed: object = None
        self.loops: PerLoop[LoopTier] = PerLoop(self._loop)
        engine.tiers.append(self)

    def _local(self) -> Local:
        def load(body: bytes) -> Any:
            return self._fetcher().policy.codec.load(body)

        return Local(self._options, load, by_arguments=self._by_arguments)

    def _loop(self) -> LoopTier:
        listener = self._engine.aio_listeners.here()
        made = LoopTier(self._local(), listener)
        listener.follow(made.local, *self._prefixes())
        return made

    def _prefixes(self) -> tuple[str, str]:
        return self._prefix(), self._engine.tags.prefix

    def listen(self) -> None:
        """See to it that this process is told of changes; before what is read from Redis is kept."""
        listener = self._engine.listener
        if self._followed is not listener:
            self._followed = listener
            listener.follow(self.threads, *self._prefixes())
        listener.start()

    def keep(
        self,
        local: Local,
        generation: int,
        key: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        entry: Envelope,
        value: Any,
    ) -> None:
        """Keep a fresh entry that was read after `generation` was."""
        fetcher = self._fetcher()
        local.load = fetcher.policy.codec.load  # itself, now that it is known: each hit on it is a step less
        left = (fetcher.policy.windows.look_again_us(entry) - fetcher.now_us()) / 1e6
        tags = [self._engine.tags.key(part) for part, _ in entry.tags]
        until = time.monotonic() + left
        local.insert(key, args, kwargs, entry, value, until=until, generation=generation, tags=tags)

    def served(self, slot: Slot) -> Any:
        """The value of an entry, counted."""
        ledger = self._ledger
        ledger.l1 += 1
        if not ledger.l1 % _TURN:
            time.sleep(_BREATH)
        ledger.saved_us += slot.cost_us
        return slot.value if slot.load is None else slot.load(slot.value)

    def forget(self) -> None:
        """Keep nothing of what there is, and follow anew with the next use: the kit was given another store."""
        self._followed = None
        self.threads.close()
        self.loops = PerLoop(self._loop)

    @cached_property
    def _ledger(self) -> Ledger:
        return self._fetcher().ledger

    def clear(self) -> None:
        """Forget everything, without waiting to be told."""
        self.threads.clear()
        for here in self.loops.all():
            here.local.clear()

    def drop(self, key: str) -> None:
        """Forget an entry, or what is under a tag's marker, without waiting to be told."""
        self.threads.drop(key)
        for here in self.loops.all():
            here.local.drop(key)


class LoopTier:
    """What one event loop keeps, and who tells it of changes."""

    __slots__ = ("listener", "local")

    def __init__(self, local: Local, listener: AioListener) -> None:
        self.local = local
        self.listener = listener
