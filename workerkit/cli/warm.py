"""`celery -A shop workerkit warm ...`: see, run and pause the app's warmups."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any

import click

from workerkit.api.warmup import Warmup
from workerkit.cli import warmtables
from workerkit.cli.plugin import kits
from workerkit.cli.warmrun import Asked, wait_for
from workerkit.errors import WorkerKitError


class OneLine(click.Group):
    """Says an error of ours in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WorkerKitError as error:
            raise click.ClickException(str(error)) from None


_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead.")


@click.group(cls=OneLine)
def warm() -> None:
    """See, run and pause the app's cache warming. Each command takes --json."""


@warm.command()
@_JSON
@click.pass_context
def ls(ctx: click.Context, as_json: bool) -> None:
    """Show how each warmup stands."""
    found = [(warmup, warmup.status()) for warmup in _warmups(ctx)]
    if as_json:
        _echo([warmtables.standing(status, on_start=warmup.on_start) for warmup, status in found])
    else:
        warmtables.show_all([status for _, status in found], time.time())


@warm.command()
@click.argument("name")
@click.option("--most", default=20, type=click.IntRange(min=0), show_default=True, help="Calls to list.")
@_JSON
@click.pass_context
def plan(ctx: click.Context, name: str, most: int, as_json: bool) -> None:
    """Show what a run of NAME would refresh now, in order, and what it would leave alone; nothing is changed."""
    named = _named(ctx, [name])
    with _apart():
        plans = [(warmup, warmup.plan()) for warmup in named]
    if as_json:
        _echo([warmtables.planned(warmup, each, most) for warmup, each in plans])
        return
    for warmup, each in plans:
        warmtables.show_plan(warmup.function, each, most)


@warm.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--deploy", is_flag=True, help="Run those that are declared with on_start=True.")
@click.option("--wait", is_flag=True, help="Wait until each has ended, also one that was under way.")
@click.option("--here", is_flag=True, help="Run in this process, not on the workers.")
@click.option("--timeout", default=300.0, type=click.FloatRange(min=0), show_default=True, help="Seconds to --wait.")
@_JSON
@click.pass_context
def run(
    ctx: click.Context, names: Sequence[str], deploy: bool, wait: bool, here: bool, timeout: float, as_json: bool
) -> None:
    """Run warmups now, also those that are paused or not due.

    Without --wait or --here they are handed to the workers, and that is all. Exits with 1 when a run failed (or each
    of its calls did), was refused because another is under way, or took longer than the timeout.
    """
    if deploy == bool(names):
        raise click.UsageError("write the names of the warmups to run, or --deploy for those with on_start=True")
    chosen = [each for each in _warmups(ctx) if each.on_start] if deploy else _named(ctx, names)
    asked = [Asked(each, here) for each in chosen]
    with _apart():
        for each in asked:
            each.start()
        if wait:
            wait_for(asked, timeout)
    if as_json:
        _echo([each.told() for each in asked])
    else:
        click.echo("\n".join(warmtables.said(each.told()) for each in asked) or "nothing has on_start=True")
    if any(each.state not in {"sent", "done"} for each in asked):
        ctx.exit(1)


@warm.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_JSON
@click.pass_context
def pause(ctx: click.Context, names: Sequence[str], as_json: bool) -> None:
    """Run no more ticks of NAME... until they are resumed; a run that is under way goes on."""
    _changed([(each.name, each.pause()) for each in _named(ctx, names)], "paused", "paused already", as_json=as_json)


@warm.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_JSON
@click.pass_context
def resume(ctx: click.Context, names: Sequence[str], as_json: bool) -> None:
    """Let ticks of NAME... be run again."""
    _changed([(each.name, each.resume()) for each in _named(ctx, names)], "resumed", "not paused", as_json=as_json)


@warm.command()
@click.argument("name")
@click.option("--most", default=10, type=click.IntRange(min=1), show_default=True, help="Runs to list; 50 are kept.")
@_JSON
@click.pass_context
def history(ctx: click.Context, name: str, most: int, as_json: bool) -> None:
    """Show what the last runs of NAME did, the newest first."""
    runs = [{"name": warmup.name, **run} for warmup in _named(ctx, [name]) for run in warmup.history(most)]
    if as_json:
        _echo(runs)
    else:
        warmtables.show_runs(runs)


def _warmups(ctx: click.Context) -> list[Warmup]:
    with _apart():
        return [warmup for kit in kits(ctx) for warmup in kit.warmups]


def _named(ctx: click.Context, names: Sequence[str]) -> list[Warmup]:
    """Those of all kits; each once, in the order of the names."""
    there = _warmups(ctx)
    for name in names:
        if all(warmup.name != name for warmup in there):
            known = ", ".join(warmup.name for warmup in there) or "none"
            raise click.ClickException(f"there is no warmup {name!r:.60}; there are: {known}")
    return [warmup for name in dict.fromkeys(names) for warmup in there if warmup.name == name]


def _changed(changed: Sequence[tuple[str, bool]], now: str, already: str, *, as_json: bool) -> None:
    if as_json:
        _echo([{"name": name, "changed": each} for name, each in changed])
        return
    for name, each in changed:
        click.echo(f"{name}: {now if each else already}")


def _apart() -> AbstractContextManager[object]:
    """What the app's own code prints, and logs, is no part of the answer."""
    return redirect_stdout(sys.stderr)


def _echo(found: Any) -> None:
    click.echo(json.dumps(found))
