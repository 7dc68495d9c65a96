"""What a process exports, whoever it exports to: a table of counters, and what of an event or a count goes into which.

Labels are names that stand in the code: never a key, a job's id, an argument or an error's text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from workerkit.core import events
from workerkit.core.events import Event
from workerkit.limits.tally import LimitStats

PREFIX = "workerkit_"


class Instrument(NamedTuple):
    """A counter that only grows; `unit` is what it counts where that is not things."""

    name: str
    help: str
    labels: tuple[str, ...]
    unit: str = ""

    @property
    def exposed(self) -> str:
        """The name under which Prometheus shows it."""
        return f"{PREFIX}{self.name}{'_' * bool(self.unit)}{self.unit}_total"


class Amount(NamedTuple):
    """So much more of an instrument, under the values of its labels."""

    name: str
    labels: tuple[str, ...]
    amount: float = 1


CALLS = {
    "l1": "l1",
    "hits": "hit",
    "stale": "stale",
    "failures": "failure",
    "remembered": "remembered",
    "misses": "miss",
}
"""Outcomes of a call of a memoized function, by the names of `CacheStats`; together they are all calls."""

INSTRUMENTS = (
    Instrument("cache_calls", "Calls of memoized functions.", ("function", "outcome")),
    Instrument("cache_computations", "Times that a memoized function was run for its result.", ("function",)),
    Instrument("cache_waits", "Misses that waited for another process.", ("function",)),
    Instrument("cache_errors", "Uses of the cache that failed.", ("function",)),
    Instrument("cache_saved", "What the calls answered from the cache had taken to compute.", ("function",), "seconds"),
    Instrument("cache_troubles", "Times that the cache could not be used or read.", ("function",)),
    Instrument("cache_refresh_failures", "Values that could not be computed anew.", ("function",)),
    Instrument("limiter_decisions", "Decisions of limiters.", ("limiter", "outcome")),
    Instrument("limiter_down_decisions", "Decisions without Redis, because it was down.", ("limiter", "policy")),
    Instrument("limiter_responses_learned", "Responses that paused a limiter or brought a rate down.", ("limiter",)),
    Instrument("throttle_parked", "Tasks that went to the waitlist.", ("task", "limiter")),
    Instrument("throttle_parked_wait", "How long those were to wait.", ("task", "limiter"), "seconds"),
    Instrument("throttle_postponed", "Tasks that went back to the broker, as they could not be parked.", ("task",)),
    Instrument("throttle_chords_at_risk", "Tasks parked for longer than their chord is kept.", ("task",)),
    Instrument("throttle_ticket_failures", "Parked tasks that could not be published; they are kept.", ()),
    Instrument("throttle_quarantined", "Parked tasks that went to quarantine.", ("task",)),
    Instrument("job_attempts_started", "Attempts of jobs that began.", ("task",)),
    Instrument("job_attempts_ended", "Attempts of jobs that ended.", ("task", "outcome")),
    Instrument("warmup_ticks", "What became of the ticks of warmups.", ("warmup", "outcome")),
    Instrument("store_outages", "Times that calls to a store began to fail at once.", ("store",)),
    Instrument("store_recoveries", "Times that a store answered again.", ("store",)),
    Instrument("guard_warnings", "Times that the guard store was found to be able to lose what it holds.", ()),
    Instrument("background_troubles", "Background actions that failed and are tried again.", ("what",)),
)  # fmt: skip


def _job(event: events.JobAttempt) -> Amount:
    if event.outcome == "began":
        return Amount("job_attempts_started", (event.task,))
    return Amount("job_attempts_ended", (event.task, event.outcome))


_OF_EVENTS: Mapping[type[Event], Callable[..., Amount]] = {
    events.CacheTrouble: lambda event: Amount("cache_troubles", (event.function,)),
    events.RefreshFailed: lambda event: Amount("cache_refresh_failures", (event.function,)),
    events.LimitDown: lambda event: Amount("limiter_down_decisions", (event.limiter, event.policy)),
    events.LimitLearned: lambda event: Amount("limiter_responses_learned", (event.limiter,)),
    events.TaskParked: lambda event: Amount("throttle_parked", (event.task, event.limiter)),
    events.TaskPostponed: lambda event: Amount("throttle_postponed", (event.task,)),
    events.ChordAtRisk: lambda event: Amount("throttle_chords_at_risk", (event.task,)),
    events.TicketTrouble: lambda event: Amount("throttle_ticket_failures", ()),
    events.TicketQuarantined: lambda event: Amount("throttle_quarantined", (event.task,)),
    events.JobAttempt: _job,
    events.WarmTick: lambda event: Amount("warmup_ticks", (event.warmup, event.outcome)),
    events.StoreDown: lambda event: Amount("store_outages", (event.store,)),
    events.StoreUp: lambda event: Amount("store_recoveries", (event.store,)),
    events.GuardWarning: lambda event: Amount("guard_warnings", ()),
    events.BackgroundTrouble: lambda event: Amount("background_troubles", (event.what,)),
}


def of_event(event: Event) -> Iterable[Amount]:
    """What an event adds."""
    amount = _OF_EVENTS.get(type(event))
    if amount is not None:
        yield amount(event)
    if isinstance(event, events.TaskParked):
        yield Amount("throttle_parked_wait", (event.task, event.limiter), event.wait)


def of_cache(function: str, counts: Mapping[str, float]) -> Iterable[Amount]:
    """What counted calls of a function add; `counts` by the names of `CacheStats`, or `saved_us`."""
    for name, count in counts.items():
        if name in CALLS:
            yield Amount("cache_calls", (function, CALLS[name]), count)
        elif name == "saved_us":
            yield Amount("cache_saved", (function,), count / 1e6)
        elif name == "saved":
            yield Amount("cache_saved", (function,), count)
        else:
            yield Amount(f"cache_{name}", (function,), count)


def of_limiter(limiter: str, counts: LimitStats) -> Iterable[Amount]:
    """What counted decisions add."""
    for outcome, count in counts._asdict().items():
        yield Amount("limiter_decisions", (limiter, outcome), count)


class Counting(ABC):
    """A Watcher that counts all that it is told of."""

    @abstractmethod
    def add(self, amounts: Iterable[Amount]) -> None:
        """Add these to the counters."""

    def event(self, event: Event) -> None:
        """As `Watcher.event`."""
        self.add(of_event(event))

    def cached(self, function: str, counts: Mapping[str, int]) -> None:
        """As `Watcher.cached`."""
        self.add(of_cache(function, counts))

    def limited(self, limiter: str, counts: LimitStats) -> None:
        """As `Watcher.limited`."""
        self.add(of_limiter(limiter, counts))
