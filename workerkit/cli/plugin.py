"""`celery -A shop workerkit ...`: the commands that need an app. Every `celery` command imports this: it is light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from workerkit.errors import WorkerKitError

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit


@click.group()
def workerkit() -> None:
    """What the app's workerkit does in the whole fleet."""


@workerkit.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def stats(ctx: click.Context, as_json: bool) -> None:
    """Show what the cache did: hits, misses, computations and seconds saved, by function."""
    from workerkit.cli.stats import show

    try:
        for kit in _kits(ctx.obj.app):
            show(kit.cache.stats(), as_json=as_json)
    except WorkerKitError as error:
        raise click.ClickException(str(error)) from None


def _kits(app: Any) -> list[WorkerKit]:
    app.loader.import_default_modules()  # the kit may be made in a module that nothing has imported yet
    kits: list[WorkerKit] = getattr(app, "workerkits", [])
    if not kits:
        raise click.ClickException(f"{app.main or 'this app'} has no workerkit: write kit = WorkerKit(app)")
    return kits
