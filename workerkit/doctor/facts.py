"""What the checks look at: plain values, so that each check can be tried without a server or an app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Role = str  # "cache", "guard", "broker" or "results"

HOLDS: Mapping[Role, str] = {
    "cache": "cached values",
    "guard": "limits, leases, parked tasks, job records",
    "broker": "queues",
    "results": "task results",
}
SETTING: Mapping[Role, str] = {
    "cache": "workerkit_redis_url",
    "guard": "workerkit_guard_url",
    "broker": "broker_url",
    "results": "result_backend",
}


@dataclass(frozen=True)
class ServerFacts:
    """One Redis, by whatever roles it has.

    `trouble` says why it could not be looked at (`refused`: it answered, by an error). `info` is what INFO tells,
    `config` what CONFIG GET does; `unread` are the commands it did not allow. `processes` are those of workers that are
    connected, `skew` is how far its clock is ahead of ours, known to within `skew_error` (seconds).
    """

    shown: str
    roles: tuple[Role, ...]
    trouble: str = ""
    refused: bool = False
    port: int = 0
    path: str = ""
    local: bool = False
    user: str = "default"
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    processes: int = 0
    skew: float | None = None
    skew_error: float = 0.0

    @property
    def holds(self) -> str:
        """What would be lost with it."""
        return ", ".join(HOLDS[role] for role in self.roles)

    def number(self, name: str) -> int | None:
        """A number of `config`, else of `info`; None when neither tells."""
        text = self.config.get(name) or self.info.get(name)
        return int(text) if text is not None and text.lstrip("-").isdecimal() else None


@dataclass(frozen=True)
class TaskFacts:
    """A task that the kit has something to do with, or that ran for long. `longest` is in seconds, 0.0 if unknown."""

    name: str
    layers: tuple[str, ...] = ()
    acks_late: bool = False
    reject_on_worker_lost: bool = False
    time_limit: float | None = None
    countdown: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True)
class AppFacts:
    """What the app is configured to do; durations are seconds, None where there is no limit."""

    broker: str = "redis"  # kombu's driver type
    broker_shown: str = ""
    broker_trouble: str = ""
    visibility_timeout: float = 3600.0
    confirms: bool = True
    prefetch: int = 1
    pool: str = "prefork"
    concurrency: int | None = None
    soft_shutdown: float = 0.0
    result_expires: float | None = 86400.0
    stores_results: bool = False
    time_limit: float | None = None
    eager: bool = False
    accepts: tuple[str, ...] = ("json",)
    lease: float = 10.0
    pool_max: int = 50
    tasks: tuple[TaskFacts, ...] = ()

    def having(self, *layers: str) -> list[TaskFacts]:
        """The tasks with one of these decorators of the kit."""
        return [task for task in self.tasks if not set(layers).isdisjoint(task.layers)]

    @property
    def longest(self) -> TaskFacts | None:
        """The task with the longest run that was noted."""
        ran = [task for task in self.tasks if task.longest]
        return max(ran, key=lambda task: task.longest, default=None)


@dataclass(frozen=True)
class Facts:
    """All there is to judge; `processes` are those that are going to run, 0 to go by those that are connected."""

    app: AppFacts = field(default_factory=AppFacts)
    servers: tuple[ServerFacts, ...] = ()
    processes: int = 0

    def well(self, *roles: Role) -> list[ServerFacts]:
        """The servers that answered; with `roles`, those that have one of them."""
        return [
            server for server in self.servers if not server.trouble and (not roles or set(roles) & set(server.roles))
        ]


def names(tasks: list[TaskFacts]) -> str:
    """Up to three names."""
    shown = ", ".join(task.name for task in tasks[:3])
    return f"{shown} and {len(tasks) - 3} more" if len(tasks) > 3 else shown
