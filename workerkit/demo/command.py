"""`workerkit demo`: the command."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import click
from rich.console import Console

from workerkit.cli.verb import Command
from workerkit.demo.patience import Interrupted, Patience
from workerkit.demo.run import run
from workerkit.demo.show import Lines, Picture, Screen
from workerkit.demo.summary import report, table
from workerkit.errors import DefinitionError

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command, epilog=None)
@click.option("--json", "json_file", type=_FILE, help="Write the figures to this file.")
@click.option("--svg", "svg_file", type=_FILE, help="Write a picture of the screen to this file.")
@click.option("--seed", type=int, help="Of the lookups' random keys.  [default: another each time]")
@click.option("--quiet", is_flag=True, help="Print the summary only.")
def demo(json_file: Path | None, svg_file: Path | None, seed: int | None, quiet: bool) -> None:
    """Run workerkit against a rate-limited API, freeze, kill and crash what there is, and show what came of it.

    Starts two private Valkeys (the broker's, and the kit's, which is killed in the middle), an HTTP API that enforces
    its limit, two Celery workers with 3 children each and a beat; takes half a minute and leaves nothing behind. Exits
    with 0 when every figure of the summary is within its bound, else with 1.
    """
    for path in filter(None, (json_file, svg_file)):
        _check_writable(path)
    console = Console(soft_wrap=not os.isatty(1))
    seed = random.SystemRandom().randrange(10_000) if seed is None else seed
    screen = Screen(console) if console.is_terminal and not quiet else Lines(console, quiet=quiet)
    picture = Picture(screen)
    try:
        with Patience() as patience, screen:
            found = run(seed, patience, picture)
    except Interrupted as interrupted:
        name = signal.Signals(interrupted.number).name
        click.echo(f"workerkit: ended by {name}; everything is cleaned up", err=True)
        raise SystemExit(128 + interrupted.number) from None
    console.print(table(found))
    figures = report(found)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if svg_file is not None:
        picture.save(svg_file, found)
    console.print("all figures are within their bounds" if figures["ok"] else f"missed: {', '.join(figures['missed'])}")
    raise SystemExit(0 if figures["ok"] else 1)


def _check_writable(path: Path) -> None:
    """Before the run, not half a minute later."""
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise DefinitionError(f"cannot write to {path}: give a file in a folder that exists and that you may write to")
