"""What this process does, as metrics of prometheus_client (the extra `prometheus`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from workerkit.errors import DefinitionError
from workerkit.telemetry.instruments import INSTRUMENTS, PREFIX, Amount, Counting
from workerkit.telemetry.watcher import watch

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit


def instrument(*kits: WorkerKit, registry: CollectorRegistry = REGISTRY) -> None:
    """Count what `kits` do in this process in metrics of `registry`, beside their hooks.

    Calls and decisions come in once a second, with the counts that go to Redis; events at once. Where the environment
    has PROMETHEUS_MULTIPROC_DIR, all processes of a prefork pool add to the same metrics, as prometheus_client does it.

    Raises DefinitionError for a registry that has these metrics already.
    """
    watch(_Metrics(registry), *kits)


class _Metrics(Counting):
    """Adds to prometheus_client's counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        try:
            self._counters = {
                each.name: Counter(PREFIX + each.name, each.help, each.labels, unit=each.unit, registry=registry)
                for each in INSTRUMENTS
            }
        except ValueError:
            raise DefinitionError(
                "this registry has workerkit's metrics already: write instrument(kit, other) once, for all kits"
            ) from None

    def add(self, amounts: Iterable[Amount]) -> None:
        for name, labels, amount in amounts:
            if amount > 0:
                counter = self._counters[name]
                (counter.labels(*labels) if labels else counter).inc(amount)
