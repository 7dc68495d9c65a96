"""Which memoized functions are being computed here and now: what `memo.current` and a throttle underneath ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from workerkit.cache.computation import Computation

# A context variable can only be global. Innermost last: a memoized function may call another, or itself.
_RUNNING: ContextVar[tuple[tuple[Callable[..., Any], Computation[Any]], ...]] = ContextVar(
    "workerkit_computing", default=()
)


@contextmanager
def computing(fn: Callable[..., Any], computation: Computation[Any]) -> Iterator[None]:
    """While `fn` computes."""
    token = _RUNNING.set((*_RUNNING.get(), (fn, computation)))
    try:
        yield
    finally:
        _RUNNING.reset(token)


def current(fn: Callable[..., Any]) -> Computation[Any] | None:
    """The innermost computation of `fn` on this thread, or in this task of the event loop."""
    return next((computation for running, computation in reversed(_RUNNING.get()) if running is fn), None)
