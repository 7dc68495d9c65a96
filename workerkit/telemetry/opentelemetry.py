"""What a kit does, as OpenTelemetry's metrics, and as events on the spans of whoever traces (extra `opentelemetry`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from workerkit import __version__
from workerkit.core.events import Event
from workerkit.telemetry.instruments import INSTRUMENTS, Amount, Counting
from workerkit.telemetry.watcher import watch

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

UNITS = {"seconds": "s"}


def instrument(*kits: WorkerKit, meter_provider: metrics.MeterProvider | None = None) -> None:
    """Count what `kits` do in this process, and note their events on the span that is current when they happen.

    The span is that of a task where `opentelemetry-instrumentation-celery` makes one, or your own. Counters are those
    of `workerkit.telemetry.prometheus`, named `workerkit.cache.calls` and so on; without a `meter_provider` they are
    the global one's. A prefork pool's children need providers of their own: call this in `worker_process_init`.
    """
    watch(_Telemetry(metrics.get_meter("workerkit", __version__, meter_provider)), *kits)


class _Telemetry(Counting):
    """Adds to a meter's counters, and events to spans."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._labels = {each.name: each.labels for each in INSTRUMENTS}
        self._counters = {
            each.name: meter.create_counter(
                f"workerkit.{each.name.replace('_', '.', 1)}", UNITS.get(each.unit, "1"), each.help
            )
            for each in INSTRUMENTS
        }

    def event(self, event: Event) -> None:
        super().event(event)
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(
                f"workerkit.{event.name}",
                {f"workerkit.{each.name}": getattr(event, each.name) for each in fields(event)},
            )

    def add(self, amounts: Iterable[Amount]) -> None:
        for name, labels, amount in amounts:
            if amount > 0:
                self._counters[name].add(amount, dict(zip(self._labels[name], labels, strict=True)))
