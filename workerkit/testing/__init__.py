"""What tests need: a kit in memory, a clock that stands still, private real servers, and what injects faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workerkit.testing.clock import FrozenClock as FrozenClock
    from workerkit.testing.memory.kit import in_memory as in_memory

__all__ = ["FrozenClock", "in_memory"]

_HOMES = {"FrozenClock": "workerkit.testing.clock", "in_memory": "workerkit.testing.memory.kit"}


def __getattr__(name: str) -> Any:
    # On first use: pytest imports this package at every start, for its plugin.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workerkit.testing' has no attribute {name!r}")
