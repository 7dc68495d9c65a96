"""Celery's answers to what a kit asks of its host."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from celery import Celery, Task
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject, Retry
from celery.states import READY_STATES

from workerkit.api.host import Running
from workerkit.celery.publisher import REFRESH, Publisher, leads_to
from workerkit.celery.request import MESSAGE
from workerkit.errors import JobFinished
from workerkit.waitlist.ticket import Ticket

THROTTLED = "THROTTLED"


class Current(NamedTuple):
    """An execution: the task and its request. Celery keeps both per thread; a coroutine runs on the loop's."""

    task: Any
    request: Any


AWAITED: ContextVar[Current | None] = ContextVar("workerkit_current", default=None)


def current() -> Current | None:
    """The execution on this thread, or the one that awaits this coroutine; None where a task was merely called."""
    awaited = AWAITED.get()
    if awaited is not None:
        return awaited
    task = get_current_task()
    if task is None:
        return None
    request = task.request
    return None if request.id is None or request.called_directly else Current(task, request)


class CeleryHost:
    """What the current Celery task is, and how an execution ends without a result, or a message is sent."""

    can_queue = True

    def __init__(self, app: Celery) -> None:
        publisher = Publisher(app)
        self.as_sent = publisher.as_sent
        self.queue_refresh = publisher.refresh
        self.may_answer = publisher.may_answer
        self.answer = publisher.answer
        self.send = publisher.send

    def running(self) -> Running | None:
        now = current()
        return now and Running(id=now.request.id, task=now.task.name, root_id=now.request.root_id)

    def runs(self, wrapper: Callable[..., Any]) -> bool:
        now = current()
        return now is not None and leads_to(now.task.run, wrapper)

    def queued_refresh(self, wrapper: Callable[..., Any]) -> bytes | None:
        now = current()
        if now is None:
            return None
        # A worker finds a message's header among the request's attributes, an eager task among its headers.
        seen = getattr(now.request, REFRESH, None) or (now.request.headers or {}).get(REFRESH)
        return bytes.fromhex(seen) if seen and leads_to(now.task.run, wrapper) else None

    def ticket(self) -> Ticket | None:
        now = current()
        return now and getattr(now.request, MESSAGE, None)

    def entered(self) -> bool:
        now = current()
        if now is None:
            return True
        before: bool = getattr(now.request, "workerkit_entered", False)
        now.request.workerkit_entered = True
        return before

    def throttled(self, wait: float) -> None:
        now = current()
        if now is not None and not now.task.ignore_result:
            now.task.backend.store_result(now.request.id, {"retry_after": wait}, THROTTLED, request=now.request)

    def parked(self) -> BaseException:
        return Ignore()

    def is_task(self, thing: object) -> bool:
        return isinstance(thing, Task)

    def comes_back(self, error: Exception) -> bool:
        if isinstance(error, (Retry, Ignore, Reject)):
            return True
        now = current()
        if now is None or not isinstance(error, tuple(getattr(now.task, "autoretry_for", ()))):
            return False
        if isinstance(error, tuple(getattr(now.task, "dont_autoretry_for", ()))):
            return False
        most = now.task.max_retries
        return most is None or now.request.retries < most

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        now = current()
        if isinstance(reason, JobFinished) and now is not None and not self._is_known(now):
            return reason  # the child died after the record's end, before the result's: nobody should wait for ever
        if cancelled and now is not None and not now.task.ignore_result:
            # Whoever waits for the result must not wait for ever, and Ignore writes no state.
            now.task.backend.mark_as_revoked(now.request.id, str(reason), request=now.request)
        return Ignore()

    @staticmethod
    def _is_known(now: Current) -> bool:
        return now.task.ignore_result or now.task.backend.get_state(now.request.id) in READY_STATES
