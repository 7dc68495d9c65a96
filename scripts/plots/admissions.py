"""What each algorithm admits of the same bursts: calls to one limiter on a real server, a table, a plot."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _limits_bound import Span, most_within
from _report import replace_block
from _stories import markdown, show

AMOUNT, PERIOD = 100, 1.0  # "100/s"
RATE = f"{AMOUNT}/{PERIOD:g}s"
# Seconds from a call to its arrival at the API, which responds at once; the way becomes shorter at a moment.
SLOW, QUICK, SWITCH = 0.3, 0.02, 3.0
WAYS: dict[str, dict[str, Any]] = {
    "window": {},
    'window, count="response"': {"count": "response"},
    "gcra, burst 10": {"algorithm": "gcra", "burst": 10},
    "fixed": {"algorithm": "fixed"},
}
# From, until (seconds after the beginning of one of the clock's seconds), calls a second.
BURSTS = ((0.7, 1.3, 500.0), (2.4, 2.45, 2000.0), (3.5, 3.55, 2000.0), (4.5, 6.5, 300.0))
END = 7.5


class Story(NamedTuple):
    """What one way admitted, by moments in seconds since the beginning."""

    way: str
    calls: int
    spans: list[Span]
    arrivals: list[float]

    @property
    def moments(self) -> list[float]:
        return sorted(end for _, end in self.spans)

    def figures(self) -> dict[str, float]:
        return {
            "calls": self.calls,
            "admitted": len(self.spans),
            f"most admitted in any {PERIOD:g} s": most_within(self.spans, PERIOD),
            f"most arriving in any {PERIOD:g} s": most_within(((each, each) for each in self.arrivals), PERIOD),
        }


def traffic() -> list[float]:
    """When the calls come, in seconds since the beginning."""
    return [start + n / pace for start, until, pace in BURSTS for n in range(round((until - start) * pace))]


async def tell(way: str, url: str) -> Story:
    """Every call at its moment: admitted, or refused and not tried again."""
    from workerkit import WorkerKit
    from workerkit.errors import RateLimited

    spans: list[Span] = []
    arrivals: list[float] = []
    async with WorkerKit(url=url, pool_max=200) as kit:
        limiter = kit.limiter("burst", RATE, **WAYS[way])
        await limiter.aio.peek()  # connected
        await asyncio.sleep(1.5 - time.time() % 1.0)  # half a second before one of the clock's windows begins
        at = time.monotonic() + 0.5 + (1.0 - (time.time() + 0.5) % 1.0) % 1.0

        async def call(moment: float) -> None:
            await asyncio.sleep(at + moment - time.monotonic())
            began = time.monotonic()
            try:
                async with limiter.aio.slot():
                    spans.append((began - at, time.monotonic() - at))
                    await asyncio.sleep(SLOW if moment < SWITCH else QUICK)
                    arrivals.append(time.monotonic() - at)
            except RateLimited:
                pass

        moments = traffic()
        await asyncio.gather(*map(call, moments))
    return Story(way, len(moments), spans, arrivals)


def whole(value: float) -> str:
    return f"{value:,.0f}"


def subject() -> str:
    way = f"arrive {SLOW * 1e3:g} ms later, after {SWITCH:g} s only {QUICK * 1e3:g} ms"
    return f'The same bursts under "{AMOUNT}/s"; calls {way}; refused ones are not tried again'


def draw(file: Path, stories: Sequence[Story]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(
        {"svg.hashsalt": "workerkit", "svg.fonttype": "none", "font.size": 9, "path.simplify_threshold": 1.0}
    )
    drawing = Figure(figsize=(12, 4.8), layout="constrained")
    axes = drawing.subplots(2, len(stories), sharex=True, sharey="row", squeeze=False)
    calls = traffic()
    for column, story in enumerate(stories):
        upper, lower = axes[0][column], axes[1][column]
        for moments, color in ((calls, "#bbbbbb"), (story.moments, "#2b6cb0")):
            upper.step([0.0, *moments, END], [0, *range(1, len(moments) + 1), len(moments)], where="post", color=color)
        _, _, admitted, arrived = story.figures().values()
        upper.set_title(f"{story.way}\nmost in any {PERIOD:g} s: {admitted}, on arrival {arrived}")
        lower.step(*latest(story.arrivals), where="post", color="#e8590c", linewidth=1, label="arrived")
        lower.step(*latest(story.moments), where="post", color="#2b6cb0", linewidth=1, label="admitted")
        lower.axhline(AMOUNT, color="black", linewidth=0.8, linestyle=":")
        lower.set_xlabel("seconds")
    axes[0][0].set_ylabel("calls (grey) and admissions")
    axes[1][0].set_ylabel(f"in the last {PERIOD:g} s")
    axes[1][0].legend(loc="upper left", frameon=False)
    axes[0][0].set_ylim(0, 1.05 * max(len(story.spans) for story in stories))
    axes[1][0].set_ylim(0, None)
    drawing.suptitle(subject())
    drawing.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)


def latest(moments: Sequence[float]) -> tuple[list[float], list[int]]:
    """How many admissions the last period held, and from when on."""
    changes = sorted([(moment, 1) for moment in moments] + [(moment + PERIOD, -1) for moment in moments])
    times, counts = [0.0], [0]
    for moment, change in changes:
        times.append(moment)
        counts.append(counts[-1] + change)
    return times, counts


def main() -> int:
    from workerkit.testing.servers import start_server

    parser = argparse.ArgumentParser(prog="scripts/bench admissions", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg or .png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="put the table into a page with a place for it")
    wanted = parser.parse_args()
    stories = []
    for way in WAYS:
        with start_server("valkey", tcp=True) as server:
            stories.append(asyncio.run(tell(way, server.url)))
    show(subject(), stories, whole)
    if wanted.plot:
        draw(wanted.plot, stories)
    if wanted.json:
        wanted.json.write_text(json.dumps({story.way: story.figures() for story in stories}, indent=2) + "\n")
    if wanted.markdown:
        replace_block(wanted.markdown, "admissions", markdown(stories, whole))
    return 0


if __name__ == "__main__":
    sys.exit(main())
