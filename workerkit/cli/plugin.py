"""`celery -A shop workerkit ...`: the commands that need an app. Every `celery` command imports this: it is light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from workerkit.errors import WorkerKitError

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit


class Commands(click.Group):
    """Imports the subgroup `warm` when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "warm"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "warm":
            return super().get_command(ctx, cmd_name)
        from workerkit.cli.warm import warm

        return warm


@click.group(cls=Commands)
def workerkit() -> None:
    """What the app's workerkit does in the whole fleet."""


@workerkit.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def stats(ctx: click.Context, as_json: bool) -> None:
    """Show what the cache did: hits, misses, computations and seconds saved, by function."""
    from workerkit.cli.stats import show

    try:
        for kit in kits(ctx):
            show(kit.cache.stats(), as_json=as_json)
    except WorkerKitError as error:
        raise click.ClickException(str(error)) from None


def kits(ctx: click.Context) -> list[WorkerKit]:
    """The app's kits. Raises ClickException when there is none."""
    if ctx.obj is None:
        raise click.UsageError("of which app? write workerkit -A shop ..., as for celery")
    app: Any = ctx.obj.app
    app.loader.import_default_modules()  # the kit may be made in a module that nothing has imported yet
    found: list[WorkerKit] = getattr(app, "workerkits", [])
    if not found:
        raise click.ClickException(f"{app.main or 'this app'} has no workerkit: write kit = WorkerKit(app)")
    return found
