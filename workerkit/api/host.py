"""What a kit asks of the framework it runs under. Celery's answers are in `workerkit.celery`; without it: `NoHost`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from workerkit.waitlist.ticket import Ticket


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

    def runs(self, wrapper: Callable[..., Any]) -> bool:
        """Whether the task executing now is `wrapper`'s own, and not one that merely calls it."""

    def ticket(self) -> Ticket | None:
        """The message of the task executing now; None where it has none to come back by (eager, outside a task)."""

    def entered(self) -> bool:
        """Whether this execution's delivery has been let in already; True from the second time on."""

    def throttled(self, wait: float) -> None:
        """Tell whoever asks for the task's state that it waits for its turn, about `wait` seconds."""

    def parked(self) -> BaseException:
        """The error that ends this execution without a result, because its message comes back or is a duplicate."""

    def is_task(self, thing: object) -> bool:
        """Whether `thing` is a task object: a bound task's function gets it as `self`."""

    def comes_back(self, error: Exception) -> bool:
        """Whether `error` leaves this execution to be run again, rather than to have failed."""

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        """The error that ends the current execution without a result: a fenced attempt, or a cancelled job."""


class NoHost:
    """No task framework: nothing is ever a task."""

    def running(self) -> Running | None:
        return None

    def runs(self, wrapper: Callable[..., Any]) -> bool:
        return False

    def ticket(self) -> Ticket | None:
        return None

    def entered(self) -> bool:
        return True

    def throttled(self, wait: float) -> None:
        """Nobody asks."""

    def parked(self) -> BaseException:
        raise RuntimeError("only a task can be parked")

    def is_task(self, thing: object) -> bool:
        return False

    def comes_back(self, error: Exception) -> bool:
        return False

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        return reason
