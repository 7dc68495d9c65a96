"""Admission of a throttled task: decided by the limiter at each execution, never on the strength of an old turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from workerkit.core.call import Call
from workerkit.core.flow import Flow, Sleep
from workerkit.core.rates import Rate
from workerkit.errors import OutcomeUnknown
from workerkit.limits.lease import Slot
from workerkit.waitlist.line import Line, Place
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Entered, Parked, Waitlist

T = TypeVar("T")

MARGIN = 0.0005  # seconds added to a sleep, so that it does not end just before the turn
DEFAULT_INTERVAL_US = 50_000  # where only concurrency is limited nobody knows when a slot comes free


def interval_us(charges: Iterable[tuple[Rate, int]], bound_by: str) -> int:
    """Microseconds between two turns that cost as much as these, under the rate that refused; under the fastest when
    it was none of them."""
    intervals = {str(rate): rate.period_us * cost // rate.amount for rate, cost in charges}
    return max(1, intervals.get(bound_by) or min(intervals.values(), default=DEFAULT_INTERVAL_US))


def enter(waitlist: Waitlist, ticket: Ticket, line: str, *, keep: bool = False) -> Flow[Entered]:
    """What this delivery may do."""
    return (yield from _twice(waitlist.enter(ticket, line, keep=keep)))


def begin(waitlist: Waitlist, ticket: Ticket) -> Flow[bool]:
    """Whether this delivery, which was let go on, is still the one that may."""
    return (yield from _twice(waitlist.begin(ticket)))


def admit(ask: Callable[[], Flow[Slot]], *, sleep_under: float) -> Flow[Slot]:
    """Ask the limiter, and again after waits too short to be worth parking: together at most twice `sleep_under`."""
    left = 2 * sleep_under
    while True:
        try:
            slot = yield from ask()
        except OutcomeUnknown:
            # Perhaps charged, but not admitted: asking again costs at most that charge, going on could pass the limit.
            slot = yield from ask()
        wait = slot.decision.retry_after
        if slot.decision.allowed or wait > sleep_under or wait > left:
            return slot
        left -= wait
        yield from Sleep(wait + MARGIN)


def park(waitlist: Waitlist, ticket: Ticket, line: Line, place: Place, *, wait: float, most: int) -> Flow[Parked]:
    """Park a denied task."""
    return (yield from _twice(waitlist.park(ticket, line, place, wait=wait, most=most)))


def _twice(call: Call[T]) -> Flow[T]:
    """An idempotent Call, and again when nobody knows whether it was executed."""
    try:
        return (yield from call)
    except OutcomeUnknown:
        return (yield from call)
