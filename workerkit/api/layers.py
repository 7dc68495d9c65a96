"""The one stacking order of the decorators: `kit.task > memoize > throttle > job > def`, outermost first.

A memoized hit spends no tokens, and a job's record belongs to the execution that a throttle has admitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workerkit.errors import DefinitionError

ORDER = ("memoize", "throttle", "job")
_MARK = "__workerkit_layers__"
# What a throttle leaves on its wrapper for the layers outside of it: a parked task that has come back must be let in
# (and its ticket taken off the list) even when a memoized hit then answers it.
RETURNING = "__workerkit_returning__"
# And its gate, for who wants to know what a call asks of which limiter.
GATE = "__workerkit_gate__"
# What a job leaves on its wrapper: a memoized hit runs no job, and ends the record of its task by it.
CLOSING = "__workerkit_closing__"
# And the model of its data, for who looks at a record from outside.
MODEL = "__workerkit_model__"


def layers(fn: Callable[..., Any]) -> tuple[str, ...]:
    """The kit's decorators on `fn`, outermost first."""
    found: tuple[str, ...] = getattr(fn, _MARK, ())
    return found


def check(fn: Callable[..., Any], layer: str) -> None:
    """Refuse `layer` on `fn` unless it belongs outside of all that is there.

    Raises DefinitionError, which prints the right lines.
    """
    if hasattr(fn, "delay") and hasattr(fn, "apply_async"):
        raise DefinitionError(f"@kit.{layer} stands above @kit.task; write\n{_right((layer,))}")
    there = layers(fn)
    if there and ORDER.index(layer) >= ORDER.index(there[0]):
        if layer in there:
            raise DefinitionError(f"@kit.{layer} stands twice on {fn.__qualname__}; one is enough")
        raise DefinitionError(
            f"@kit.{layer} stands above @kit.{there[0]} on {fn.__qualname__}; write\n{_right((layer, *there))}"
        )


def mark(wrapper: Callable[..., Any], fn: Callable[..., Any], layer: str) -> None:
    """Note on `wrapper` that it is `layer` around `fn`."""
    setattr(wrapper, _MARK, (layer, *layers(fn)))


def _right(names: tuple[str, ...]) -> str:
    lines = ["@kit.task", *(f"@kit.{name}(...)" for name in ORDER if name in names), "def ..."]
    return "\n".join(f"    {line}" for line in lines)
