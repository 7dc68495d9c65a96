"""What a throttled task needs of its Celery options: set right, or refused where the task is defined.

With early acknowledgement the message is gone before the task could be parked; with late acknowledgement alone, a child
that is killed before parking turns its task into a failure.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from workerkit.api import layers
from workerkit.errors import DefinitionError

NEEDED = ("acks_late", "reject_on_worker_lost")
REQUEST = "workerkit.celery.request:TicketRequest"


def check_task_class(cls: Any, /, **_: Any) -> None:
    """`__init_subclass__` of an app's Task: the options a task is defined with are its class's own attributes.

    Later they cannot be told from those that Celery fills in from the configuration. Raises DefinitionError.
    """
    own = vars(cls)
    if "run" not in own or "throttle" not in layers.layers(cls.run):
        return
    name = own.get("name") or cls.__name__
    if own.get("rate_limit"):
        raise DefinitionError(
            f"{name} has rate_limit={own['rate_limit']!r}, which Celery applies in each worker by itself; "
            "take it out, @kit.throttle limits the whole fleet"
        )
    for option in NEEDED:
        if own.get(option) is False:
            raise DefinitionError(
                f"{name} is throttled, so a kill must not lose its message while it is being parked: "
                f"take {option}=False out (acks_late and reject_on_worker_lost must both be True)"
            )
    _set_right(cls)


def check_app(app: Celery) -> bool:
    """Set right the throttled tasks of a finalized app, whatever their base class; whether it has any."""
    throttled = [task for task in app.tasks.values() if "throttle" in layers.layers(task.run)]
    for task in throttled:
        _set_right(task)
    return bool(throttled)


def _set_right(task: Any) -> None:
    for option in NEEDED:
        setattr(task, option, True)
    task.Request = REQUEST
