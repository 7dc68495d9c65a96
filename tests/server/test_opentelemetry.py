"""OpenTelemetry's own in-memory exporters get what a kit does; a kit that nobody instrumented imports none of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from workerkit import Job, WorkerKit
from workerkit.telemetry.opentelemetry import instrument

SECRET = "hunter2-key"


class Rows(BaseModel):
    rows: int = 0


class Told:
    """A kit, and what the exporters got of it."""

    def __init__(self, url: str) -> None:
        self.spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.tracer = provider.get_tracer("test")
        self.kit = WorkerKit(url=url, hooks=[])
        instrument(self.kit, meter_provider=MeterProvider([self._reader]))

    def points(self) -> dict[str, dict[tuple[Any, ...], float]]:
        data = self._reader.get_metrics_data()
        found: dict[str, dict[tuple[Any, ...], float]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "workerkit"
                for metric in scope.metrics:
                    points = metric.data.data_points
                    found[metric.name] = {tuple(each.attributes.values()): each.value for each in points}
        return found


@pytest.fixture
def told(redis_url: str) -> Iterator[Told]:
    made = Told(redis_url)
    yield made
    made.kit.close()


def test_calls_and_decisions_are_counted_by_names_alone(told: Told) -> None:
    limiter = told.kit.limiter("api", "2/h")

    @told.kit.memoize("10m")
    def price(sku: str) -> int:
        return 19

    for _ in range(3):
        price(SECRET)
        limiter.try_acquire(SECRET)
    told.kit.engine.flusher.flush()
    points = told.points()
    calls = points["workerkit.cache.calls"]
    assert sorted((labels[1], value) for labels, value in calls.items()) == [("hit", 2), ("miss", 1)]
    assert points["workerkit.limiter.decisions"] == {("api", "admitted"): 2, ("api", "refused"): 1}
    assert points["workerkit.cache.saved"].keys() == points["workerkit.cache.computations"].keys()
    assert SECRET not in str(points)


def test_events_stand_on_the_span_that_is_current(told: Told) -> None:
    @told.kit.job(Rows)
    def load(job: Job[Rows], path: str) -> None:
        job.add(rows=1)

    load("outside any span")
    with told.tracer.start_as_current_span("task"):
        load(SECRET)
    (span,) = told.spans.get_finished_spans()
    assert [(each.name, (each.attributes or {})["workerkit.outcome"]) for each in span.events] == [
        ("workerkit.job.attempt", "began"),
        ("workerkit.job.attempt", "success"),
    ]
    assert SECRET not in span.to_json()
    assert [*told.points()["workerkit.job.attempts_started"].values()] == [2]
    assert not trace.get_current_span().is_recording()


def test_a_kit_that_nobody_instrumented_imports_none_of_it() -> None:
    code = (
        "import sys; from workerkit import WorkerKit; WorkerKit(url='redis://a'); print('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
