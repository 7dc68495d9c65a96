"""What belongs to one event loop: made anew for each, and let go of with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One T for each event loop, made at its first use there."""

    __slots__ = ("_by_loop", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._by_loop: dict[asyncio.AbstractEventLoop, T] = {}

    def here(self) -> T:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        try:
            return self._by_loop[loop]
        except KeyError:
            # What it made holds on to its loop: neither would ever go by itself.
            self._by_loop = {each: made for each, made in self._by_loop.items() if not each.is_closed()}
            return self._by_loop.setdefault(loop, self._make())

    def all(self) -> list[T]:
        """Those of all loops."""
        return list(self._by_loop.values())
