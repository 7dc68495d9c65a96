"""Warming what is asked for most, beside none, everything, and an oracle that knows: a run, tables, a plot."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _report import figure, replace_block
from _report import show as show_rows
from _rows import Row
from _stories import markdown, show
from _warm import REPORTED, WAYS, Load, Seen, watch

COLORS = {"none": "#868e96", "everything": "#e8590c", "hot": "#2b6cb0", "oracle": "#2b8a3e"}
SECONDS, QUICK = 120.0, 20.0
EQUAL = 0.02  # calls of the upstream may differ by that much between ours and the oracle
TRIES = 3  # to find how many keys the oracle may keep warm for as many calls
CURVES = {
    "hit rate, %": lambda seen, seconds: seen.hit_rate,
    "upstream calls a second": lambda seen, seconds: len(seen.calls) / seconds,
    "hot keys computed by readers, a second": lambda seen, seconds: hot(seen).paid / seconds,
}


class Line(NamedTuple):
    """One figure of every way, or one moment of a curve."""

    way: str
    of: Mapping[str, Any]

    def figures(self) -> Mapping[str, Any]:
        return self.of


def hot(seen: Seen) -> Seen:
    """What came of the keys that are most popular in truth."""
    return seen.popular(seen.load.hot)


def figures(seen: Seen) -> dict[str, float | None]:
    """Without the first cycle, in which every way starts from nothing."""
    late, tracked = seen.late, bool(seen.runs)
    return {
        "reads": len(late.reads),
        "hit rate, %": late.hit_rate,
        f"hit rate of the {seen.load.hot} hottest, %": hot(late).hit_rate,
        "upstream calls": len(late.calls),
        "by the warming": len(late.calls) - late.paid,
        "computed by readers": late.paid,
        f"of the {seen.load.hot} hottest, by readers": hot(late).paid,
        f"of the {REPORTED} hottest, by readers": late.popular(REPORTED).paid,
        # From the first run on, and not only after the first cycle.
        "of those kept warm, by readers": seen.broken if tracked else None,
        f"known of the {REPORTED} hottest, %": overlap(seen, seen.load.ranking[:REPORTED]),
        f"known of the {REPORTED} most read, %": overlap(seen, seen.most_read),
        "longest run, s": max(run.ended - run.began for run in seen.runs) if tracked else None,
    }


def overlap(seen: Seen, truth: Sequence[int]) -> float | None:
    return seen.overlap(truth) if seen.reported else None


def lines(told: Sequence[Seen]) -> list[Line]:
    by_way = {seen.way: figures(seen) for seen in told}
    return [Line(name, {way: of[name] for way, of in by_way.items()}) for name in figures(told[0])]


def curve(seen: Seen, name: str, step: float) -> Iterator[tuple[float, float]]:
    """The end of each step, and what came of it."""
    for number in range(int(seen.load.seconds / step + 1e-6)):
        part = seen.within(number * step, (number + 1) * step)
        yield (number + 1) * step, CURVES[name](part, step)


def moments(told: Sequence[Seen], name: str) -> list[Line]:
    """A curve as a table: a line for each life of an entry, the ways beside each other."""
    curves = {seen.way: dict(curve(seen, name, seen.load.ttl)) for seen in told}
    return [Line(f"{end:g} s", {way: of[end] for way, of in curves.items()}) for end in curves[told[0].way]]


def rows(told: Mapping[str, Seen]) -> Iterator[Row]:
    """Misses beside the oracle's, calls beside those of refreshing everything."""
    ours, oracle, everything = (told[way].late for way in ("hot", "oracle", "everything"))
    broken = told["hot"].broken
    missed, peer = 100 - ours.hit_rate, 100 - oracle.hit_rate
    extra = {
        "points": missed - peer,
        "broken": broken,
        "unknown": 100 - told["hot"].overlap(told["hot"].most_read),
        "calls_apart": abs(len(ours.calls) / len(oracle.calls) - 1),
    }
    goal = {"points": 2.0, "broken": 0, "unknown": 5.0, "calls_apart": EQUAL}
    ratio = missed / peer
    yield Row("warm.zipf.misses", "%", missed, peer, "oracle", ratio, ratio, ratio, 1, goal=goal, extra=extra)
    seconds = ours.load.seconds - ours.load.settled
    both = len(ours.calls) / seconds, len(everything.calls) / seconds
    worse = hot(everything).hit_rate - hot(ours).hit_rate
    goal, extra = {"ratio": 0.5, "hot_points": 0.0}, {"hot_points": worse}
    ratio = both[0] / both[1]
    yield Row("warm.zipf.calls", "/s", *both, "everything", ratio, ratio, ratio, 1, goal=goal, extra=extra)


