"""J4: an import of 10,000 rows, killed twenty times at random, does every row, and repeats one batch a kill at most.

WORKERKIT_KILLS_SEED repeats where a run's kills were.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections import Counter
from typing import Any

import pytest

from tests.worker.conftest import Broker, any_broker, rabbit

__all__ = ["any_broker", "rabbit"]  # fixtures
# Each test imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")

ROWS, KILLS, WORKERS = 10_000, 20, 4  # of the kills, so many end the whole worker; the others the child of its pool
LAST = 9_500  # no kill is aimed at the end: the import might be over before it dies
SOON = 0.005  # seconds from a kill's row to the kill, at most


def orders(seed: int) -> list[tuple[int, str, float]]:
    """At which number of handled rows who dies, and how many seconds later."""
    chance = random.Random(seed)
    victims = ["worker"] * WORKERS + ["child"] * (KILLS - WORKERS)
    chance.shuffle(victims)
    rows = sorted(chance.sample(range(1, LAST), KILLS))
    return [(row, victim, chance.uniform(0, SOON)) for row, victim in zip(rows, victims, strict=True)]


def import_under_fire(broker: Broker, app: Any, patience: float = 300.0) -> Any:
    """Have the rows imported by a worker that is started again when it ends, as a supervisor does; the job's record."""

    def start() -> Any:
        return broker.worker("jobs", "--without-mingle", "--without-gossip", concurrency=1)

    job_id = app.import_rows.delay(ROWS).id
    worker, until = start(), time.monotonic() + patience
    while (view := app.kit.jobs.get(job_id, app.Import)) is None or view.ended is None:
        if time.monotonic() > until:
            pytest.fail(f"not done within {patience:g} s: {view}", pytrace=False)
        try:
            worker.process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        worker = start()
    return view


def handled_by_attempt(app: Any) -> list[list[int]]:
    """The rows of each attempt, as they came."""
    attempts: dict[str, list[int]] = {}
    for entry in app.shelf.lrange("rows", 0, -1):
        attempt, _, row = entry.decode().partition(" ")
        attempts.setdefault(attempt, []).append(int(row))
    assert list(attempts) == [str(number + 1) for number in range(len(attempts))]
    return list(attempts.values())


@pytest.mark.heavy
@pytest.mark.timeless
def test_import_killed_twenty_times(any_broker: Broker, request: pytest.FixtureRequest) -> None:
    app = any_broker.load("jobs")
    app.app.backend.remove_pending_result = lambda result: result
    seed = int(os.environ.get("WORKERKIT_KILLS_SEED") or random.SystemRandom().randrange(10**6))
    for row, victim, delay in orders(seed):
        app.shelf.rpush("kills-at", row)
        app.shelf.rpush("orders", f"{victim} {delay:.6f}")
    began = time.monotonic()
    view = import_under_fire(any_broker, app)
    attempts = handled_by_attempt(app)
    times = Counter(row for rows in attempts for row in rows)
    again = [before[-1] - after[0] + 1 for before, after in itertools.pairwise(attempts)]
    print(
        f"\n{request.node.callspec.id}, seed {seed}: {KILLS} kills, {WORKERS} of them of whole workers; "
        f"{len(attempts)} attempts in {time.monotonic() - began:.0f} s; {len(times)} of {ROWS} rows handled, "
        f"{sum(again)} times one of them again, at most {max(again)} after a kill, of {app.BATCH}; "
        f"counted: {view.data.rows}"
    )
    assert app.shelf.llen("orders") == 0
    assert len(attempts) == view.attempt == KILLS + 1
    assert set(times) == set(range(1, ROWS + 1))
    assert all(0 <= rows <= app.BATCH for rows in again)
    assert 0 < sum(again) == times.total() - ROWS
    assert (view.status, view.data.rows, view.progress[:2]) == ("SUCCESS", ROWS, (ROWS, ROWS))
