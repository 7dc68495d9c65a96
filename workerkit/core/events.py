"""What workerkit tells the outside: frozen event records, sent to hooks.

Labels are of low cardinality: an event never carries a key, a job id or an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

Level = Literal["debug", "info", "warning"]
WarmOutcome = Literal["run", "failed", "error", "overlap", "late", "first"]


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events. `name` and the fields are stable across releases.

    `level` is how the log has it: what is wrong is a "warning", what every task does is for "debug".
    """

    name: ClassVar[str]
    level: ClassVar[Level] = "info"


@dataclass(frozen=True, slots=True)
class StoreDown(Event):
    """The breaker of a store has opened: calls fail at once until a probe succeeds."""

    name: ClassVar[str] = "store.down"
    level: ClassVar[Level] = "warning"
    store: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoreUp(Event):
    """A store answers again."""

    name: ClassVar[str] = "store.up"
    store: str


@dataclass(frozen=True, slots=True)
class GuardWarning(Event):
    """The guard store may lose what it holds; `reason` says why, or why that could not be checked."""

    name: ClassVar[str] = "store.guard"
    level: ClassVar[Level] = "warning"
    reason: str


@dataclass(frozen=True, slots=True)
class CacheTrouble(Event):
    """The cache could not be used, or held something unreadable; the task went on without it."""

    name: ClassVar[str] = "cache.trouble"
    level: ClassVar[Level] = "warning"
    function: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefreshFailed(Event):
    """A cached value could not be computed anew; the old one may be served still. `error` is the error's class."""

    name: ClassVar[str] = "cache.refresh_failed"
    level: ClassVar[Level] = "warning"
    function: str
    error: str


@dataclass(frozen=True, slots=True)
class LimitDown(Event):
    """Redis was down, and a limiter decided without it, as its `policy` ("open" or "local") says."""

    name: ClassVar[str] = "limits.down"
    level: ClassVar[Level] = "warning"
    limiter: str
    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class LimitLearned(Event):
    """An API's answer paused a limiter's key (`pause`: seconds, 0.0 for none) or brought one of its rates down.

    `refused`: it had refused a call. `ignored`: the names of headers that could not be used.
    """

    name: ClassVar[str] = "limits.learned"
    limiter: str
    pause: float
    refused: bool
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskParked(Event):
    """A throttled task went to the waitlist."""

    name: ClassVar[str] = "throttle.parked"
    level: ClassVar[Level] = "debug"
    task: str
    limiter: str
    wait: float


@dataclass(frozen=True, slots=True)
class TaskPostponed(Event):
    """A throttled task could neither begin nor be parked, and goes back to the broker for about `wait` seconds."""

    name: ClassVar[str] = "throttle.postponed"
    task: str
    wait: float
    reason: str


@dataclass(frozen=True, slots=True)
class ChordAtRisk(Event):
    """A task of a chord is parked for longer (`wait` seconds, about) than its result backend keeps the chord."""

    name: ClassVar[str] = "throttle.chord"
    level: ClassVar[Level] = "warning"
    task: str
    wait: float
    kept: float


@dataclass(frozen=True, slots=True)
class TicketTrouble(Event):
    """A ticket of the waitlist could not be published; it is kept."""

    name: ClassVar[str] = "throttle.ticket"
    level: ClassVar[Level] = "warning"
    reason: str


@dataclass(frozen=True, slots=True)
class TicketQuarantined(Event):
    """A ticket went to quarantine: it is kept, and not published until somebody restores it. `task` may be ""."""

    name: ClassVar[str] = "throttle.quarantine"
    level: ClassVar[Level] = "warning"
    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobAttempt(Event):
    """An attempt of a job "began", or ended as `outcome` says."""

    name: ClassVar[str] = "job.attempt"
    level: ClassVar[Level] = "debug"
    task: str
    outcome: str


@dataclass(frozen=True, slots=True)
class WarmTick(Event):
    """What became of a tick of a warmup; `detail` says what was done, or why it failed."""

    name: ClassVar[str] = "warm.tick"
    warmup: str
    outcome: WarmOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BackgroundTrouble(Event):
    """Something in the background (a heartbeat, a lease renewal, a flush of counts) failed and will be tried again."""

    name: ClassVar[str] = "background.trouble"
    level: ClassVar[Level] = "warning"
    what: str
    reason: str


Hook = Callable[[Event], None]


class Hooks:
    """The hooks of one kit. A hook that raises never disturbs what it watches; its error goes to `on_error`."""

    __slots__ = ("_hooks", "_on_error")

    def __init__(self, *hooks: Hook, on_error: Callable[[Exception], None] | None = None) -> None:
        self._hooks = list(hooks)
        self._on_error = on_error

    def add(self, hook: Hook) -> None:
        self._hooks.append(hook)

    def emit(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001 - a hook's error must not reach what it watches
                if self._on_error:
                    self._on_error(error)
