"""Local leasing: how fast one process decides, and in the same case whether a fleet of them keeps within the bound."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from _crew import Crew
from _limits_bound import Span, most_within
from _limits_rows import Versus
from _rows import Case, Row, Run

from workerkit import WorkerKit

PROCESSES = 4
BOUND = 2_000  # admissions a second, far fewer than are asked for


def local(versus: Versus, **options: Any) -> Case:
    """The rows of `versus`, with the most admissions in any second above BOUND as `over`, and the share that was used;
    `options` are the limiter's."""
    return Case(versus.name, versus.peer.name, partial(_rows, versus, options))


def _rows(versus: Versus, options: dict[str, Any], run: Run) -> Iterator[Row]:
    seconds = 2.0 if run.quick else 5.0
    with Crew(PROCESSES) as crew:
        crew.do(hammer, run.url, options, 0.0, 0.0)  # they are there, with all that they need
        at = time.monotonic() + 0.2
        spans = [span for each in crew.do(hammer, run.url, options, at, at + seconds) for span in each]
    extra = {"over": max(0, most_within(spans, 1.0) - BOUND), "used": len(spans) / (BOUND * seconds)}
    for row in versus.sync().rows(run):
        yield replace(row, extra=extra)


def hammer(url: str, options: dict[str, Any], at: float, until: float) -> list[Span]:
    """In one process: ask without a pause between two moments of the clock that all processes share."""
    spans = []
    with WorkerKit(url=url) as kit:
        limiter = kit.limiter("hammered", f"{BOUND}/second", **options)
        limiter.peek()  # connected
        time.sleep(max(0.0, at - time.monotonic()))
        while (began := time.monotonic()) < until:
            decision = limiter.try_acquire()
            if decision.allowed:
                spans.append((began, time.monotonic()))
            elif decision.retry_after > 0:
                time.sleep(min(decision.retry_after, 0.001))
    return spans
