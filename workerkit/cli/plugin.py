"""`celery -A shop workerkit ...`. Every `celery` command imports this: it is light."""

from __future__ import annotations

import click

from workerkit.cli.main import Commands


@click.group(cls=Commands)
def workerkit() -> None:
    """What the app's workerkit does in the whole fleet."""
