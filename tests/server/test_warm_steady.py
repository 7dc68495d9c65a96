"""W4: what is asked for most is kept warm, about as well as by an oracle that knows what that is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytestmark = pytest.mark.heavy

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "benches"))
_warm = importlib.import_module("_warm")

LOAD = _warm.Load(seed=20, seconds=12.0)


def thirds(seen: Any, runs: Iterable[Any]) -> tuple[float, float]:
    """The median popularity, as a rank, of what runs refreshed in their first thirds, and in their last."""
    ranks = {key: rank for rank, key in enumerate(LOAD.ranking)}
    first, last = list[int](), list[int]()
    for run in runs:
        done = [ranks[call.key] for call in seen.calls if not call.reader and run.began <= call.moment < run.ended]
        first += done[: len(done) // 3]
        last += done[len(done) - len(done) // 3 :]
    return median(first), median(last)


def test_a_hot_set_is_kept_warm_as_if_by_an_oracle(require: Callable[..., None]) -> None:
    require("valkey")
    hot, oracle = _warm.watch("hot", LOAD), _warm.watch("oracle", LOAD)
    seconds = LOAD.seconds - LOAD.settled
    print(
        f"hits: hot {hot.late.hit_rate:.2f} %, oracle {oracle.late.hit_rate:.2f} %; "
        f"calls: hot {len(hot.late.calls)}, oracle {len(oracle.late.calls)}; "
        f"known: {hot.overlap(hot.most_read):g} of the {_warm.REPORTED} most read, "
        f"{hot.overlap(LOAD.ranking[: _warm.REPORTED]):g} of the most popular"
    )
    learnt = [run for run in hot.runs if run.began >= LOAD.settled]
    assert len(learnt) >= seconds / LOAD.every - 2
    assert {len(run.keys) for run in learnt} == {LOAD.hot}
    assert hot.broken == oracle.broken == 0
    first, last = thirds(hot, learnt)
    assert first < last / 2
    # Of the truly hot, which a few seconds tell only roughly.
    assert oracle.late.popular(LOAD.hot).paid == 0
    assert hot.late.popular(10).paid == 0
    assert len(hot.late.calls) == pytest.approx(len(oracle.late.calls), rel=0.1)
    assert hot.late.hit_rate >= oracle.late.hit_rate - 2.0
    # To keep everything warm takes a call for each key in each of its lives, at the very least.
    assert len(hot.late.calls) <= 0.5 * LOAD.keys * seconds / LOAD.ttl
    assert hot.overlap(hot.most_read) >= 95
