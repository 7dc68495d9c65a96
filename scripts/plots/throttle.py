"""A throttled task beside what Celery itself offers: many tasks sent at once to real workers, a table, a plot."""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from _limits_bound import most_within
from _place import machine
from _report import figure, replace_block
from _rows import Row
from _stories import markdown, show
from _throttle import CHILDREN, WORKERS, Seen, app_of, watch

WAYS = {  # each with its task
    "kit.throttle": "throttled",
    "retry(countdown)": "retried",
    "back-off, 3 retries": "backed_off",
    "back-off, endless": "backed_off_for_ever",
}
COLORS = ("#2b6cb0", "#c92a2a", "#e8590c", "#7048a8")
TASKS, QUICK = 1000, 200
AMOUNT = 100  # a second
LIMIT = 60.0  # seconds for each way
GOAL = {"of_ideal": 1.03, "mean_deliveries": 2.2, "over": 0}
STEP = 0.05  # seconds between two points of the plot


class Story(NamedTuple):
    """What one way made of so many tasks."""

    way: str
    amount: int  # that may start a second
    tasks: int
    seen: Seen

    @property
    def makespan(self) -> float:
        """Seconds from the first start to the last."""
        return self.seen.starts[-1] if self.seen.starts else 0.0

    @property
    def of_ideal(self) -> float:
        """The makespan to that of a fleet that knows when to come, for as many starts; 1 where nobody has to wait."""
        ideal = (len(self.seen.starts) - self.amount) / self.amount
        return self.makespan / ideal if ideal > 0 else 1.0

    @property
    def most(self) -> int:
        return most_within(((each, each) for each in self.seen.starts), 1.0)

    def figures(self) -> dict[str, float]:
        seen = self.seen
        return {
            "done": seen.done,
            "lost": seen.lost,
            # Not by then, or never: an attempt may write RETRY after the next one has written how it ended.
            "no result": self.tasks - seen.done - seen.lost,
            "wrong results": seen.wrong,
            "starts": len(seen.starts),
            "most starts in any 1 s": self.most,
            # How long the fleet takes for what it may start at once; the ideal takes no time for it.
            "first burst, s": max(seen.starts[: self.amount], default=0.0),
            "makespan, s": self.makespan,
            "of ideal": self.of_ideal,
            "deliveries a task": fmean(seen.deliveries),
            "deliveries, p99": percentile(seen.deliveries, 99),
            "deliveries, most": max(seen.deliveries),
            "retries, most": seen.retries,
        }

    def latest(self, moment: float) -> int:
        """Starts in the second before it."""
        starts = self.seen.starts
        return bisect_right(starts, moment) - bisect_right(starts, moment - 1.0)


class Line(NamedTuple):
    """One figure of every way: there are more figures than ways, so the table stands on its side."""

    way: str
    of: Mapping[str, float]

    def figures(self) -> Mapping[str, float]:
        return self.of


def lines(stories: Sequence[Story]) -> list[Line]:
    figures = {story.way: story.figures() for story in stories}
    return [Line(name, {way: of[name] for way, of in figures.items()}) for name in stories[0].figures()]


def percentile(values: Sequence[int], percent: int) -> int:
    """The smallest that so many percent of the values do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def rows(ours: Story, peers: Sequence[Story]) -> Iterator[Row]:
    """Beside those who did it all: that others were at their end sooner is no merit."""
    more = {
        "of_ideal": ours.of_ideal,
        "mean_deliveries": fmean(ours.seen.deliveries),
        "over": max(0, ours.most - ours.amount),
    }
    for peer in peers:
        if ours.seen.done == peer.seen.done == peer.tasks:
            both = ours.makespan, peer.makespan
            ratio = ours.makespan / peer.makespan
            extra = {**more, "peer_mean_deliveries": fmean(peer.seen.deliveries)}
            yield Row("throttle.saturated", "s", *both, peer.way, ratio, ratio, ratio, 1, goal=GOAL, extra=extra)


def subject(tasks: int, amount: int) -> str:
    return f"{tasks:,} tasks sent at once, {amount}/s, {WORKERS} workers with {CHILDREN} children each"


def draw(file: Path, stories: Sequence[Story]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    mpl.rcParams.update({"svg.hashsalt": "workerkit", "svg.fonttype": "none", "font.size": 9})
    drawing = Figure(figsize=(11, 1.2 + 1.4 * len(stories)), layout="constrained")
    left, right = drawing.subfigures(1, 2, squeeze=False, width_ratios=(3, 2))[0]
    over_time = left.subplots(len(stories), sharex=True, sharey=True, squeeze=False)[:, 0]
    share = right.subplots()
    end = max(story.makespan for story in stories) + 1.0
    moments = [n * STEP for n in range(int(end / STEP) + 2)]
    for axes, story, color in zip(over_time, stories, COLORS, strict=False):
        axes.fill_between(moments, list(map(story.latest, moments)), color=color, alpha=0.85, linewidth=0)
        axes.axhline(story.amount, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{story.way}: {ending(story)}", color=color, loc="left", fontsize=9)
        counts = sorted(story.seen.deliveries)
        ranks = [100 * (n + 1) / len(counts) for n in range(len(counts))]
        share.step([counts[0], *counts], [0, *ranks], where="post", color=color, label=story.way)
    over_time[-1].set_xlabel("seconds since the first start")
    left.supylabel("starts in the last second (dotted: the limit)", fontsize=9)
    share.set(xscale="log", xlabel="deliveries", ylabel="% of the tasks, with so many deliveries or fewer")
    share.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    share.xaxis.set_major_formatter("{x:g}")
    share.minorticks_off()
    share.legend(loc="lower right", frameon=False)
    drawing.suptitle(subject(stories[0].tasks, stories[0].amount))
    drawing.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)


def ending(story: Story) -> str:
    """What became of the tasks, in a few words."""
    figures = story.figures()
    became = ", ".join(f"{figures[what]:,} {what}" for what in ("done", "lost", "no result") if figures[what])
    return f"{became}; {story.makespan:.1f} s, {figure(figures['deliveries a task'])} deliveries a task"


def main() -> int:
    from workerkit.testing.servers import start_server

    parser = argparse.ArgumentParser(prog="scripts/bench throttle", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} tasks instead of {TASKS:,}")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg or .png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="put the table into a page with a place for it")
    parser.add_argument("--rate", type=int, default=AMOUNT, help=f"starts a second (default {AMOUNT})")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds for each way (default {LIMIT:g})")
    wanted = parser.parse_args()
    tasks, amount = QUICK if wanted.quick else TASKS, wanted.rate
    stories = []
    with start_server("valkey", tcp=True) as server, app_of(server.url, amount) as module:
        about = machine(server)
        for way, task in WAYS.items():
            server.cli("FLUSHALL")
            stories.append(Story(way, amount, tasks, watch(module, task, tasks, wanted.limit)))
            print(f"{way}: {ending(stories[-1])}", flush=True)
    show(subject(tasks, amount), lines(stories), figure)
    if wanted.plot:
        draw(wanted.plot, stories)
    if wanted.json:
        found = {"machine": about, "rows": [row.json() for row in rows(stories[0], stories[1:])]}
        found["stories"] = {story.way: story.figures() for story in stories}
        wanted.json.write_text(json.dumps(found, indent=2) + "\n")
    if wanted.markdown:
        replace_block(wanted.markdown, "throttle", markdown(lines(stories), figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
