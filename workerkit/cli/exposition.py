"""A snapshot of a fleet as metrics: names by Prometheus' conventions, base units, labels of few values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from workerkit import __version__
from workerkit.cache.ledger import CacheStats
from workerkit.errors import DefinitionError
from workerkit.limits.tally import LimitStats
from workerkit.telemetry.instruments import CALLS
from workerkit.top.snapshot import Limit, Snapshot, Store, Warm

PREFIX = "workerkit_fleet_"


class Metric(NamedTuple):
    """One metric; `kind` is "counter" or "gauge". Each has the label `namespace`, the kit's, before its `labels`."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS = {
    "info": Metric("gauge", "Always 1: the version of workerkit that reads these.", ("version",)),
    "scrape_duration_seconds": Metric("gauge", "What it took to read these."),
    "store_up": Metric("gauge", "Whether the server answers.", ("store",)),
    "store_ping_seconds": Metric("gauge", "A round trip to the server.", ("store",)),
    "store_memory_bytes": Metric("gauge", "Memory that the server uses.", ("store",)),
    "store_memory_max_bytes": Metric("gauge", "Memory that it may use; not there without a maximum.", ("store",)),
    "store_clients": Metric("gauge", "Connections to the server.", ("store",)),
    "store_clients_max": Metric("gauge", "Connections that it takes.", ("store",)),
    "store_evicted_keys_total": Metric("counter", "Keys that the server evicted.", ("store",)),
    "store_rejected_connections_total": Metric("counter", "Connections that it refused.", ("store",)),
    "cache_calls_total": Metric("counter", "Calls of memoized functions.", ("function", "outcome")),
    "cache_computations_total": Metric("counter", "Times that a function was run for its result.", ("function",)),
    "cache_waits_total": Metric("counter", "Misses that waited for another process.", ("function",)),
    "cache_errors_total": Metric("counter", "Uses of the cache that failed.", ("function",)),
    "cache_saved_seconds_total": Metric("counter", "What the hits had taken to compute.", ("function",)),
    "limiter_decisions_total": Metric("counter", "Decisions of limiters.", ("limiter", "outcome")),
    "waitlist_tasks": Metric("gauge", "Parked tasks.", ("state",)),
    "jobs": Metric("gauge", "Jobs whose records are kept, and those that were lost.", ("status",)),
    "jobs_stuck": Metric("gauge", "Running jobs that were not heard of in time; 50 at most."),
    "warmup_runs_total": Metric("counter", "Runs that have ended.", ("warmup",)),
    "warmup_missed_total": Metric("counter", "Ticks that nobody was there to run.", ("warmup",)),
    "warmup_overlaps_total": Metric("counter", "Ticks left out because a run took that long.", ("warmup",)),
    "warmup_running": Metric("gauge", "Whether a run is under way.", ("warmup",)),
    "warmup_paused": Metric("gauge", "Whether it is paused.", ("warmup",)),
    "warmup_late_seconds": Metric("gauge", "Since when a tick is due that nobody has begun.", ("warmup",)),
    "warmup_last_run_failed": Metric("gauge", "Whether the last run failed.", ("warmup",)),
    "warmup_last_run_timestamp_seconds": Metric("gauge", "When the last run ended, since 1970.", ("warmup",)),
    "warmup_last_run_calls": Metric("gauge", "What the last run did.", ("warmup", "outcome")),
}
"""By name, without the prefix."""


class Sample(NamedTuple):
    """One value of a metric; `labels` are the values of its labels."""

    name: str
    labels: tuple[str, ...]
    value: float


def samples(snapshot: Snapshot) -> Iterator[Sample]:
    """All values. What lives on a store that could not be read is missing."""
    yield Sample("info", (__version__,), 1)
    yield Sample("scrape_duration_seconds", (), snapshot.took)
    for store in snapshot.stores:
        yield from _store(store)
    for name, stats in (snapshot.functions or {}).items():
        yield from _function(name, stats)
    for limit in snapshot.limits or ():
        yield from _limit(limit)
    if snapshot.parked is not None:
        yield Sample("waitlist_tasks", ("waiting",), snapshot.parked.waiting)
        yield Sample("waitlist_tasks", ("returning",), snapshot.parked.returning)
        yield Sample("waitlist_tasks", ("quarantined",), snapshot.parked.quarantined)
    if snapshot.jobs is not None:
        for status, count in snapshot.jobs.counts.items():
            yield Sample("jobs", (status.lower(),), count)
        yield Sample("jobs_stuck", (), len(snapshot.jobs.stuck))
    for warm in snapshot.warmups or ():
        yield from _warmup(warm)


