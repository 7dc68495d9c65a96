"""What leases, early refresh and stale values do to a key that keeps expiring under many callers: a run, a plot."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import _churn
from _crew import Crew
from _report import figure, replace_block
from _stampede import Seen
from _stories import markdown, show

PROCESSES = 4
BIN = 0.25  # seconds
WAYS: dict[str, Callable[[str], Any]] = {
    "no lease": _churn.plain,
    "leases": _churn.leases,
    "leases, early refresh": _churn.early,
    "leases, stale": _churn.stale,
}


class Story(NamedTuple):
    """What one way came to; moments in seconds since the callers began."""

    way: str
    seconds: float
    computations: list[float]
    calls: list[tuple[float, float]]  # when, and how long until the answer

    def per_bin(self) -> list[tuple[float, float, float]]:
        """For each BIN: its begin, computations begun a second, the 99th percentile of the callers' waits in ms."""
        counts = Counter(int(moment / BIN) for moment in self.computations)
        waits: dict[int, list[float]] = {}
        for moment, wait in self.calls:
            waits.setdefault(int(moment / BIN), []).append(wait)
        bins = range(int(self.seconds / BIN))
        return [(number * BIN, counts[number] / BIN, 1e3 * tail(waits.get(number, []))) for number in bins]

    def figures(self) -> dict[str, float]:
        """Without the first TTL, in which every way starts from nothing."""
        waits = [wait for moment, wait in self.calls if moment >= _churn.TTL]
        late = [moment for moment in self.computations if moment >= _churn.TTL]
        lives = (self.seconds - _churn.TTL) / _churn.TTL
        slow = sum(wait > _churn.COST / 2 for wait in waits)
        return {
            "computations a TTL": len(late) / lives,
            "calls that waited for a computation, %": 100 * slow / len(waits),
            "wait p99, ms": 1e3 * tail(waits),
            "longest wait, ms": 1e3 * max(waits),
            "calls": len(waits),
        }


def tail(waits: list[float]) -> float:
    """The 99th percentile."""
    return quantiles(waits, n=100)[98] if len(waits) > 1 else sum(waits)


def tell(way: str, url: str, seconds: float) -> Story:
    with Crew(PROCESSES) as crew:
        crew.do(time.monotonic)  # they are there
        at = time.monotonic() + 0.5
        seen: list[Seen] = crew.do(_churn.churn, WAYS[way], url, at, at + seconds)
    computations = sorted(begin - at for process in seen for begin, _ in process.computations)
    return Story(way, seconds, computations, [(s - at, e - s) for process in seen for s, e in process.calls])


def subject() -> str:
    callers = f"{PROCESSES} processes of {_churn.THREADS} threads"
    return f"One key, fresh for {_churn.TTL:g} s, computed in {_churn.COST:g} s, asked for by {callers}"


def draw(file: Path, stories: Sequence[Story]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "workerkit", "svg.fonttype": "none", "font.size": 9})
    drawing = Figure(figsize=(10, 4.6), layout="constrained")
    axes = drawing.subplots(2, len(stories), sharex=True, sharey="row", squeeze=False)
    for column, story in enumerate(stories):
        moments, rates, waits = (list(values) for values in zip(*story.per_bin(), strict=True))
        upper, lower = axes[0][column], axes[1][column]
        upper.bar(moments, rates, width=BIN, align="edge", color="#c92a2a" if column == 0 else "#2b6cb0")
        upper.set_yscale("log")
        upper.minorticks_off()
        upper.set_ylim(1, 1000)
        upper.set_title(f"{story.way}\n{len(story.computations)} computations")
        lower.step([*moments, story.seconds], [*waits, waits[-1]], where="post", color="#333333", linewidth=1)
        lower.set_xlabel("seconds")
    axes[1][0].set_ylim(0, 1.05 * max(wait for story in stories for *_, wait in story.per_bin()))
    axes[0][0].set_ylabel("computations a second")
    axes[1][0].set_ylabel("callers' wait, p99, ms")
    drawing.suptitle(subject())
    drawing.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> int:
    from workerkit.testing.servers import start_server

    parser = argparse.ArgumentParser(prog="scripts/bench stampede", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg or .png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="put the table into a page with a place for it")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each way (default 12)")
    wanted = parser.parse_args()
    stories = []
    for way in WAYS:
        with start_server("valkey", tcp=True) as server:
            stories.append(tell(way, server.url, wanted.seconds))
    show(subject(), stories, figure)
    if wanted.plot:
        draw(wanted.plot, stories)
    if wanted.json:
        wanted.json.write_text(json.dumps({story.way: story.figures() for story in stories}, indent=2) + "\n")
    if wanted.markdown:
        replace_block(wanted.markdown, "stampede", markdown(stories, figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
