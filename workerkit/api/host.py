"""What a kit asks of the framework it runs under. Celery's answers are in `workerkit.celery`; without it: `NoHost`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any, Protocol

from workerkit.errors import DefinitionError

if TYPE_CHECKING:
    from workerkit.waitlist.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Running:
    """The task that is executing now: `id` is the same across retries and redeliveries."""

    id: str
    task: str


class Host(Protocol):
    """The seam between the kit and a task framework."""

    def running(self) -> Running | None:
        """The task executing on this thread, None outside one (and inside a direct call of a task's function)."""

    def root(self) -> str | None:
        """The id of the first task of the workflow on this thread, also inside a direct call of a task's function."""

    def runs(self, wrapper: Callable[..., Any]) -> bool:
        """Whether the task executing now is `wrapper`'s own, and not one that merely calls it."""

    def ticket(self) -> Ticket | None:
        """The message of the task executing now; None where it has none to come back by (eager, outside a task)."""

    def entered(self) -> bool:
        """Whether this execution's delivery has been let in already; True from the second time on."""

    def started(self) -> None:
        """Tell whoever asks that the task begins; before this nobody was told, as it might have been a duplicate."""

    def throttled(self, wait: float) -> None:
        """Tell whoever asks for the task's state that it waits for its turn, about `wait` seconds."""

    def parked(self) -> BaseException:
        """The error that ends this execution without a result, because its message comes back or is a duplicate."""

    def postponed(self, ticket: Ticket, wait: float) -> BaseException:
        """Send the message again, for about `wait` seconds from now; the error that ends this execution.

        When it cannot be sent, that error keeps the message from being acknowledged.
        """

    def publish(self, ticket: Ticket) -> None:
        """Send a message as it was. Raises what the broker's client raises."""

    def cancelled(self) -> BaseException:
        """Tell whoever waits for the task that it is revoked; the error that ends this execution."""

    def eager(self) -> bool:
        """Whether the task executing now runs in place of being sent."""

    def chord_kept(self) -> float | None:
        """Seconds for which a chord's results are kept; None when the task executing now is in none."""

    def is_task(self, thing: object) -> bool:
        """Whether `thing` is a task object: a bound task's function gets it as `self`."""

    def comes_back(self, error: Exception) -> bool:
        """Whether `error` leaves this execution to be run again, rather than to have failed."""

    def puts_off(self, error: Exception) -> bool:
        """Whether `error` ends this execution before its work was done, as parking does: it comes back for that."""

    can_queue: bool
    """Whether there are tasks at all."""

    def zone(self) -> tzinfo:
        """The time in which cron lines are meant."""

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, from where no event loop runs."""

    def warm(self, namespace: str, name: str, message: list[Any], wait: float, queue: str | None) -> None:
        """Send a message, of low priority, that has a worker go on with a warmup's run after `wait` seconds."""

    def as_sent(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments as a worker would get them in a message; None when no message can hold them.

        Raises DefinitionError when `wrapper` is no task's function.
        """

    def queue_refresh(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], seen: bytes
    ) -> None:
        """Send a message, of low priority, that has a worker replace the cached entry `seen` of this call."""

    def queued_refresh(self, wrapper: Callable[..., Any]) -> bytes | None:
        """What entry the task executing now is to replace; None when it is `wrapper`'s ordinary task, or another's."""

    def may_answer(self, wrapper: Callable[..., Any], options: Mapping[str, Any]) -> bool:
        """Whether a message with these options may be left out when its result is known.

        Raises DefinitionError when `wrapper` is no task's function.
        """

    def answer(self, wrapper: Callable[..., Any], value: Any, options: Mapping[str, Any]) -> Any:
        """A result that is there already, as the framework's handle of it."""

    def send(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """Send a message of `wrapper`'s task; the framework's handle of its result."""

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        """The error that ends the current execution without a result: a fenced attempt, or a cancelled job."""


class NoHost:
    """No task framework: nothing is ever a task."""

    can_queue = False

    def zone(self) -> tzinfo:
        return UTC

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(coroutine)

    def warm(self, namespace: str, name: str, message: list[Any], wait: float, queue: str | None) -> None:
        raise RuntimeError("only an app has workers")

    def running(self) -> Running | None:
        return None

    def root(self) -> str | None:
        return None

    def runs(self, wrapper: Callable[..., Any]) -> bool:
        return False

    def ticket(self) -> Ticket | None:
        return None

    def entered(self) -> bool:
        return True

    def started(self) -> None:
        """Nobody asks."""

    def throttled(self, wait: float) -> None:
        """Nobody asks."""

    def parked(self) -> BaseException:
        raise RuntimeError("only a task can be parked")

    def postponed(self, ticket: Ticket, wait: float) -> BaseException:
        raise RuntimeError("only a task can be postponed")

    def publish(self, ticket: Ticket) -> None:
        raise DefinitionError("a task's message needs a Celery app: write kit = WorkerKit(app)")

    def cancelled(self) -> BaseException:
        raise RuntimeError("only a task can be revoked")

    def eager(self) -> bool:
        return False

    def chord_kept(self) -> float | None:
        return None

    def is_task(self, thing: object) -> bool:
        return False

    def comes_back(self, error: Exception) -> bool:
        return False

    def puts_off(self, error: Exception) -> bool:
        return False

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        return reason

    def as_sent(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        raise self._no_task(wrapper)

    def queue_refresh(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], seen: bytes
    ) -> None:
        raise self._no_task(wrapper)

    def queued_refresh(self, wrapper: Callable[..., Any]) -> bytes | None:
        return None

    def may_answer(self, wrapper: Callable[..., Any], options: Mapping[str, Any]) -> bool:
        raise self._no_task(wrapper)

    def answer(self, wrapper: Callable[..., Any], value: Any, options: Mapping[str, Any]) -> Any:
        raise self._no_task(wrapper)

    def send(
        self, wrapper: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> Any:
        raise self._no_task(wrapper)

    @staticmethod
    def _no_task(wrapper: Callable[..., Any]) -> DefinitionError:
        return DefinitionError(f"{wrapper.__qualname__} is no task: write kit = WorkerKit(app), and @kit.task above it")
