"""`workerkit cache ...`: memoized functions, why a call hits or misses, and forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from workerkit.api.memo import Memo
from workerkit.cache.ledger import CacheStats
from workerkit.cli.arguments import parsed
from workerkit.cli.named import Named, memos, named, pick, theirs
from workerkit.cli.sheet import Sheet, say
from workerkit.cli.stats import stats
from workerkit.cli.verb import Answer, Verbs, kits
from workerkit.core.durations import humanize

_CALL = {"ignore_unknown_options": True}  # -1 is an argument of the call


@click.group(cls=Verbs)
def cache() -> None:
    """See, explain and forget what is cached.

    A function is named as `cache ls` does, or by the end of that name: price for shop.tasks.price. Arguments of a call
    are JSON where they are that, else text: 7 '{"a": 1}' user=3.
    """


cache.add_command(stats)


@cache.command()
@click.pass_context
def ls(ctx: click.Context) -> Answer:
    """Show the app's memoized functions, how long they are kept, and how often they hit."""
    there = named(ctx, memos(ctx))
    counts = {id(kit): kit.cache.stats() for kit in kits(ctx)}
    rows = [_row(each, counts[id(each.kit)].get(each.name, CacheStats())) for each in there]

    def show() -> None:
        if not rows:
            say('nothing is memoized: write @kit.memoize("10m") above a function')
            return
        sheet = Sheet("function", "fresh", "stale", ">calls", ">hit rate", ">saved")
        for row in rows:
            rate = f"{row['hit_rate']:.1%}" if row["calls"] else None
            saved = humanize(float(f"{row['saved']:.3g}"))
            sheet.add(row["function"], _life(row["ttl"]), _life(row["stale"]), row["calls"], rate, saved)
        sheet.show()

    return Answer(rows, show)


@cache.command(context_settings=_CALL)
@click.argument("name")
@click.argument("arguments", nargs=-1)
@click.pass_context
def explain(ctx: click.Context, name: str, arguments: Sequence[str]) -> Answer:
    """Show what is known of one call's entry, and what the next such call will do; nothing is changed or counted."""
    function, memo, call = _call(ctx, name, arguments)
    with theirs(f"{function} has a key or tag that failed"):
        found, tags = memo.explain(*call.args, **call.kwargs), memo.tags(*call.args, **call.kwargs)

    def show() -> None:
        say(f"{function}({call})")
        for line in str(found).splitlines():
            say(line)
        for tag in tags:
            say(f"  tag       {tag}")

    return Answer({"function": function, "call": f"{function}({call})", **asdict(found), "tags": tags}, show)


@cache.command(context_settings=_CALL)
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1)
@click.option("--tag", "tags", multiple=True, help="Forget all that is under this tag instead; may be repeated.")
@click.pass_context
def invalidate(ctx: click.Context, name: str | None, arguments: Sequence[str], tags: Sequence[str]) -> Answer:
    """Forget the entry of one call, or all that is under a tag; a computation under way is not kept either."""
    if (name is None) == (not tags):
        raise click.UsageError("write a function and the arguments of a call, or --tag TAG (for all calls: cache bust)")
    if name is None:
        for kit in kits(ctx):
            for tag in tags:
                kit.cache.invalidate(tag=tag)
        return Answer({"tags": list(tags)}, lambda: say(f"forgotten: all that was under {', '.join(tags)}"))
    function, memo, call = _call(ctx, name, arguments)
    with theirs(f"{function} has a key or tag that failed"):
        there = memo.invalidate(*call.args, **call.kwargs)
    said = f"forgotten: {function}({call})" if there else f"nothing was cached of {function}({call})"
    return Answer({"call": f"{function}({call})", "forgotten": there}, lambda: say(said))


@cache.command()
@click.argument("name")
@click.pass_context
def bust(ctx: click.Context, name: str) -> Answer:
    """Forget all entries of a function; computations under way are not kept either.

    It looks at every key of the store, a step at a time: some seconds where there are millions.
    """
    found = _named(ctx, name)
    count = found.thing.bust()
    said = f"{found.name}: {count:,} entr{'y' if count == 1 else 'ies'} forgotten"
    return Answer({"function": found.name, "forgotten": count}, lambda: say(said))


def _named(ctx: click.Context, name: str) -> Named[Memo[Any, Any]]:
    return pick("memoized function", name, named(ctx, memos(ctx)), tail=True)


def _call(ctx: click.Context, name: str, words: Sequence[str]) -> tuple[str, Memo[Any, Any], Any]:
    found = _named(ctx, name)
    return found.name, found.thing, parsed(found.name, found.thing, words)


def _row(each: Named[Memo[Any, Any]], stats: CacheStats) -> dict[str, Any]:
    options = each.thing.function.options
    return {
        "function": each.name,
        "kit": each.title,
        "ttl": None if callable(options.ttl) else options.ttl,
        "stale": options.stale,
        "l1": options.l1 is not None,
        "tags": len(options.tags),
        "calls": stats.calls,
        "hit_rate": stats.hit_rate,
        "saved": stats.saved,
    }


def _life(seconds: float | None) -> str:
    if seconds is None:
        return "by result"
    return humanize(seconds) if seconds else "-"
