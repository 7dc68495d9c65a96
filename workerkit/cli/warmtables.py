"""Warmups as tables that fit 80 columns, and as what JSON takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from workerkit.api.warmup import WarmStatus, Warmup
from workerkit.cli.sheet import Sheet, say
from workerkit.cli.times import ago, clock
from workerkit.core.durations import humanize
from workerkit.warming.plan import Arguments, Plan, Skip

_COUNTS = ("warmed", "fresh", "failed", "left")
_SHOWN_SKIPS = 3
_LONGEST = 50  # characters of an argument


def standing(status: WarmStatus, *, on_start: bool) -> dict[str, Any]:
    """A warmup for JSON."""
    last = status.last and status.last._asdict()
    return {**asdict(status), "last": last, "state": _state(status), "on_start": on_start}


def show_all(found: Sequence[WarmStatus], now: float) -> None:
    """Print how warmups stand at `now`, seconds since 1970."""
    if not found:
        say('no warmup is declared: write kit.warmup(fn, every="5m", args=[...])')
        return
    further = [name for name in ("missed", "overlaps") if any(getattr(each, name) for each in found)]
    sheet = Sheet("name", "schedule", "!next", "last run", ">runs", *[f">{name}" for name in further], "!state")
    for each in found:
        coming = "-" if each.paused else f"in {ago(max(each.next - now, 0))}"
        last = "-" if each.last is None else _counted(each.last._asdict())
        counts = [getattr(each, name) for name in ("runs", *further)]
        sheet.add(each.name, each.schedule, coming, last, *counts, _state(each))
    sheet.show()
    for each in found:
        if each.reason:
            say(f"{each.name} failed: {each.reason}")


def planned(warmup: Warmup, plan: Plan, most: int) -> dict[str, Any]:
    """A plan for JSON: its totals, and `most` calls of either kind."""
    function, picks = warmup.function, plan.picks[:most]
    return {
        "name": warmup.name,
        "calls": len(plan.picks),
        "seconds": plan.seconds,
        "share": plan.share,
        "skipped": _kinds(plan.skips),
        "picks": [{"call": _call(function, args), "cost": cost, "score": score} for args, cost, score in picks],
        "skips": [{"call": _call(function, args), "reason": reason} for args, reason in plan.skips[:most]],
    }


def show_plan(function: str, plan: Plan, most: int) -> None:
    """Print the `most` first calls of a plan, what all of them take, and what is left alone."""
    sheet = Sheet("call", ">cost", ">score")
    for pick in plan.picks[:most]:
        sheet.add(_call(function, pick.arguments), _rounded(pick.cost), f"{pick.score:.3g}")
    sheet.show()
    if len(plan.picks) > most:
        say(f"and {len(plan.picks) - most:,} more")
    share = f"; {plan.share}" if plan.share else ""
    many = len(plan.picks)
    took = f"{many:,} call{'s' * (many != 1)} in about {_rounded(plan.seconds)}{share}" if many else "nothing"
    say(f"to refresh: {took}")
    if plan.skips:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in _kinds(plan.skips).items())
        say(f"left alone: {kinds}")
        for skip in plan.skips[:_SHOWN_SKIPS]:
            say(f"  {_call(function, skip.arguments)} {skip.reason}")


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print what runs did."""
    if not runs:
        say("never run")
        return
    sheet = Sheet("ended", "took", *[f">{name}" for name in _COUNTS], "why")
    for run in runs:
        why = "asked for" if run["tick"] is None else "due"
        counts = [run[name] for name in _COUNTS]
        why = f"{why}; {run['reason']}" if run["reason"] else why
        sheet.add(clock(run["at"]), _rounded(run["seconds"]), *counts, why)
    sheet.show()


def show_said(told: Sequence[Mapping[str, Any]]) -> None:
    """Print what came of runs that were asked for."""
    for run in told:
        say(_said(run))
    if not told:
        say("nothing has on_start=True")


def _said(run: Mapping[str, Any]) -> str:
    """What came of a run that was asked for, in a line."""
    texts = {
        "sent": "handed to the workers",
        "refused": "refused: another run is under way",
        "timeout": "has not ended in time; is there a worker to run it?",
    }
    text = texts.get(run["state"]) or f"{run['state']}: {_ended(run)}"
    return f"{run['name']}: {text}"


def _ended(run: Mapping[str, Any]) -> str:
    return run["reason"] or f"{_counted(run)} in {_rounded(run['seconds'])}"


def _state(status: WarmStatus) -> str:
    if status.running is not None:
        return "running"
    if status.paused:
        return "paused"
    if status.reason:
        return "failed"
    return "idle" if status.runs else "never run"


def _counted(run: Mapping[str, Any]) -> str:
    return ", ".join(f"{run[name]:,} {name}" for name in _COUNTS if run[name]) or "nothing"


def _kinds(skips: Sequence[Skip]) -> dict[str, int]:
    """How many are left alone for each reason, without what each adds to it ("fresh for 9m" is fresh)."""
    return dict(Counter(skip.reason.partition(" for ")[0] for skip in skips).most_common())


def _call(function: str, arguments: Arguments) -> str:
    args, kwargs = arguments
    return (
        f"{function}({', '.join([*map(_short, args), *(f'{key}={_short(value)}' for key, value in kwargs.items())])})"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _rounded(seconds: float) -> str:
    """To what a prediction is worth."""
    return humanize(float(f"{seconds:.3g}"))
