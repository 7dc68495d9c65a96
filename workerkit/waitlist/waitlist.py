"""The waitlist, as Calls: parking a task, claiming those whose turn has come, and admitting each delivery once.

All of it is in one slot: a task's record, its ticket and the due times change together or not at all.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

from workerkit.core.call import Call
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.waitlist.ticket import Ticket

_ENTER = Script("workerkit.waitlist", "enter")
_PARK = Script("workerkit.waitlist", "park")
_CLAIM = Script("workerkit.waitlist", "claim")
LIFE_MS = 7 * 86_400_000  # beyond the longest park and twice any visibility timeout
REPUBLISH_US = 30_000_000  # a published ticket that no delivery entered is published again after this


class Claimed(NamedTuple):
    """Tickets to publish, and the seconds until the next one is due (None when none waits)."""

    tickets: list[tuple[str, bytes]]
    wait: float | None


class Waitlist:
    """Makes the Calls of one kit's waitlist."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._due = keys.key("waitlist", "all", "due")
        self._tickets = keys.key("waitlist", "all", "tickets")

    def enter(self, ticket: Ticket) -> Call[bool]:
        """Whether this delivery goes on; it takes its ticket off the list. Idempotent by publication."""
        name = _digest(ticket.identity)
        return Call(
            "waitlist.enter",
            "guard",
            bool,
            script=_ENTER,
            keys=(self._record(name), self._due, self._tickets),
            args=(name, ticket.generation, ticket.publication, LIFE_MS),
        )

    def park(self, ticket: Ticket, clock: str, *, wait: float, interval_us: int) -> Call[int]:
        """Park the next generation of `ticket`; answers its due time (server us). Idempotent by generation.

        `clock` names the virtual clock whose turns are `interval_us` apart; the first comes after `wait` seconds.
        """
        name = _digest(ticket.identity)
        parked = ticket.next()
        return Call(
            "waitlist.park",
            "guard",
            lambda reply: int(float(reply)),
            script=_PARK,
            keys=(self._record(name), self._due, self._tickets, self._keys.key("waitlist", "all", f"clock:{clock}")),
            args=(name, parked.generation, parked.dump(), int(wait * 1e6), interval_us, LIFE_MS),
        )

    def claim(self, most: int) -> Call[Claimed]:
        return Call(
            "waitlist.claim",
            "guard",
            _claimed,
            script=_CLAIM,
            keys=(self._due, self._tickets),
            args=(most, REPUBLISH_US),
        )

    def count(self) -> Call[int]:
        """How many tasks are parked."""
        return Call("waitlist.count", "guard", int, args=("ZCARD", self._due))

    def _record(self, name: str) -> str:
        return self._keys.key("waitlist", "all", f"record:{name}")


def _digest(identity: str) -> str:
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _claimed(reply: Any) -> Claimed:
    next_us = int(reply[0])
    pairs = reply[1:]
    tickets = [(pairs[i].decode(), pairs[i + 1]) for i in range(0, len(pairs), 2)]
    return Claimed(tickets, None if next_us < 0 else next_us / 1e6)
