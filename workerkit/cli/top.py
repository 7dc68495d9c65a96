"""`workerkit -A shop top`: how the fleet stands, live."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from workerkit.cli.verb import Refusal, Verb, apart, kits, titles
from workerkit.core.durations import seconds
from workerkit.errors import StoreError

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

SHORTEST, LONGEST = 0.1, 3600.0


@click.command(cls=Verb)
@click.option("--interval", metavar="DURATION", help="How often to refresh, such as 2s or 500ms.  [default: 1s]")
@click.option("--once", is_flag=True, help="Print one frame, whose rates are of one interval, and end.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document; with --interval one in a line at each refresh."
)
@click.pass_context
def top(ctx: click.Context, interval: str | None, once: bool, as_json: bool) -> None:
    """Watch the fleet live: Redis, savings, limits and who waits, jobs, warmups, events. Press ? for its keys.

    Without a terminal it prints one frame and ends, as with --once.
    """
    every = _checked(interval)
    found = kits(ctx)
    if as_json:
        _print_json(found, None if once or interval is None else every)
        return
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print_page(found, _titled(ctx, found), every)
        return
    from workerkit.cli.live.screen import show

    show(found, _titled(ctx, found), every)


def _checked(interval: str | None) -> float:
    if interval is None:
        return 1.0
    every = seconds(interval, what="--interval")
    if not SHORTEST <= every <= LONGEST:
        raise Refusal(f"--interval {interval} must be from 100ms to 1h")
    return every


def _titled(ctx: click.Context, found: Sequence[WorkerKit]) -> list[str]:
    app = ctx.obj.app.main or "app"
    names = titles(found)
    return [
        f"{app} {name} " + " ".join(dict.fromkeys(server.shown for server in kit.engine.servers.values()))
        for kit, name in zip(found, names, strict=True)
    ]


def _print_page(found: Sequence[WorkerKit], names: Sequence[str], every: float) -> None:
    from rich.console import Console

    from workerkit.cli.live.frame import Scene, page
    from workerkit.top.look import snapshot
    from workerkit.top.watch import Watch

    watches = [Watch() for _ in found]
    with apart():
        for pause in (0.0, every):
            time.sleep(pause)
            for watch, kit in zip(watches, found, strict=True):
                watch.took(snapshot(kit), time.monotonic())
    console = Console(highlight=False)
    for name, watch in zip(names, watches, strict=True):
        for line in page(Scene(name, watch, time.monotonic(), time.time()), console.width):
            console.print(line, soft_wrap=True)


def _print_json(found: Sequence[WorkerKit], every: float | None) -> None:
    from workerkit.top.look import snapshot
    from workerkit.top.snapshot import as_json

    if every is None:
        with apart():
            documents = [as_json(snapshot(kit)) for kit in found]
        click.echo(json.dumps(documents, allow_nan=False))
        return
    for _ in _ticks(every):
        with apart():
            documents = [_tried(kit) for kit in found]
        click.echo(json.dumps(documents, allow_nan=False))


def _tried(kit: WorkerKit) -> Any:
    """A snapshot, or why there is none: whoever reads each line is told of both."""
    from workerkit.top.look import snapshot
    from workerkit.top.snapshot import as_json

    try:
        return as_json(snapshot(kit))
    except StoreError as error:
        return {"at": time.time(), "namespace": kit.settings.namespace, "error": str(error)}


def _ticks(every: float) -> Iterator[None]:
    due = time.monotonic()
    while True:
        yield
        sys.stdout.flush()
        due = max(due + every, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
