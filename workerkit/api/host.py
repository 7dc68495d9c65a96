"""What a kit asks of the framework it runs under. Celery's answers are in `workerkit.celery`; without it: `NoHost`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Running:
    """The task that is executing now: `id` is the same across retries and redeliveries."""

    id: str
    task: str
    root_id: str | None = None


class Host(Protocol):
    """The seam between the kit and a task framework."""

    def running(self) -> Running | None:
        """The task executing on this thread, None outside one (and inside a direct call of a task's function)."""

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        """The error that ends the current execution without a result: a fenced attempt, or a cancelled job."""


class NoHost:
    """No task framework: nothing is ever a task."""

    def running(self) -> Running | None:
        return None

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        return reason
