"""The policy of a limiter: all its rates and its concurrency cap, decided by one atomic script a request."""

from __future__ import annotations

import random
import re
from math import ceil, inf
from time import monotonic
from typing import Any

from workerkit.core.call import Call, as_is
from workerkit.core.durations import Duration, humanize, seconds
from workerkit.core.flow import Flow, Sleep
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.core.rates import MAX_AMOUNT, Rate
from workerkit.errors import DefinitionError, StoreError, StoreRefused, StoreUnavailable
from workerkit.limits.decision import Decision
from workerkit.limits.lease import Slot

LEASE = 10.0
SHORTEST_LEASE = 0.1
# When a slot comes free nobody can know; asking again after a random while keeps waiters from asking all at once.
HINT = (0.01, 0.05)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WINDOW = Script("workerkit.limits", "window")
_RENEW = Script("workerkit.limits", "renew")


class LimitPolicy:
    """Builds the Calls of one limiter. `part` is the caller's key as a digest; `owner` names the holder of a lease.

    margin: seconds added to every period. lease: seconds a slot lives unrenewed.
    """

    def __init__(
        self,
        name: str,
        rates: tuple[Rate, ...],
        *,
        concurrency: int | None = None,
        margin: Duration | None = None,
        lease: Duration = LEASE,
    ) -> None:
        self.name = _checked_name(name)
        self.rates = rates
        self.concurrency = _checked_cap(concurrency)
        self.lease = seconds(lease, what=f"limiter {name}: lease")
        if self.lease < SHORTEST_LEASE:
            raise DefinitionError(f"limiter {name}: lease={lease!r} is too short to renew in time; write 0.1 or more")
        if not rates and concurrency is None:
            raise DefinitionError(f'limiter {name} limits nothing; give it a rate ("100/s") or concurrency=')
        if unit := next((rate for rate in rates if rate.unit), None):
            raise DefinitionError(
                f'limiter {name}: "{unit}" counts {unit.unit}, but rates count only calls yet ("100/s")'
            )
        self.margin = 0.0 if margin is None else seconds(margin, what=f"limiter {name}: margin", zero_ok=True)
        margin_us = round(self.margin * 1e6)
        self._limits = tuple((rate.period_us + margin_us, rate.amount) for rate in rates)
        self._cap = (self.concurrency or 0, round(self.lease * 1e6))
        self._bounds = ("concurrency", *map(str, rates), "pause")  # by the script's number: 0, 1 .. n, -1

    def check_cost(self, cost: int) -> None:
        """Raise DefinitionError for a cost that could never be admitted."""
        if type(cost) is not int or cost < 1:
            raise DefinitionError(f"limiter {self.name}: cost={cost!r} must be a whole number of at least 1")
        for rate in self.rates:
            if cost > rate.amount:
                raise DefinitionError(
                    f"limiter {self.name}: cost={cost} is above {rate}, so it would never pass; ask for less at once"
                )

    def acquire(self, keys: Keys, part: str, cost: int, owner: str) -> Call[Decision]:
        """Charge every rate and take (or refresh) `owner`'s lease, or change nothing; never charged twice nor late."""
        return self._decide("limits.acquire", keys, part, cost, owner, take=1)

    def peek(self, keys: Keys, part: str, cost: int = 1) -> Call[Decision]:
        """What `acquire` would answer now; changes nothing."""
        return self._decide("limits.peek", keys, part, cost, "", take=0)

    def release(self, keys: Keys, part: str, owner: str) -> Call[bool]:
        """Give up `owner`'s lease; answers whether there was one. The rates keep their charge."""
        return Call("limits.release", "guard", bool, args=("ZREM", self._leases(keys, part), owner))

    def renew(self, keys: Keys, part: str, owner: str) -> Call[bool]:
        """Keep `owner`'s lease for another term; answers whether it was still held."""
        return Call(
            "limits.renew", "guard", bool, script=_RENEW, keys=(self._leases(keys, part),), args=(owner, self._cap[1])
        )

    def renew_slot(self, keys: Keys, part: str, slot: Slot) -> Call[bool]:
        """Like `renew`, and tells the slot."""
        call = self.renew(keys, part, slot.owner)
        ends = monotonic() + self.lease
        call.parse = lambda reply: slot.renewed(bool(reply), ends)
        return call

    def reset(self, keys: Keys, part: str) -> Call[int]:
        """Forget every charge and the pause. Leases stay: their holders are still at work."""
        windows, pause = self._keys(keys, part)[:2]
        return Call("limits.reset", "guard", as_is, args=("DEL", windows, pause))

    def pause(self, keys: Keys, part: str, duration: Duration) -> Call[Any]:
        """Refuse everything for so long; a later pause replaces an earlier one."""
        pause, ms = self._keys(keys, part)[1], ceil(seconds(duration, what="pause") * 1e3)
        return Call("limits.pause", "guard", as_is, args=("SET", pause, "", "PX", ms))

    def ask(self, keys: Keys, part: str, cost: int, owner: str) -> Flow[Decision]:
        """`acquire`, cleaned up after: when it may have been executed without an answer (a timeout, a cancellation),
        what it charged stays charged, its lease is released, and the error goes on. It is not asked again."""
        try:
            return (yield from self.acquire(keys, part, cost, owner))
        except (StoreUnavailable, StoreRefused):
            raise  # not executed
        except BaseException:
            if self.concurrency:
                try:
                    yield from self.release(keys, part, owner)
                except StoreError:
                    pass  # unrenewed, the lease ends by itself
            raise

    def slot(self, keys: Keys, part: str, cost: int, owner: str, wait: float) -> Flow[Slot]:
        """Ask until admitted, or `wait` seconds have passed or cannot suffice: then the slot says no."""
        deadline = monotonic() + wait
        while True:
            asked = monotonic()
            decision = yield from self.ask(keys, part, cost, owner)
            left = deadline - monotonic()
            hopeless = decision.retry_after > left and decision.bound_by != "concurrency"  # whose wait is only a hint
            if decision.allowed or left <= 0 or hopeless:
                return Slot(owner, decision, asked + self.lease if self.concurrency else inf)
            yield from Sleep(min(decision.retry_after, left))

    def _decide(self, name: str, keys: Keys, part: str, cost: int, owner: str, *, take: int) -> Call[Decision]:
        self.check_cost(cost)
        args: list[str | int] = [take, *self._cap, owner]
        for period, limit in self._limits:
            args += (period, limit, cost)
        return Call(name, "guard", self._decision, script=_WINDOW, keys=self._keys(keys, part), args=tuple(args))

    def _decision(self, reply: Any) -> Decision:
        allowed, remaining, wait, reset, bound, _ = reply
        if allowed:
            return Decision(True, remaining, 0.0, reset / 1e6, "")
        retry_after = wait / 1e6 if wait else random.uniform(*HINT)  # noqa: S311 - jitter, not a secret
        return Decision(False, remaining, retry_after, reset / 1e6, self._bounds[bound])

    def _keys(self, keys: Keys, part: str) -> tuple[str, ...]:
        windows, pause = keys.key(self.name, part, "w"), keys.key(self.name, part, "p")
        return (windows, pause, self._leases(keys, part)) if self.concurrency else (windows, pause)

    def _leases(self, keys: Keys, part: str) -> str:
        return keys.key(self.name, part, "l")

    def __repr__(self) -> str:
        cap = f", concurrency={self.concurrency}" if self.concurrency else ""
        margin = f", margin={humanize(self.margin)}" if self.margin else ""
        return f"LimitPolicy({', '.join([self.name, *map(str, self.rates)])}{cap}{margin})"


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(f"limiter name {name!r} will not do: use 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def _checked_cap(concurrency: int | None) -> int | None:
    if concurrency is not None and (type(concurrency) is not int or not 1 <= concurrency <= MAX_AMOUNT):
        raise DefinitionError(f"concurrency={concurrency!r} must be a whole number of at least 1, or None for no cap")
    return concurrency
