"""A backlog of a thousand tasks at 100/s, worked off by two workers with two children each.

What a busy machine adds to a time is no fault of the waitlist's, and nothing takes from it: of three rounds the best
counts, and all are printed. What must never happen must not in any of them.
"""

from __future__ import annotations

import time
from statistics import mean
from typing import Any

import pytest

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore:Task name .* is already registered")]

TASKS, RATE, ROUNDS = 1000, 100, 3
IDEAL = 1.03  # of the time in which a fleet that knows everything would do it, a margin of 15 ms included


def most_in_any_second(starts: list[float]) -> int:
    return max(sum(1 for other in starts[n : n + 2 * RATE] if other < at + 1.0) for n, at in enumerate(starts))


class Round:
    """What came of one backlog."""

    def __init__(self, app: Any) -> None:
        app.api.flushdb()
        app.kit.limiter("api", "100/s").reset()
        began = time.time()
        results = [app.call.delay(n) for n in range(TASKS)]
        pace = time.time()
        drained = 0.0
        while app.api.llen("starts") < TASKS:
            assert time.time() < began + 60, f"{app.api.llen('starts')} of {TASKS} have started"
            if not drained and app.api.hlen("deliveries") == TASKS:
                drained = time.time()
            pace += 0.05
            app.beside.delay(time.time())
            time.sleep(max(0.0, pace - time.time()))  # twenty a second
        self.values = [result.get(timeout=20) for result in results]
        self.starts = sorted(map(float, app.api.lrange("starts", 0, -1)))
        self.deliveries = mean(map(int, app.api.hvals("deliveries")))
        self.retries = app.api.hgetall("retries")
        self.drain = drained - began
        others = [tuple(map(float, line.split())) for line in app.api.lrange("delays", 0, -1)]
        delays = sorted(delay for sent, delay in others if sent > drained)
        self.delay = delays[int(len(delays) * 0.99)]

    def ratio(self, burst: int) -> float:
        """Of the ideal: all after the first `burst`, at the limit's rate."""
        return (self.starts[-1] - self.starts[burst - 1]) * RATE / (TASKS - burst)

    def __str__(self) -> str:
        return (
            f"{self.starts[-1] - self.starts[0]:.2f} s from the first start, {self.ratio(RATE):.3f} of ideal after the "
            f"first 100, {self.ratio(RATE // 10):.3f} after 10; drained in {self.drain:.1f} s; most in any second "
            f"{most_in_any_second(self.starts)}; {self.deliveries:.2f} deliveries; others p99 {self.delay * 1e3:.0f} ms"
        )


@pytest.mark.parametrize(
    ("algorithm", "most", "burst"),
    [("window", 100, 100), ("gcra", 110, 10)],
)
def test_a_backlog(broker: Any, monkeypatch: pytest.MonkeyPatch, algorithm: str, most: int, burst: int) -> None:
    broker.environment["TEST_ALGORITHM"] = algorithm
    monkeypatch.setenv("TEST_ALGORITHM", algorithm)
    app = broker.load("fleet")
    for _ in range(2):
        broker.worker("fleet", concurrency=2)
    rounds = []
    for _ in range(ROUNDS):
        found = Round(app)
        rounds.append(found)
        print(f"\n{algorithm}: {found}")
        assert found.values == list(range(TASKS))
        assert found.retries == {"0": str(TASKS)}
        assert most_in_any_second(found.starts) <= most
        assert found.deliveries <= 2.2
        assert app.kit.waitlist.count() == 0
        if found.ratio(burst) <= IDEAL and found.delay <= 0.25:
            return
    assert min(each.ratio(burst) for each in rounds) <= IDEAL
    assert min(each.delay for each in rounds) <= 0.25
