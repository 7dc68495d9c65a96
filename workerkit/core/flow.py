"""A Flow: an operation of several steps as a generator, the same for sync and async callers.

A step is a Call, a Batch, a Sleep, an Invoke, a Share or a Seal. A runner executes the step and sends its result back
in, or throws its error back in, so that a Flow cleans up with an ordinary `try`/`finally` and may even yield steps
there. No Flow spans user code except through Invoke.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from workerkit.core.call import Call

T = TypeVar("T")


class Batch:
    """Several Calls in one pipeline, not atomic together; all Calls of one store.

    Answers the list of results. When some failed, the first error is raised after every reply was read.
    """

    __slots__ = ("calls",)

    def __init__(self, *calls: Call[Any]) -> None:
        self.calls = calls

    def __iter__(self) -> Generator[Any, Any, list[Any]]:
        values: list[Any] = yield self
        return values


class Sleep:
    """Wait for some seconds, interruptibly."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __iter__(self) -> Generator[Any, Any, None]:
        yield self


class Invoke(Generic[T]):
    """Call the user's function, and await what it returns where the caller is async."""

    __slots__ = ("args", "fn", "kwargs")

    def __init__(
        self, fn: Callable[..., T], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or {}

    def __iter__(self) -> Generator[Any, Any, T]:
        value: T = yield self
        return value


class Own(NamedTuple):
    """What a shared Flow returns when its `value` is for the caller who ran it, and not for those who joined."""

    value: Any


def result_of(result: T | Own) -> T:
    """What the caller who ran a shared Flow gets of its `result`."""
    if isinstance(result, Own):
        own: T = result.value
        return own
    return result


class Share(Generic[T]):
    """Run a Flow, or join the same Flow if this process is running it already for the same key.

    All who join get the one result, or the one error; an error that concerns only the caller who ran it (a
    cancellation, a time limit) is not shared, nor is a result that the Flow returns as `Own`: the others go round
    again.
    """

    __slots__ = ("flow", "key")

    def __init__(self, key: Hashable, flow: Callable[[], Flow[T | Own]]) -> None:
        self.key = key
        self.flow = flow

    def __iter__(self) -> Generator[Any, Any, T]:
        value: T = yield self
        return value


class Seal:
    """From now on nobody joins the shared Flow of this key; who has joined it still gets its result."""

    __slots__ = ("key",)

    def __init__(self, key: Hashable) -> None:
        self.key = key

    def __iter__(self) -> Generator[Any, Any, None]:
        yield self


Step = Call[Any] | Batch | Sleep | Invoke[Any] | Share[Any] | Seal
Flow = Generator[Step, Any, T]
