"""`workerkit`: the command line. A command's module is imported when the command is run, so that help comes at once."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click

from workerkit import __version__
from workerkit.cli.verb import Refusal, apart, where

if TYPE_CHECKING:
    from celery import Celery

# By name: a command may live on any floor. Name -> (module, the first line of its help).
COMMANDS = {
    "bench": ("workerkit.cli.bench", "Measure what calls to Redis cost from this machine (-A or --url)."),
    "cache": ("workerkit.cli.cache", "See, explain and forget what an app's cache holds (-A)."),
    "demo": ("workerkit.demo.command", "Run workerkit against a rate-limited API and show what came of it."),
    "doctor": ("workerkit.cli.doctor", "Check an app's servers and settings, and say what mends them (-A)."),
    "jobs": ("workerkit.cli.jobs", "See, follow and cancel an app's jobs (-A)."),
    "limits": ("workerkit.cli.limits", "See, test, change and pause an app's limiters (-A)."),
    "metrics": ("workerkit.cli.metrics", "Print or serve the fleet's metrics for Prometheus (-A)."),
    "server": ("workerkit.cli.server", "Run a private Valkey on this machine, for development, until Ctrl+C."),
    "stats": ("workerkit.cli.stats", "Show what an app's cache did (-A)."),
    "top": ("workerkit.cli.top", "Watch an app's fleet live (-A)."),
    "waitlist": ("workerkit.cli.waitlist", "See, explain and cancel an app's parked tasks (-A)."),
    "warm": ("workerkit.cli.warm", "See, run and pause an app's cache warming (-A)."),
}


class Commands(click.Group):
    """Finds a command by its module's name; the same for `workerkit` and for `celery workerkit`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=Commands)
@click.version_option(__version__, package_name="workerkit")
@click.option("-A", "--app", help="The Celery app, as for celery: shop, or shop.tasks:app.")
@click.pass_context
def main(ctx: click.Context, app: str | None) -> None:
    """Memoized task results, distributed rate limits, job state and cache warming for Celery on one Redis."""
    if app is not None:
        ctx.obj = SimpleNamespace(app=_app(app))


def _app(name: str) -> Celery:
    from celery.app.utils import find_app

    try:
        with apart():
            found: Celery = find_app(name)
    except Exception as error:  # noqa: BLE001 - the app's own code, which may raise anything
        raise Refusal(f"-A {name}: {where(error)}") from None
    return found


if __name__ == "__main__":
    main()
