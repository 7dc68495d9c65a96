"""`workerkit waitlist ...`: the tasks that are parked until their turn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

import click

from workerkit.cli.sheet import Sheet, say
from workerkit.cli.times import ago
from workerkit.cli.verb import Answer, NotFound, Verbs, kits, titles
from workerkit.waitlist.listing import ParkedTask, State

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

_STATES = get_args(State)


@click.group(cls=Verbs)
def waitlist() -> None:
    """See, explain and cancel the tasks that wait for their turn."""


@waitlist.command()
@click.option("--limiter", help="Only those that wait for this limiter.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.  [default: all]")
@click.option("--most", default=50, type=click.IntRange(min=1), show_default=True, help="Tasks to list.")
@click.pass_context
def ls(ctx: click.Context, limiter: str | None, state: State | None, most: int) -> Answer:
    """Show parked tasks; those that wait in the order in which each line goes.

    A key is shown as a digest, unless its limiter was made with name_keys=True.
    """
    there = kits(ctx)
    found = [
        (title, task)
        for kit, title in zip(there, titles(there), strict=True)
        for each in ([state] if state else _STATES)
        for task in _tasks(kit, each, limiter, most)
    ]
    count = sum(kit.waitlist.count() for kit in there)
    listed = found[:most]

    def show() -> None:
        if listed:
            _show([task for _, task in listed])
        narrowed = " of these" if limiter or state else ""
        say(f"{len(listed):,} shown{narrowed}; {count:,} parked in all" if count else "no task is parked")

    return Answer([{**asdict(task), "kit": title} for title, task in listed], show)


@waitlist.command()
@click.argument("task_id")
@click.pass_context
def explain(ctx: click.Context, task_id: str) -> Answer:
    """Say why a task waits, behind how many, and until when, about; exits with 1 when it is not parked."""
    found = next(filter(None, (kit.waitlist.explain(task_id) for kit in kits(ctx))), None)
    if found is None:
        raise NotFound(f"task {task_id!r:.80} is not parked: it runs, has ended, or was never throttled")
    return Answer({**asdict(found.parked), "wait": found.wait}, lambda: say(str(found)))


@waitlist.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True)
@click.pass_context
def cancel(ctx: click.Context, task_ids: Sequence[str]) -> Answer:
    """Revoke parked tasks: the next worker ends them as Celery ends revoked tasks.

    Exits with 1 when one of them is not parked.
    """
    there = kits(ctx)
    done = {task_id: any(kit.waitlist.cancel(task_id) for kit in there) for task_id in task_ids}

    def show() -> None:
        for task_id, cancelled in done.items():
            say(f"{task_id}: {'revoked' if cancelled else 'not parked'}")

    data = [{"task_id": task_id, "cancelled": cancelled} for task_id, cancelled in done.items()]
    return Answer(data, show, int(not all(done.values())))


def _tasks(kit: WorkerKit, state: State, limiter: str | None, most: int) -> Iterable[ParkedTask]:
    if limiter is None or state == "waiting":
        return kit.waitlist.tasks(state=state, limiter=limiter, most=most)
    # Only those that wait are listed by limiter.
    return (task for task in kit.waitlist.tasks(state=state, most=kit.settings.waitlist_max) if task.limiter == limiter)


def _show(tasks: Sequence[ParkedTask]) -> None:
    now = time.time()
    sheet = Sheet("task id", "task", "waits for", ">ahead", ">prio", ">parked", "state")
    for task in tasks:
        place = f"{task.limiter}/{task.key}" if task.key else task.limiter
        state = f"quarantined: {task.reason}" if task.reason else task.state
        sheet.add(task.task_id, task.task, place, task.ahead, task.priority, ago(now - task.since), state)
    sheet.show()
