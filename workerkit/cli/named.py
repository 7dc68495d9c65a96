"""What a command line names (a memoized function, a limiter), in whichever of the app's kits it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import click

from workerkit.api.memo import Memo
from workerkit.cli.verb import Refusal, kits, missing, titles, where
from workerkit.errors import WorkerKitError

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

T = TypeVar("T")


class Named(NamedTuple, Generic[T]):
    """One thing of a kit; `title` tells the kit from the app's others."""

    kit: WorkerKit
    title: str
    name: str
    thing: T


def named(ctx: click.Context, things: Callable[[WorkerKit], Mapping[str, T]]) -> list[Named[T]]:
    """All that the app's kits have of a sort."""
    there = kits(ctx)
    return [
        Named(kit, title, name, thing)
        for kit, title in zip(there, titles(there), strict=True)
        for name, thing in things(kit).items()
    ]


def pick(what: str, name: str, there: Sequence[Named[T]], *, tail: bool = False) -> Named[T]:
    """The one of this name; with `tail` the end of a dotted name is enough, where nothing else ends so.

    Raises NotFound, naming those that there are, and Refusal where several could be meant.
    """
    found = [each for each in there if each.name == name]
    if not found and tail:
        found = [each for each in there if each.name.endswith(f".{name}")]
    names = list(dict.fromkeys(each.name for each in found))
    if len(names) > 1:
        raise Refusal(f"{name} may be {' or '.join(names)}; write it in full")
    if len(found) > 1:
        options = " or ".join(f"--kit {each.title}" for each in found)
        raise Refusal(f"several of the app's kits have a {what} {names[0]}; write {options}")
    if not found:
        raise missing(what, name, [each.name for each in there])
    return found[0]


def memos(ctx: click.Context) -> Callable[[WorkerKit], Mapping[str, Memo[Any, Any]]]:
    """The memoized functions of a kit. Those of tasks also by the task's name, and a bound task's with its task."""
    tasks = [task for task in ctx.obj.app.tasks.values() if isinstance(getattr(task, "memo", None), Memo)]

    def of(kit: WorkerKit) -> Mapping[str, Memo[Any, Any]]:
        bound = {task.memo.function: task.memo for task in tasks}
        return {name: bound.get(memo.function, memo) for name, memo in kit.memos.items()}

    return of


@contextmanager
def theirs(what: str) -> Iterator[None]:
    """The app's own code runs, which may raise anything: that is a Refusal, in a line."""
    try:
        yield
    except (WorkerKitError, click.ClickException):
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the app's
        raise Refusal(f"{what}: {where(error)}") from None
