"""`workerkit limits ...`: what a limiter has left, who waits for it, and changing it at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from workerkit.api.limiter import Limiter
from workerkit.cli import limittables
from workerkit.cli.named import Named, named, pick
from workerkit.cli.sheet import say
from workerkit.cli.verb import Answer, Refusal, Verbs
from workerkit.core.durations import humanize, seconds

_KEY = click.option("--key", default="", help="The account, host, ... that is meant; none for a limiter without keys.")


@click.group(cls=Verbs)
def limits() -> None:
    """See, test, change and pause the app's limiters, for the whole fleet."""


@limits.command()
@click.option("--all", "everything", is_flag=True, help="Also those that warmups make of their budgets.")
@click.option("--keys", "most", default=3, type=click.IntRange(min=1), show_default=True, help="Keys of each to list.")
@click.pass_context
def ls(ctx: click.Context, everything: bool, most: int) -> Answer:
    """Show each limiter by the keys that are asked for most: what they have left, and how many wait.

    A key is shown as a digest, unless its limiter was made with name_keys=True.
    """
    there = [each for each in _limiters(ctx) if everything or not each.thing.internal]
    found = [limittables.standing(each, most) for each in there]
    return Answer(found, lambda: limittables.show_all(found))


@limits.command()
@click.argument("limiter")
@_KEY
@click.pass_context
def show(ctx: click.Context, limiter: str, key: str) -> Answer:
    """Show one key of a limiter: what each rate has left, who holds and who waits, what was set or learned."""
    found = _limiter(ctx, limiter)
    usage, waiting = found.thing.usage(key), found.thing.waiting(key)
    parked = limittables.parked(found, found.thing.label(key))
    data = {**_about(found, key), **asdict(usage), "waiting": waiting, "parked": parked}
    return Answer(data, lambda: limittables.show_one(_said(found, key), usage, waiting, parked))


@limits.command(name="set")
@click.argument("limiter")
@click.argument("rates", nargs=-1)
@_KEY
@click.option("--concurrency", type=click.IntRange(min=1), help="Slots that may be held at once.")
@click.option("--clear", is_flag=True, help="Go back to what the code says.")
@click.pass_context
def set_(
    ctx: click.Context, limiter: str, rates: Sequence[str], key: str, concurrency: int | None, clear: bool
) -> Answer:
    """Set the RATES of one key (all that it has), or its --concurrency, from the next decision on; kept for a year.

    For example: workerkit -A shop limits set stripe 50/s 2000/h --key acct_7
    """
    if clear == bool(rates or concurrency):
        raise click.UsageError('write the rates, such as "50/s", or --concurrency N; --clear goes back to the code\'s')
    found = _limiter(ctx, limiter)
    found.thing.configure(key, *rates, concurrency=concurrency)
    parts = [*rates, *([f"concurrency {concurrency}"] if concurrency else [])]
    said = f"{_said(found, key)}: {', '.join(parts) or 'as the code says'}, from now on"
    return Answer({**_about(found, key), "rates": list(rates), "concurrency": concurrency}, lambda: say(said))


@limits.command()
@click.argument("limiter")
@click.argument("duration")
@_KEY
@click.pass_context
def pause(ctx: click.Context, limiter: str, duration: str, key: str) -> Answer:
    """Refuse everything for DURATION ("30s", "10m") from now, whatever pause there was; `limits reset` ends it.

    Slots that are held are not touched.
    """
    found, length = _limiter(ctx, limiter), seconds(duration, what="DURATION")
    found.thing.pause(key, length)
    said = f"{_said(found, key)}: paused for {humanize(length)}"
    return Answer({**_about(found, key), "paused": length}, lambda: say(said))


@limits.command()
@click.argument("limiter")
@_KEY
@click.pass_context
def reset(ctx: click.Context, limiter: str, key: str) -> Answer:
    """Forget what was charged and learned, and a pause; held slots stay held, and what was set stays set."""
    found = _limiter(ctx, limiter)
    found.thing.reset(key)
    said = f"{_said(found, key)}: charges, pause and what was learned are forgotten"
    return Answer({**_about(found, key), "reset": True}, lambda: say(said))


@limits.command()
@click.argument("limiter")
@click.argument("units", nargs=-1)
@_KEY
@click.option("--cost", default=1, show_default=True, type=click.IntRange(min=1), help="What the call counts for.")
@click.pass_context
def test(ctx: click.Context, limiter: str, units: Sequence[str], key: str, cost: int) -> Answer:
    """Say whether a call would be admitted now, without charging it; exits with 1 when it would not.

    UNITS say what it takes of rates that count something else: tokens=800
    """
    found = _limiter(ctx, limiter)
    decision = found.thing.peek(key, cost=cost, **_units(found, units))
    if decision.allowed:
        said = f"admitted: {decision.remaining:,} left"
    else:
        said = f"refused: {decision.bound_by}; ask again in {humanize(round(decision.retry_after, 3))}"
    told = f"{_said(found, key)}: {said}"
    return Answer({**_about(found, key), **decision._asdict()}, lambda: say(told), int(not decision.allowed))


def _limiters(ctx: click.Context) -> list[Named[Limiter]]:
    return named(ctx, lambda kit: kit.limiters)


def _limiter(ctx: click.Context, name: str) -> Named[Limiter]:
    return pick("limiter", name, _limiters(ctx))


def _units(found: Named[Limiter], words: Sequence[str]) -> dict[str, int]:
    needed = found.thing.definition.named
    units = {}
    for word in words:
        name, equals, number = word.partition("=")
        if not (equals and number.isdecimal()):
            raise Refusal(f"{word!r:.60} is no amount of a unit; write it like tokens=800, and a key behind --key")
        units[name] = int(number)
    if lacking := sorted(needed - units.keys()):
        raise Refusal(f"limiter {found.name} counts {lacking[0]} too; say how many: {lacking[0]}=800")
    return units


def _about(found: Named[Limiter], key: str) -> dict[str, Any]:
    return {"limiter": found.name, "kit": found.title, "key": key}


def _said(found: Named[Limiter], key: str) -> str:
    return f"{found.name}/{key}" if key else found.name
