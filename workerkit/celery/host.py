"""Celery's answers to what a kit asks of its host."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import tzinfo
from typing import Any, NamedTuple

from celery import Celery, Task
from celery._state import get_current_task, get_current_worker_task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.states import READY_STATES, STARTED
from celery.utils.log import get_logger

from workerkit.api.host import Running
from workerkit.celery.bounded import Bounded
from workerkit.celery.checks import TRACK_STARTED
from workerkit.celery.publisher import REFRESH, Publisher, leads_to
from workerkit.celery.raw import publish
from workerkit.celery.request import MESSAGE
from workerkit.errors import JobFinished, RateLimited
from workerkit.waitlist.ticket import Ticket

_LOG = get_logger(__name__)
THROTTLED = "THROTTLED"
PATIENCE = 2.0  # seconds for a message that goes back to the broker
PAUSE = (0.5, 1.5)  # seconds that a worker rests when not even that can be done
VISIBLE = 3600.0  # seconds until Redis as a broker delivers an unacknowledged message again, by kombu's default


class Requeue(Reject, Ignore):
    """Ends an execution without an acknowledgement. An Ignore too: `autoretry_for` lets no Reject alone pass."""


class Current(NamedTuple):
    """An execution: the task and its request. Celery keeps both per thread; a coroutine runs on the loop's."""

    task: Any
    request: Any


class Awaited(NamedTuple):
    """What `current` and `root` were where a coroutine was called from that the process's loop runs."""

    current: Current | None
    root: str | None


AWAITED: ContextVar[Awaited | None] = ContextVar("workerkit_current", default=None)


def current() -> Current | None:
    """The execution on this thread, or the one that awaits this coroutine; None where a task was merely called."""
    awaited = AWAITED.get()
    if awaited is not None:
        return awaited.current
    task = get_current_task()
    if task is None:
        return None
    request = task.request
    return None if request.id is None or request.called_directly else Current(task, request)


def root() -> str | None:
    """The root of what the worker executes, also inside a task that it merely calls, as `celery.map` does."""
    awaited = AWAITED.get()
    if awaited is not None:
        return awaited.root
    task = get_current_worker_task()
    return None if task is None else task.request.root_id


class CeleryHost:
    """What the current Celery task is, and how an execution ends without a result, or a message is sent."""

    can_queue = True

    def __init__(self, app: Celery, wait_for: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._app = app
        self.wait_for = wait_for
        self._bounded = Bounded(PATIENCE)
        publisher = Publisher(app)
        self.as_sent = publisher.as_sent
        self.queue_refresh = publisher.refresh
        self.may_answer = publisher.may_answer
        self.answer = publisher.answer
        self.send = publisher.send
        self.warm = publisher.warm

    def zone(self) -> tzinfo:
        zone: tzinfo = self._app.timezone
        return zone

    def running(self) -> Running | None:
        now = current()
        return now and Running(id=now.request.id, task=now.task.name)

    def root(self) -> str | None:
        return root()

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

    def started(self) -> None:
        now = current()
        if now is not None and getattr(now.task, TRACK_STARTED, False):
            _tell(now, STARTED, {"pid": os.getpid(), "hostname": now.request.hostname})

    def throttled(self, wait: float) -> None:
        now = current()
        if now is not None:
            _tell(now, THROTTLED, {"retry_after": wait})

    def parked(self) -> BaseException:
        return Ignore()

    def postponed(self, ticket: Ticket, wait: float) -> BaseException:
        visible = float((self._app.conf.broker_transport_options or {}).get("visibility_timeout", VISIBLE))
        try:
            self._bounded.run(lambda: self.publish(ticket, min(wait, visible / 2)))
        except Exception:  # noqa: BLE001 - a broker that is down, in the words of its transport
            time.sleep(random.uniform(*PAUSE))  # noqa: S311 - the broker would deliver it again at once
            return Requeue("neither Redis nor the broker takes it", requeue=True)
        return Ignore()

    def publish(self, ticket: Ticket, countdown: float = 0.0) -> None:
        with self._app.producer_or_acquire() as producer:
            publish(self._app, producer, ticket, countdown=countdown)

    def cancelled(self) -> BaseException:
        now = current()
        if now is not None and _stores_result(now):
            now.task.backend.mark_as_revoked(now.request.id, "cancelled", request=now.request)
        return Ignore()

    def eager(self) -> bool:
        now = current()
        return now is not None and bool(now.request.is_eager)

    def chord_kept(self) -> float | None:
        now = current()
        if now is None or not now.request.chord:
            return None
        kept: float | None = getattr(now.task.backend, "chord_expires", None)  # since Celery 5.7
        return kept or getattr(now.task.backend, "expires", None)

    def is_task(self, thing: object) -> bool:
        return isinstance(thing, Task)

    def comes_back(self, error: Exception) -> bool:
        if isinstance(error, Retry) or self.puts_off(error):
            return True
        now = current()
        if now is None or not isinstance(error, tuple(getattr(now.task, "autoretry_for", ()))):
            return False
        if isinstance(error, tuple(getattr(now.task, "dont_autoretry_for", ()))):
            return False
        most = now.task.max_retries
        return most is None or now.request.retries < most

    def puts_off(self, error: Exception) -> bool:
        if isinstance(error, (Ignore, Reject)):
            return True
        now = current()
        parks = now is not None and getattr(now.request, MESSAGE, None) is not None
        return parks and isinstance(error, RateLimited)

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        now = current()
        if isinstance(reason, JobFinished) and now is not None and not self._is_known(now):
            return reason  # the child died after the record's end, before the result's: nobody should wait for ever
        if cancelled and now is not None and _stores_result(now):
            # Whoever waits for the result must not wait for ever, and Ignore writes no state.
            now.task.backend.mark_as_revoked(now.request.id, str(reason), request=now.request)
        return Ignore()

    @staticmethod
    def _is_known(now: Current) -> bool:
        return now.task.ignore_result or now.task.backend.get_state(now.request.id) in READY_STATES


def _tell(now: Current, state: str, about: dict[str, Any]) -> None:
    """Write a state on the way. A result backend that is down must not fail the task for it: its message would be
    acknowledged, and the task lost."""
    if not _stores_result(now):
        return
    try:
        now.task.backend.store_result(now.request.id, about, state, request=now.request)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001 - in the words of whatever backend
        _LOG.warning("task %s is %s, but its backend cannot be told: %s", now.request.id, state, type(error).__name__)


def _stores_result(now: Current) -> bool:
    ignored = now.request.ignore_result
    return not (now.task.ignore_result if ignored is None else ignored)
