"""When an entry may be served, and when XFetch refreshes it early."""

from __future__ import annotations

import random
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.cache.entries import envelope
from workerkit.cache.windows import Windows
from workerkit.core.envelope import Envelope

S = 1_000_000


def entry(fresh: float = 10, hard: float = 100, cost: float = 1.0) -> Envelope:
    return envelope(b"1", 1, now_us=0, soft=fresh, hard=hard, cost=cost)


@pytest.mark.parametrize(
    ("windows", "at", "stale", "survives"),
    [
        (Windows(), 10, False, False),
        (Windows(stale=5), 14, True, False),
        (Windows(stale=5), 15, False, False),
        (Windows(on_error=20), 29, False, True),
        (Windows(on_error=20), 30, False, False),
        (Windows(stale=5, on_error=20), 14, True, True),
        (Windows(stale=500, on_error=500), 100, False, False),  # what the writer said bounds what the reader wants
    ],
)
def test_windows_end_on_time(windows: Windows, at: int, stale: bool, survives: bool) -> None:
    assert windows.is_stale(entry(), at * S) is stale
    assert windows.survives(entry(), at * S) is survives
    assert windows.is_usable(entry(), at * S) is (stale or survives)


def test_an_entry_is_kept_for_the_longer_window() -> None:
    assert (Windows(3, 5).after, Windows(5, 3).after, Windows().after) == (5, 5, 0)


def test_a_cheap_or_a_young_entry_is_not_refreshed_early() -> None:
    eager = Windows(early=1.0, draw=lambda: 1 - 1e-12)
    assert not eager.due(entry(cost=100), 5 * S)  # not before half of its life
    assert eager.due(entry(cost=100), 5 * S + 1)
    assert not Windows(early=0.0, draw=lambda: 1 - 1e-12).due(entry(cost=100), 10 * S - 1)
    assert not Windows(early=1.0, draw=lambda: 0.0).due(entry(cost=100), 10 * S - 1)


@given(st.floats(0, 4), st.integers(0, 10 * S), st.floats(0, 20), st.floats(0, 1, exclude_max=True))
def test_whoever_is_not_near_is_never_due(early: float, at: int, cost: float, drawn: float) -> None:
    windows = Windows(early=early, draw=lambda: min(drawn, 1 - 1e-16))
    made = entry(cost=cost)
    assert made.soft_us - at < windows.reach * made.cost_us or not windows.due(made, at)


def test_xfetch_refreshes_as_its_authors_say() -> None:
    # With 100 readers in the time of a computation, of whom each is due at x before the end with probability e^-x, the
    # first one's lead is Gumbel distributed: ln(100) + Euler's constant on average, in costs.
    generator = random.Random(7)
    windows = Windows(early=1.0, draw=generator.random)
    made, step = entry(fresh=1000, cost=1.0), S // 100
    leads = []
    for _ in range(300):
        at = 900 * S
        while not windows.due(made, at):
            at += step
        leads.append((1000 * S - at) / S)
    mean = sum(leads) / len(leads)
    print(f"refreshed {mean:.2f} s before the end on average, seed 7")
    assert mean == pytest.approx(log(100) + 0.577, abs=0.3)


@pytest.mark.parametrize(("overdue", "pause"), [(-5, 1), (0, 1), (1, 1), (4, 2), (60, 30), (1000, 60)])
def test_a_failed_refresh_is_put_off_for_longer_and_longer(overdue: int, pause: int) -> None:
    assert Windows.pause(entry(), (10 + overdue) * S) == pause