def down() -> Iterator[Sample]:
    """The values when no server can be read."""
    yield Sample("info", (__version__,), 1)
    yield Sample("store_up", ("cache",), 0)
    yield Sample("store_up", ("guard",), 0)


def _store(store: Store) -> Iterator[Sample]:
    for role in store.roles:
        of = (role,)
        yield Sample("store_up", of, store.ping is not None)
        if store.ping is not None:
            yield Sample("store_ping_seconds", of, store.ping)
        if store.hidden or store.ping is None:
            continue
        yield Sample("store_memory_bytes", of, store.memory)
        if store.memory_max is not None:
            yield Sample("store_memory_max_bytes", of, store.memory_max)
        yield Sample("store_clients", of, store.clients)
        if store.clients_max is not None:
            yield Sample("store_clients_max", of, store.clients_max)
        yield Sample("store_evicted_keys_total", of, store.evicted)
        yield Sample("store_rejected_connections_total", of, store.rejected)


def _function(name: str, stats: CacheStats) -> Iterator[Sample]:
    for field, outcome in CALLS.items():
        yield Sample("cache_calls_total", (name, outcome), getattr(stats, field))
    for field in ("computations", "waits", "errors"):
        yield Sample(f"cache_{field}_total", (name,), getattr(stats, field))
    yield Sample("cache_saved_seconds_total", (name,), stats.saved)


def _limit(limit: Limit) -> Iterator[Sample]:
    for outcome in LimitStats._fields:
        yield Sample("limiter_decisions_total", (limit.name, outcome), getattr(limit.stats, outcome))


def _warmup(warm: Warm) -> Iterator[Sample]:
    status = warm.status
    of = (status.name,)
    yield Sample("warmup_runs_total", of, status.runs)
    yield Sample("warmup_missed_total", of, status.missed)
    yield Sample("warmup_overlaps_total", of, status.overlaps)
    yield Sample("warmup_running", of, status.running is not None)
    yield Sample("warmup_paused", of, status.paused)
    yield Sample("warmup_late_seconds", of, warm.late)
    if status.ended is not None:
        yield Sample("warmup_last_run_timestamp_seconds", of, status.ended)
        yield Sample("warmup_last_run_failed", of, bool(status.reason))
    for outcome, count in status.last._asdict().items() if status.last is not None else ():
        yield Sample("warmup_last_run_calls", (*of, outcome), count)


def text(found: Mapping[str, list[Sample]]) -> str:
    """Samples by namespace, in Prometheus' text format."""
    written: bytes = prometheus().generate_latest(Fleet(lambda: found))
    return written.decode()


class Fleet:
    """A collector of prometheus_client: reads anew at each scrape."""

    def __init__(self, read: Callable[[], Mapping[str, list[Sample]]]) -> None:
        self._read = read

    def describe(self) -> list[Any]:
        """Nothing, so that registering reads nothing."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics, as prometheus_client takes them."""
        core, found = prometheus().core, self._read()
        kinds = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
        for name, metric in METRICS.items():
            family = kinds[metric.kind](PREFIX + name, metric.help, labels=("namespace", *metric.labels))
            for namespace, values in found.items():
                for sample in values:
                    if sample.name == name:
                        family.add_metric((namespace, *sample.labels), float(sample.value))
            if family.samples:
                yield family


def prometheus() -> Any:
    """prometheus_client. Raises DefinitionError where it is not installed."""
    try:
        import prometheus_client.core
    except ImportError:
        raise DefinitionError("metrics are written by prometheus-client: pip install 'workerkit[prometheus]'") from None
    return prometheus_client
