"""`celery -A app workerkit stats`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import at_once

APP = """
import os
from celery import Celery
from workerkit import WorkerKit
app = Celery("shop", broker="memory://", include=["tasks"])
app.conf.workerkit_redis_url = os.environ["STORE"]
"""
TASKS = """
from shop import app
from workerkit import WorkerKit
kit = WorkerKit(app)

@kit.task
@kit.memoize("10m")
def price(sku: str) -> float:
    return 1.5
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def run(shop: Path, url: str, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(shop), *sys.path])
    return subprocess.run(
        [sys.executable, *command],
        cwd=shop,
        env={**os.environ, "STORE": url, "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_stats_of_the_fleet(shop: Path, redis_url: str) -> None:
    stats = ["-m", "celery", "-A", "shop", "workerkit", "stats"]
    empty = run(shop, redis_url, *stats)
    assert (empty.returncode, empty.stdout.startswith("nothing counted yet")) == (0, True), empty.stderr
    calls = "from tasks import kit, price; [price('a') for _ in range(1000)]; kit.close()"
    assert run(shop, redis_url, "-c", calls).returncode == 0
    told, counted = at_once([lambda: run(shop, redis_url, *stats), lambda: run(shop, redis_url, *stats, "--json")])
    table = told.stdout.split()
    assert table[:6] == ["function", "calls", "hit", "rate", "misses", "computed"]
    assert table[7:12] == ["tasks.price", "1,000", "99.9%", "1", "1"]
    (counts,) = json.loads(counted.stdout).values()
    assert (counts["hits"], counts["misses"], counts["hit_rate"]) == (999, 1, 0.999)


def test_an_app_without_a_kit_and_a_store_that_is_down(shop: Path) -> None:
    stats = ["-m", "celery", "-A", "shop", "workerkit", "stats"]
    (bare := shop / "bare").mkdir()
    (bare / "shop.py").write_text(APP)
    (bare / "tasks.py").write_text("")
    down, without = at_once([lambda place=place: run(place, "redis://localhost:1/0", *stats) for place in (shop, bare)])
    assert down.returncode == 2
    assert "localhost:1/0 (workerkit_redis_url) cannot be reached" in down.stderr
    assert "Traceback" not in down.stderr
    assert without.returncode == 2
    assert "write kit = WorkerKit(app)" in without.stderr
