"""The cache's ledger as a table, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping

import click

from workerkit.cache.ledger import CacheStats, merged
from workerkit.cli.sheet import Sheet, say
from workerkit.cli.verb import Answer, Query, kits
from workerkit.core.durations import humanize

# What is not in every table: a column of zeros says nothing.
_FURTHER = ("l1", "stale", "remembered", "waits", "failures", "errors")


@click.command(cls=Query)
@click.pass_context
def stats(ctx: click.Context) -> Answer:
    """Show what the cache did: hits, misses, computations and seconds saved, by function."""
    found = merged(each for kit in kits(ctx) for each in kit.cache.stats().items())
    data = {name: {**each._asdict(), "calls": each.calls, "hit_rate": each.hit_rate} for name, each in found.items()}
    return Answer(data, lambda: show(found))


def show(stats: Mapping[str, CacheStats]) -> None:
    """Print the counts of each function, those that saved most first."""
    if not stats:
        say("nothing counted yet: no memoized function was called in the last 30 days")
        return
    further = [name for name in _FURTHER if any(getattr(each, name) for each in stats.values())]
    sheet = Sheet("function", *[f">{name}" for name in ("calls", "hit rate", "misses", "computed", *further, "saved")])
    for name, each in sorted(stats.items(), key=lambda item: -item[1].saved):
        counts = (each.misses, each.computations, *[getattr(each, name) for name in further])
        sheet.add(name, each.calls, f"{each.hit_rate:.1%}", *counts, humanize(round(each.saved, 1)))
    sheet.show()
