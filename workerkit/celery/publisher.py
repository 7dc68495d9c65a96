"""Messages that a cache has to do with: left out when their result is known, or sent to have an entry replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, Task, uuid
from celery.app import base
from celery.backends.rpc import RPCBackend
from pydantic import BaseModel

from workerkit.errors import DefinitionError

REFRESH = "workerkit_refresh"
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

    def refresh(self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], seen: bytes) -> None:
        """Send the task's own message, marked as one that replaces the cached entry `seen`."""
        task = self.task(wrapper)
        own = args[1:] if args and isinstance(args[0], Task) else args
        task.apply_async(
            _plain(own),
            _plain(kwargs),
            headers={REFRESH: seen.hex()},
            priority=self._lowest_priority(),
            ignore_result=True,
            add_to_parent=False,
        )

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
        if not (task.ignore_result if ignored is None else ignored):
            task.backend.mark_as_done(task_id, _result(task, value))
        return task.AsyncResult(task_id)

    def send(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """What the task's own `apply_async` does."""
        return self.task(wrapper).apply_async(_plain(args), _plain(kwargs), **options)

    def _lowest_priority(self) -> int | None:
        """Redis counts priorities from the most important one, AMQP from the least."""
        with self._app.connection_for_write() as connection:
            return {"redis": 9, "amqp": 0, "py-amqp": 0}.get(connection.transport.driver_type)


def leads_to(step: Any, wrapper: Callable[..., Any]) -> bool:
    """Whether `step`, a task's function, is `wrapper` or wraps it."""
    while step is not None:
        if step is wrapper:
            return True
        step = getattr(step, "__func__", None) or getattr(step, "__wrapped__", None)
    return False


def _plain(arguments: Any) -> Any:
    """Models as what a message can hold; a task with pydantic=True makes models of it again."""
    if isinstance(arguments, dict):
        return {name: _plain_value(value) for name, value in arguments.items()}
    return tuple([_plain_value(value) for value in arguments])


def _plain_value(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _result(task: Any, value: Any) -> Any:
    """What the worker would have stored: of a model its contents, when the task has pydantic=True."""
    run = getattr(task.run, "__func__", task.run)
    if not isinstance(value, BaseModel) or run.__code__.co_filename != base.__file__:
        return value
    # Nothing but the wrapper that Celery puts around such a task's function knows how it dumps.
    return value.model_dump(**(inspect.getclosurevars(run).nonlocals.get("dump_kwargs") or {}))
