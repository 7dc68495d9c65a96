"""`workerkit bench`: what Redis costs from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from workerkit.bench import Figure, run
from workerkit.cli.sheet import Sheet, say
from workerkit.cli.verb import Answer, Query, Refusal, kits, titles

SLOW = 5.0  # ms


@click.command(cls=Query)
@click.option("--url", help="Measure this Redis instead of an app's: redis://localhost:6379/1")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="How long, about.")
@click.pass_context
def bench(ctx: click.Context, url: str | None, seconds: float) -> Answer:
    """Measure what calls to Redis cost from this machine: the app's (-A), or that of --url.

    One call after the other, in a namespace of its own (wkbench-...), which is emptied at the end. Warns when one call
    in a hundred takes longer than 5 ms.
    """
    figures = run({"redis_url": url} if url else _settings(ctx), seconds)
    slow = [figure for figure in figures if figure.p99 > SLOW]

    def show() -> None:
        _show(figures)
        for figure in slow:
            say(f"slow: 1 {figure.name} in 100 takes longer than {figure.p99:.1f} ms; {SLOW:g} ms would do")

    rows = [{**figure._asdict(), "slow": figure in slow} for figure in figures]
    return Answer(rows, show)


def _settings(ctx: click.Context) -> dict[str, Any]:
    if ctx.obj is None:
        raise Refusal("which Redis? write --url redis://localhost:6379/1, or workerkit -A shop bench")
    found = kits(ctx)
    if len(found) > 1:
        raise Refusal(f"the app has several kits; write {' or '.join(f'--kit {each}' for each in titles(found))}")
    return found[0].settings.model_dump()


def _show(figures: Sequence[Figure]) -> None:
    sheet = Sheet("", ">calls", ">p50", ">p99", ">a second")
    for figure in figures:
        sheet.add(figure.name, figure.calls, f"{figure.p50:.3f} ms", f"{figure.p99:.3f} ms", round(figure.per_second))
    sheet.show()
