"""The metrics of a prefork worker: one place to scrape, whichever children did the work, and however often they end."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.worker.conftest import Broker

TASKS = 12


def test_children_count_together_and_one_that_ends_loses_and_doubles_nothing(
    broker: Broker, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = tmp_path / "metrics"
    shared.mkdir()
    broker.environment |= {"PROMETHEUS_MULTIPROC_DIR": str(shared), "METRICS_PORT": str(port)}
    broker.worker("watched")

    work = broker.load("watched").work
    found = [work.delay(number) for number in range(TASKS)]
    pids = {each.get(timeout=60) for each in found}
    assert len(pids) > 2, "children were replaced by the way"
    for number in range(TASKS):
        work.delay(number).get(timeout=60)

    def totals() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        added: dict[str, Any] = {}
        for family in families:
            for sample in family.samples:
                name = f"{sample.name} {sample.labels.get('outcome', '')}"
                added[name] = added.get(name, 0) + sample.value
        return added

    expected = {
        "workerkit_cache_calls_total hit": TASKS,
        "workerkit_cache_calls_total miss": TASKS,
        "workerkit_cache_computations_total ": TASKS,
        "workerkit_job_attempts_started_total ": TASKS,
        "workerkit_job_attempts_ended_total success": TASKS,
    }
    eventually(lambda: {name: totals().get(name) for name in expected} == expected)