def even(ours: Seen, load: Load) -> Seen:
    """The oracle, with as many keys as make about as many calls of the upstream."""
    keys, seen = load.hot, watch("oracle", load)
    for _ in range(TRIES - 1):
        more = len(ours.late.calls) - len(seen.late.calls)
        if abs(more) <= EQUAL * len(ours.late.calls):
            break
        keys += round(keys * more / max(1, len(seen.late.calls) - seen.late.paid))
        print(f"oracle: {more:+,} calls to ours; again, with {keys} keys", flush=True)
        seen = watch("oracle", load._replace(hot=keys))._replace(load=load)
    return seen


def subject(load: Load) -> str:
    return (
        f"Zipf(1.0) over {load.keys:,} keys, {load.rate:,} reads/s, fresh for {load.ttl:g} s; "
        f"the {load.hot} hottest are warmed every {load.every:g} s (seed {load.seed})"
    )


def ending(seen: Seen) -> str:
    late = seen.late
    return f"{late.hit_rate:.1f}% hits, {len(late.calls):,} upstream calls, {late.paid:,} of them by readers"


def draw(file: Path, told: Sequence[Seen]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "workerkit", "svg.fonttype": "none", "font.size": 9})
    drawing = Figure(figsize=(10, 7), layout="constrained")
    for axes, name in zip(drawing.subplots(len(CURVES), sharex=True), CURVES, strict=True):
        for seen in told:
            ends, values = zip(*curve(seen, name, 2 * seen.load.every), strict=True)
            axes.plot(ends, values, color=COLORS[seen.way], linewidth=1.4, label=f"{seen.way}: {ending(seen)}")
        axes.set_title(name, loc="left", fontsize=9)
        axes.axvline(told[0].load.settled, color="black", linewidth=0.8, linestyle=":")
        axes.set_ylim(None if name.startswith("hit rate") else 0, None)
    axes.set_xlabel("seconds (dotted: the first cycle is over)")
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    drawing.suptitle(subject(told[0].load))
    drawing.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> int:
    from _place import machine

    from workerkit.testing.servers import start_server

    parser = argparse.ArgumentParser(prog="scripts/bench warm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:g} s for each way, and less is learnt")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg or .png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="put the table into a page with a place for it")
    parser.add_argument("--seconds", type=float, help=f"for each way (default {SECONDS:g})")
    parser.add_argument("--seed", type=int, help="of what is read (default: another each time)")
    parser.add_argument("--rate", type=int, default=Load._field_defaults["rate"], help="reads a second")
    wanted = parser.parse_args()
    seed = random.randrange(1 << 16) if wanted.seed is None else wanted.seed
    load = Load(seed, seconds=wanted.seconds or (QUICK if wanted.quick else SECONDS), rate=wanted.rate)
    print(subject(load), flush=True)
    told: dict[str, Seen] = {}
    for way in WAYS:
        told[way] = even(told["hot"], load) if way == "oracle" else watch(way, load)
        print(f"{way}: {ending(told[way])}", flush=True)
    every = list(told.values())
    for name in CURVES:
        show(name, moments(every, name), figure)
    show(subject(load), lines(every), figure)
    with start_server("valkey", tcp=True) as server:
        about = machine(server)
    found = list(rows(told))
    show_rows("scripts/bench warm", found, about)
    if wanted.plot:
        draw(wanted.plot, every)
    if wanted.json:
        stories = {seen.way: figures(seen) for seen in every}
        words = {"machine": about, "load": load._asdict(), "rows": [row.json() for row in found], "stories": stories}
        words["curves"] = {
            name: {seen.way: list(curve(seen, name, 2 * load.every)) for seen in every} for name in CURVES
        }
        wanted.json.write_text(json.dumps(words, indent=2) + "\n")
    if wanted.markdown:
        replace_block(wanted.markdown, "warm", markdown(lines(every), figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
