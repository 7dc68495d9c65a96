"""`celery -A shop workerkit warm ...`: see, run and pause the app's warmups."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from workerkit.api.warmup import Warmup
from workerkit.cli import warmtables
from workerkit.cli.named import theirs
from workerkit.cli.sheet import say
from workerkit.cli.verb import Answer, Verbs, kits, missing
from workerkit.cli.warmrun import Asked, wait_for


@click.group(cls=Verbs)
def warm() -> None:
    """See, run and pause the app's cache warming."""


@warm.command()
@click.pass_context
def ls(ctx: click.Context) -> Answer:
    """Show how each warmup stands."""
    found = [(warmup, warmup.status()) for warmup in _warmups(ctx)]
    return Answer(
        [warmtables.standing(status, on_start=warmup.on_start) for warmup, status in found],
        lambda: warmtables.show_all([status for _, status in found], time.time()),
    )


@warm.command()
@click.argument("name")
@click.option("--most", default=20, type=click.IntRange(min=0), show_default=True, help="Calls to list.")
@click.pass_context
def plan(ctx: click.Context, name: str, most: int) -> Answer:
    """Show what a run of NAME would refresh now, in order, and what it would leave alone; nothing is changed."""
    with theirs("args failed"):
        plans = [(warmup, warmup.plan()) for warmup in _named(ctx, [name])]

    def show() -> None:
        for warmup, each in plans:
            warmtables.show_plan(warmup.function, each, most)

    return Answer([warmtables.planned(warmup, each, most) for warmup, each in plans], show)


@warm.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--deploy", is_flag=True, help="Run those that are declared with on_start=True.")
@click.option("--wait", is_flag=True, help="Wait until each has ended, also one that was under way.")
@click.option("--here", is_flag=True, help="Run in this process, not on the workers.")
@click.option("--timeout", default=300.0, type=click.FloatRange(min=0), show_default=True, help="Seconds to --wait.")
@click.pass_context
def run(ctx: click.Context, names: Sequence[str], deploy: bool, wait: bool, here: bool, timeout: float) -> Answer:
    """Run warmups now, also those that are paused or not due.

    Without --wait or --here they are handed to the workers, and that is all. Exits with 1 when a run failed (or each
    of its calls did), was refused because another is under way, or took longer than the timeout.
    """
    if deploy == bool(names):
        raise click.UsageError("write the names of the warmups to run, or --deploy for those with on_start=True")
    chosen = [each for each in _warmups(ctx) if each.on_start] if deploy else _named(ctx, names)
    asked = [Asked(each, here) for each in chosen]
    for each in asked:
        each.start()
    if wait:
        wait_for(asked, timeout)
    told = [each.told() for each in asked]
    return Answer(
        told,
        lambda: warmtables.show_said(told),
        int(any(each.state not in {"sent", "done"} for each in asked)),
    )


@warm.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_context
def pause(ctx: click.Context, names: Sequence[str]) -> Answer:
    """Run no more ticks of NAME... until they are resumed; a run that is under way goes on."""
    return _changed([(each.name, each.pause()) for each in _named(ctx, names)], "paused", "paused already")


@warm.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_context
def resume(ctx: click.Context, names: Sequence[str]) -> Answer:
    """Let ticks of NAME... be run again."""
    return _changed([(each.name, each.resume()) for each in _named(ctx, names)], "resumed", "not paused")


@warm.command()
@click.argument("name")
@click.option("--most", default=10, type=click.IntRange(min=1), show_default=True, help="Runs to list; 50 are kept.")
@click.pass_context
def history(ctx: click.Context, name: str, most: int) -> Answer:
    """Show what the last runs of NAME did, the newest first."""
    runs = [{"name": warmup.name, **run} for warmup in _named(ctx, [name]) for run in warmup.history(most)]
    return Answer(runs, lambda: warmtables.show_runs(runs))


def _warmups(ctx: click.Context) -> list[Warmup]:
    return [warmup for kit in kits(ctx) for warmup in kit.warmups]


def _named(ctx: click.Context, names: Sequence[str]) -> list[Warmup]:
    """Those of all kits; each once, in the order of the names."""
    there = _warmups(ctx)
    known = [warmup.name for warmup in there]
    for name in names:
        if name not in known:
            raise missing("warmup", name, known)
    return [warmup for name in dict.fromkeys(names) for warmup in there if warmup.name == name]


def _changed(changed: Sequence[tuple[str, bool]], now: str, already: str) -> Answer:
    def show() -> None:
        for name, each in changed:
            say(f"{name}: {now if each else already}")

    return Answer([{"name": name, "changed": each} for name, each in changed], show)
