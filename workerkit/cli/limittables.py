"""Limiters as tables, and as what JSON takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workerkit.api.limiter import Limiter
from workerkit.cli.named import Named
from workerkit.cli.sheet import Sheet, say
from workerkit.core.durations import humanize
from workerkit.limits.usage import RateUsage, Usage


def standing(found: Named[Limiter], most: int) -> dict[str, Any]:
    """A limiter for JSON: what was decided, and the `most` keys that are asked for most."""
    limiter, stats = found.thing, found.thing.stats()
    waiting = {line.key: line.waiting for line in found.kit.waitlist.lines(limiter.name)}
    labels = list(dict.fromkeys([*[each.key for each in limiter.busiest(most)], *waiting]))[:most]
    return {
        "limiter": found.name,
        "kit": found.title,
        "rates": list(map(str, limiter.definition.rates)),
        "concurrency": limiter.definition.concurrency,
        **stats._asdict(),
        "keys": [_key(limiter, label, waiting.get(label, 0)) for label in labels or [limiter.label("")]],
    }


def parked(found: Named[Limiter], label: str) -> int:
    """How many tasks are parked for a key."""
    return sum(line.waiting for line in found.kit.waitlist.lines(found.name) if line.key == label)


def show_all(found: Sequence[Mapping[str, Any]]) -> None:
    """Print how limiters stand, a row for each key."""
    if not found:
        say('there is no limiter: write kit.limiter("stripe", "100/s")')
        return
    sheet = Sheet("limiter", "key", "left", ">held", ">waiting", ">refused", "state")
    for limiter in found:
        for number, key in enumerate(limiter["keys"]):
            left = ", ".join(f"{rate['remaining']:,} of {rate['rate']}" for rate in key["rates"])
            held = None if key["concurrency"] is None else f"{key['holders']}/{key['concurrency']}"
            waiting = key["parked"] + len(key["waiting"])
            refused = "" if number else limiter["refused"]
            name = "" if number else limiter["limiter"]
            sheet.add(name, _shortened(key["key"]), left or "-", held, waiting, refused, key["state"])
    sheet.show()


def show_one(name: str, usage: Usage, waiting: Sequence[str], parked: int) -> None:
    """Print one key of a limiter."""
    states = [f"paused for {humanize(round(usage.paused, 1))}"] if usage.paused else []
    states += ["set at run time"] if usage.configured else []
    if usage.concurrency is not None:
        states.append(f"{usage.holders} of {usage.concurrency} slots held")
    states.append(f"{parked:,} task{'s' * (parked != 1)} parked")
    say(f"{name}: {', '.join(states)}")
    if usage.rates:
        sheet = Sheet("rate", ">limit", ">left", ">unanswered", "all free in", "learned")
        for rate in usage.rates:
            free = humanize(round(rate.reset_after, 3)) if rate.reset_after else "-"
            sheet.add(rate.rate, rate.limit, rate.remaining, rate.held, free, _learned(rate))
        sheet.show()
    for who in waiting:
        say(f"waits: {who}")


def _key(limiter: Limiter, label: str, parked: int) -> dict[str, Any]:
    usage, waiting = limiter.labelled(label)
    return {
        "key": "" if label == limiter.label("") else label,
        "rates": [
            {"rate": rate.rate, "limit": rate.limit, "remaining": rate.remaining, "reset_after": rate.reset_after}
            for rate in usage.rates
        ],
        "holders": usage.holders,
        "concurrency": usage.concurrency,
        "paused": usage.paused,
        "state": _state(usage),
        "waiting": waiting,
        "parked": parked,
    }


def _state(usage: Usage) -> str:
    if usage.paused:
        return "paused"
    full = usage.concurrency is not None and usage.holders >= usage.concurrency
    if full or any(not rate.remaining for rate in usage.rates):
        return "used up"
    if any(rate.learned < 1 for rate in usage.rates):
        return "learned"
    return "set" if usage.configured else "ok"


def _learned(rate: RateUsage) -> str:
    said = [f"{rate.learned:.0%} of the rate"] if rate.learned < 1 else []
    if rate.told is not None:
        said.append(f"the API said {rate.told:,} left")
    return ", ".join(said) or "-"


def _shortened(key: str) -> str:
    return key if len(key) <= 20 else f"{key[:17]}..."
