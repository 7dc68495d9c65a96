"""One moment of one kit, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from workerkit.api.warmup import WarmStatus
from workerkit.cache.ledger import CacheStats
from workerkit.jobs.index import Known
from workerkit.jobs.record import JobInfo
from workerkit.limits.tally import LimitStats
from workerkit.limits.usage import Usage


@dataclass(frozen=True, slots=True)
class Store:
    """One Redis server. `roles`: "cache", "guard" or both; `address` holds no password. `error`: why it could not be
    read, then `ping` (seconds of a round trip) is None; `hidden`: its user may not ask for what the rest says.

    `memory` and `memory_max` are bytes, None for no maximum; `uptime` is seconds; `evicted` and `rejected` (keys,
    connections) are counts since the server began.
    """

    roles: tuple[str, ...]
    address: str
    ping: float | None = None
    error: str = ""
    hidden: bool = True
    software: str = ""
    uptime: int = 0
    memory: int = 0
    memory_max: int | None = None
    policy: str = ""
    clients: int = 0
    clients_max: int | None = None
    commands: int = 0  # a second
    evicted: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class LimitKey:
    """One key of a limiter: its counts of this clock hour and the one before, how it stands, and who waits for it.

    `usage` is None where it cannot be read; `waiting`: who waits in a slot; `parked`: how many tasks on the waitlist,
    `bound_by`: what refused the last of them.
    """

    key: str
    admitted: int = 0
    refused: int = 0
    usage: Usage | None = None
    waiting: tuple[str, ...] = ()
    parked: int = 0
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limiter: its definition as text, all its decisions, and its keys: those with parked tasks, and the busiest."""

    name: str
    rates: tuple[str, ...]
    concurrency: int | None
    stats: LimitStats
    keys: tuple[LimitKey, ...]


@dataclass(frozen=True, slots=True)
class Parked:
    """The waitlist: how many wait, are published and not begun, and are in quarantine."""

    waiting: int = 0
    returning: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class JobBoard:
    """Jobs by status, as the index was told, and the newest of those that run, are stuck, or have failed.

    `more`: others may be stuck, too; so many are looked at.
    """

    counts: Mapping[Known, int]
    running: tuple[JobInfo, ...]
    stuck: tuple[JobInfo, ...]
    failed: tuple[JobInfo, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Warm:
    """A warmup. `late`: seconds since a tick is due that nobody has begun; `debt`: calls that its last run left undone
    or failed at."""

    function: str
    status: WarmStatus
    late: float

    @property
    def debt(self) -> int:
        last = self.status.last
        return 0 if last is None else last.left + last.failed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment; `at` is the server's time in seconds since 1970, `took` the seconds it took to read.

    What lives on a store that could not be read is None.
    """

    at: float
    took: float
    namespace: str
    stores: tuple[Store, ...]
    functions: Mapping[str, CacheStats] | None
    limits: tuple[Limit, ...] | None
    parked: Parked | None
    jobs: JobBoard | None
    warmups: tuple[Warm, ...] | None


def as_json(value: Any) -> Any:
    """A record as what JSON can hold, its derived figures included."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {each.name: as_json(getattr(value, each.name)) for each in fields(value)}
        return found | ({"debt": value.debt} if isinstance(value, Warm) else {})
    if isinstance(value, CacheStats):
        return {**value._asdict(), "hit_rate": value.hit_rate}
    if hasattr(value, "_asdict"):
        return {name: as_json(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(each) for each in value]
    return value
