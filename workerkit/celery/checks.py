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
TRACK_STARTED = "workerkit_track_started"
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
        raise _own_rate_limit(name, own["rate_limit"])
    for option in NEEDED:
        if own.get(option) is False:
            raise DefinitionError(
                f"{name} is throttled, so a kill must not lose its message while it is being parked: "
                f"take {option}=False out (acks_late and reject_on_worker_lost must both be True)"
            )
    _set_right(cls)


def check_app(app: Celery) -> bool:
    """Set right the throttled tasks of a finalized app, whatever their base class; whether it has any.

    Raises DefinitionError for one with a rate limit of its own.
    """
    throttled = [task for task in app.tasks.values() if "throttle" in layers.layers(task.run)]
    for task in throttled:
        if task.rate_limit and task.rate_limit != app.conf.task_default_rate_limit:
            raise _own_rate_limit(task.name, task.rate_limit)
        _set_right(task)
        if task.track_started:
            # Celery says STARTED before the task can find out that it is a duplicate of one that has ended.
            task.track_started = False
            setattr(task, TRACK_STARTED, True)
    return bool(throttled)


def _own_rate_limit(name: str, rate: Any) -> DefinitionError:
    return DefinitionError(
        f"{name} has rate_limit={rate!r}, which Celery applies in each worker by itself; "
        "take it out, @kit.throttle limits the whole fleet"
    )


def _set_right(task: Any) -> None:
    for option in NEEDED:
        setattr(task, option, True)
    task.Request = REQUEST
