"""What `kit.task` gives, as type checkers see it; at run time these are Celery's tasks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from workerkit.api.memo import Memo
from workerkit.api.memoize import Memoized

if TYPE_CHECKING:
    from celery import Task
    from celery.canvas import Signature
    from celery.result import AsyncResult

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
R_co = TypeVar("R_co", covariant=True)


class KitTask(Protocol[P, R_co]):
    """A Celery task of a function with parameters P and result R."""

    name: str
    max_retries: int | None
    acks_late: bool

    @property
    def request(self) -> Any: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function here and now."""

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R_co]:
        """Send a message with these arguments."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R_co]:
        """Send a message, with Celery's options."""

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the task here and now, as a worker would."""

    def s(self, *args: Any, **kwargs: Any) -> Signature[R_co]:
        """A signature for the canvas."""

    def si(self, *args: Any, **kwargs: Any) -> Signature[R_co]:
        """An immutable signature for the canvas."""


class MemoTask(KitTask[P, R_co], Protocol[P, R_co, V]):
    """The same for a memoized function."""

    @property
    def memo(self) -> Memo[P, V]: ...


class Tasks(Protocol):
    """What `kit.task(**options)` answers."""

    @overload
    def __call__(self, fn: Memoized[P, Any, V]) -> MemoTask[P, V, V]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> KitTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> KitTask[P, R]: ...


class BoundTasks(Protocol):
    """What `kit.task(bind=True, **options)` answers: the function's first parameter is the task."""

    @overload
    def __call__(self, fn: Memoized[Concatenate[Task[Any, Any], P], Any, V]) -> MemoTask[P, V, V]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Task[Any, Any], P], Coroutine[Any, Any, R]]) -> KitTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Task[Any, Any], P], R]) -> KitTask[P, R]: ...
