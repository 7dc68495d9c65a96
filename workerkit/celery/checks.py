"""What a throttled task needs of its Celery options, seen to when it is defined and again before a worker starts.

With early acknowledgement the message is gone before the task could be parked; with late acknowledgement alone, a child
that is killed before parking turns its task into a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from workerkit.api import layers
from workerkit.errors import DefinitionError

NEEDED = ("acks_late", "reject_on_worker_lost")


def with_needed(fn: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """`options` of `kit.task` with what a throttle on `fn` needs. Raises DefinitionError for what contradicts it."""
    if "throttle" not in layers.layers(fn):
        return options
    _refuse_rate_limit(fn.__qualname__, options.get("rate_limit"))
    for name in NEEDED:
        if options.setdefault(name, True) is not True:
            raise DefinitionError(_why(fn.__qualname__, name))
    return options


def check_app(app: Celery) -> None:
    """Set right, or refuse, every throttled task of a finalized app. Raises DefinitionError."""
    for task in app.tasks.values():
        if "throttle" not in layers.layers(task.run):
            continue
        _refuse_rate_limit(task.name, vars(type(task)).get("rate_limit"))
        for name in NEEDED:
            if vars(type(task)).get(name) is False:
                raise DefinitionError(_why(task.name, name))
            setattr(task, name, True)


def _why(task: str, name: str) -> str:
    return (
        f"{task} is throttled, so a kill must not lose its message while it is being parked: "
        f"take {name}=False out (acks_late and reject_on_worker_lost must both be True)"
    )


def _refuse_rate_limit(task: str, rate_limit: Any) -> None:
    if rate_limit:
        raise DefinitionError(
            f"{task} has rate_limit={rate_limit!r}, which Celery applies in each worker by itself; "
            "take it out, @kit.throttle limits the whole fleet"
        )
