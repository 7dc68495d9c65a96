"""A Flow: an operation of several steps as a generator, the same for sync and async callers.

A step is a Call, a Batch, a Sleep, an Invoke or a Share. A runner executes the step and sends its result back in, or
throws its error back in, so that a Flow cleans up with an ordinary `try`/`finally` and may even yield steps there.
No Flow spans user code except through Invoke.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from typing import Any, Generic, TypeVar

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


class Share(Generic[T]):
    """Run a Flow, or join the same Flow if this process is running it already for the same key.

    All who join get the one result, or the one error; an error that concerns only the caller who ran it (a
    cancellation, a time limit) is not shared: the others go round again.
    """

    __slots__ = ("flow", "key")

    def __init__(self, key: Hashable, flow: Callable[[], Flow[T]]) -> None:
        self.key = key
        self.flow = flow

    def __iter__(self) -> Generator[Any, Any, T]:
        value: T = yield self
        return value


Step = Call[Any] | Batch | Sleep | Invoke[Any] | Share[Any]
Flow = Generator[Step, Any, T]
