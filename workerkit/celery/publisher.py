"""Messages that a cache has to do with: left out when their result is known, or sent to have an entry replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from celery import Celery, Task, uuid
from celery.app import base
from celery.backends.rpc import RPCBackend
from kombu.exceptions import EncodeError
from kombu.serialization import dumps, loads

from workerkit.celery.bounded import Bounded
from workerkit.errors import DefinitionError

Arguments = tuple[Any, ...]
Named = dict[str, Any]

REFRESH = "workerkit_refresh"
WARM_RUN = "workerkit.warm.run"
PATIENCE = 1.0  # seconds for a message that would spare its sender a computation
# Once more at once, for a connection that died unnoticed: somebody who could have his old value already is waiting.
_BRIEF = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
# With these somebody else waits for the message itself, or it should not run now.
_NEEDS_MESSAGE = (
    "link", "link_error", "chord", "chain", "group_id", "group_index", "replaced_task_nesting", "reply_to",
    "eta", "countdown",
)  # fmt: skip


class Publisher:
    """Sends and answers for the tasks of one app."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._tasks: dict[Callable[..., Any], Any] = {}
        self._bounded = Bounded(PATIENCE)

    def task(self, wrapper: Callable[..., Any]) -> Any:
        """The task whose function is `wrapper`. Raises DefinitionError when there is none."""
        found = self._tasks.get(wrapper)
        if found is None:
            found = next((task for task in self._app.tasks.values() if leads_to(task.run, wrapper)), None)
            if found is None:
                raise DefinitionError(
                    f"{wrapper.__qualname__} is no task of this app: put @kit.task above @kit.memoize"
                )
            self._tasks[wrapper] = found
        return found

    def as_sent(self, wrapper: Callable[..., Any], args: Arguments, kwargs: Named) -> tuple[Arguments, Named] | None:
        """The arguments as a worker would hand them to `wrapper`; None when no message can hold them.

        JSON makes a list of a tuple, for one. A bound task's `self`, and the models of a task with pydantic=True,
        stay as they are.
        """
        task = self.task(wrapper)
        from pydantic import BaseModel

        kept = (Task,) if _dump_options(task) is None else (Task, BaseModel)
        values = [*args, *kwargs.values()]
        try:
            content_type, encoding, data = dumps(
                [None if isinstance(value, kept) else value for value in values], serializer=task.serializer
            )
        except EncodeError:
            return None
        came = loads(data, content_type, encoding, accept={content_type})
        given = [value if isinstance(value, kept) else sent for value, sent in zip(values, came, strict=True)]
        return tuple(given[: len(args)]), dict(zip(kwargs, given[len(args) :], strict=True))

    def refresh(self, wrapper: Callable[..., Any], args: Arguments, kwargs: Named, seen: bytes) -> None:
        """Send the task's own message, marked as one that replaces the cached entry `seen`.

        Raises kombu's OperationalError for a broker that is down, TimeoutError for one that is silent.
        """
        own = args[1:] if args and isinstance(args[0], Task) else args
        options = {
            "headers": {REFRESH: seen.hex()},
            "priority": self._lowest_priority,
            "retry_policy": _BRIEF,
            "ignore_result": True,
        }
        if self._app.conf.task_always_eager:  # that is no sending, but the computation itself
            self.send(wrapper, own, kwargs, options)
        else:
            self._bounded.run(lambda: self.send(wrapper, own, kwargs, options))

    def warm(self, namespace: str, name: str, message: list[Any], wait: float, queue: str | None) -> None:
        """Send what has a worker go on with a warmup's run. Raises as `refresh` does."""
        options: dict[str, Any] = {
            "args": (namespace, name, message),
            "countdown": wait or None,
            "queue": queue,
            "priority": self._lowest_priority,
            "retry_policy": _BRIEF,
            "serializer": "json",
        }
        send = self._app.tasks[WARM_RUN].apply_async
        if self._app.conf.task_always_eager:
            send(**options)
        else:
            self._bounded.run(lambda: send(**options))

    def may_answer(self, wrapper: Callable[..., Any], options: Mapping[str, Any]) -> bool:
        """Whether the message may be left out. RPC results go to whoever sent the message, so there must be one."""
        task = self.task(wrapper)
        eager = self._app.conf.task_always_eager
        return not (eager or isinstance(task.backend, RPCBackend) or any(map(options.get, _NEEDS_MESSAGE)))

    def answer(self, wrapper: Callable[..., Any], value: Any, options: Mapping[str, Any]) -> Any:
        """An AsyncResult of its own id, whose result any process can get."""
        task = self.task(wrapper)
        task_id = options.get("task_id") or uuid()
        ignored = options.get("ignore_result")
        if ignored is None:
            ignored = task.ignore_result
        if not ignored:
            task.backend.mark_as_done(task_id, _result(task, value))
        result = task.AsyncResult(task_id)
        result.ignored = ignored  # as Celery does: `get` does not wait for what is never stored
        return result

    def send(self, wrapper: Callable[..., Any], args: Arguments, kwargs: Named, options: Mapping[str, Any]) -> Any:
        """What the task's own `apply_async` does; Celery before 5.7 left it to the sender to dump models."""
        task = self.task(wrapper)
        dump = _dump_options(task)
        if dump is not None:
            args = tuple([_plain(value, dump) for value in args])
            kwargs = {name: _plain(value, dump) for name, value in kwargs.items()}
        return task.apply_async(args, kwargs, **options)

    @cached_property
    def _lowest_priority(self) -> int | None:
        """Redis counts priorities from the most important one, AMQP from the least."""
        with self._app.connection_for_write() as connection:
            return {"redis": 9, "amqp": 0}.get(connection.transport.driver_type)


def leads_to(step: Any, wrapper: Callable[..., Any]) -> bool:
    """Whether `step`, a task's function, is `wrapper` or wraps it."""
    return any(each is wrapper for each in _layers(step))


def is_bound(task: Any) -> bool:
    """Whether the task's function gets the task as its first argument."""
    return any(isinstance(getattr(step, "__self__", None), Task) for step in _layers(task.run))


def _layers(step: Any) -> Iterator[Any]:
    """A function and what it wraps, from the outside in."""
    while step is not None:
        yield step
        step = getattr(step, "__func__", None) or getattr(step, "__wrapped__", None)


def _dump_options(task: Any) -> dict[str, Any] | None:
    """How a task with pydantic=True dumps models; None for other tasks.

    Nothing but the wrapper that Celery puts around such a task's function knows it.
    """
    for step in _layers(task.run):
        if getattr(step, "__globals__", None) is vars(base):
            found = inspect.getclosurevars(step).nonlocals.get("dump_kwargs")
            return {"mode": "json"} if found is None else found
    return None


def _plain(value: Any, dump: Mapping[str, Any]) -> Any:
    from pydantic import BaseModel

    return value.model_dump(**dump) if isinstance(value, BaseModel) else value


def _result(task: Any, value: Any) -> Any:
    """What the worker would have stored: of a model its contents, when the task has pydantic=True."""
    dump = _dump_options(task)
    return value if dump is None else _plain(value, dump)
