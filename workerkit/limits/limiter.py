"""The policy of a limiter: all its rates and its concurrency cap, decided by one atomic script a request."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

from workerkit.core.call import Call, Word, as_is
from workerkit.core.durations import Duration, seconds
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.core.rates import Rate
from workerkit.errors import DefinitionError
from workerkit.limits.decision import Answer, Decision, Reservation
from workerkit.limits.definition import CALLS, Definition
from workerkit.limits.lease import Slot
from workerkit.limits.room import Room, room
from workerkit.limits.usage import RateUsage, Usage

if TYPE_CHECKING:
    from workerkit.limits.headers import Advice

# When a slot comes free nobody can know; asking again after a random while keeps waiters from asking all at once.
HINT = (0.01, 0.05)
CONFIGURED_MS = 366 * 86_400_000
LOOK, TAKE, HOLD = 0, 1, 2

_LETTER = {"window": "w", "gcra": "g", "fixed": "f"}
_RENEW = Script("workerkit.limits", "renew")


def script(name: str, algorithm: str) -> Script:
    """One of the scripts, with the algorithm it works by."""
    return Script("workerkit.limits", name, replace={"algorithm": f"-- include: {algorithm}\n"})


_DECIDE, _FINISH, _LEARN = (
    {algorithm: script(name, algorithm) for algorithm in _LETTER} for name in ("decide", "finish", "learn")
)


class LimitPolicy:
    """Builds the Calls of one limiter. `part` is the caller's key as a digest; `owner` names the holder of a lease."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.name = definition.name
        self.rates = definition.rates
        self.lease = definition.lease
        self._decide = _DECIDE[definition.algorithm]
        self._state = _LETTER[definition.algorithm]
        self._lease_us = round(self.lease * 1e6)
        self._cap = definition.concurrency or 0
        self._limits = tuple((definition.period_us(rate), rate.amount) for rate in self.rates)
        self._units = "".join(f"{unit}," for unit in definition.units) if definition.named else ""
        self._burst = definition.burst or 0
        # By the script's number: 0, 1 .. n, -2, -1
        self._bounds = ("concurrency", *map(str, self.rates), "learned", "pause")
        self._kept_ms = ceil((4 * self._lease_us + max((period for period, _ in self._limits), default=0)) / 1000)
        self._plain = self._args(TAKE, "", definition.ones)

    # Asking

    def acquire(self, keys: Keys, part: str, costs: tuple[int, ...]) -> Call[Decision]:
        """Charge every rate, or change nothing; never charged twice nor late."""
        plain = costs is self.definition.ones
        args = self._plain if plain else self._args(TAKE, "", costs)
        names, parse = self._keys(keys, part), self._decision
        return Call("limits.acquire", "guard", parse, script=self._decide, keys=names, args=args, kept=plain)

    def request(
        self,
        keys: Keys,
        part: str,
        costs: tuple[int, ...],
        owner: str,
        *,
        exact: bool = False,
        leased: bool = True,
        patience: float = 0.0,
    ) -> Call[Answer]:
        """As `acquire`, to be held: takes (or refreshes) `owner`'s lease where there is a cap and it is `leased`.

        With `exact` the charge counts until the slot is finished, and a period longer. For gcra, `patience` (seconds)
        is how far in the future the call's own time may lie.
        """
        mode, cap = (HOLD if exact else TAKE), (self._cap if leased else 0)
        args = self._args(mode, owner, costs, cap=cap, extra=f" {round(patience * 1e6)}" if patience else "")
        return Call(
            "limits.request", "guard", self._answer, script=self._decide, keys=self._keys(keys, part), args=args
        )

    def peek(self, keys: Keys, part: str, costs: tuple[int, ...]) -> Call[Decision]:
        """What `acquire` would answer now; changes nothing."""
        return self._look("limits.peek", self._decision, keys, part, costs)

    def room(self, keys: Keys, part: str, costs: tuple[int, ...], ahead: float = 0.0) -> Call[Room]:
        """For how many requests of these costs there will be room in `ahead` seconds, if nobody comes in between."""
        if len(costs) != len(self.rates):
            costs = self.definition.ones  # of another version of this limiter

        def parse(reply: Any) -> Room:
            if reply[4] == -3:  # whoever asks is told why
                return Room(1, 0.0, True)
            # By rate as it counts now: a key may be configured with others than it was defined with.
            found = room(self._decision(reply), self._usage(reply), tuple(row[8] for row in reply[7:]))
            return found if found.requests else found._replace(wait=found.wait + ahead)

        return self._look("limits.room", parse, keys, part, costs, ahead=round(ahead * 1e6))

    def usage(self, keys: Keys, part: str) -> Call[Usage]:
        """How this key stands; changes nothing."""
        return self._look("limits.usage", self._usage, keys, part, self.definition.ones)

    # Ending

    def finish(self, keys: Keys, part: str, slot: Slot) -> Call[bool] | None:
        """End `slot`: settle it, count its answer, give up its lease; None when nothing is left to do."""
        real = slot.end()
        if slot.exact or (real is not None and slot.stamp):  # what Redis never saw was never charged
            return self.settle(keys, part, slot.charged, slot.stamp, real or {}, owner=slot.owner, exact=slot.exact)
        return self.release(keys, part, slot.owner) if slot.leased else None

    def settle(
        self,
        keys: Keys,
        part: str,
        charged: tuple[int, ...],
        stamp: int,
        real: dict[str, int],
        *,
        owner: str = "",
        exact: bool = False,
    ) -> Call[bool]:
        """Settle a charge of the server's time `stamp`: `real` by unit; what it leaves out was as charged."""
        used = [real.get(unit, cost) for unit, cost in zip(self.definition.units, charged, strict=True)]
        args = self._args(
            HOLD if exact else TAKE, owner, charged, extra=f" {stamp} {','.join(map(str, used))}", named=True
        )
        script = _FINISH[self.definition.algorithm]
        return Call("limits.finish", "guard", bool, script=script, keys=self._keys(keys, part), args=args)

    def release(self, keys: Keys, part: str, owner: str) -> Call[bool]:
        """Give up `owner`'s lease; answers whether there was one. The rates keep their charge."""
        return Call("limits.release", "guard", bool, args=("ZREM", self._leases(keys, part), owner))

    def renew(self, keys: Keys, part: str, slot: Slot) -> Call[bool]:
        """Keep the slot's lease for another term, and tell the slot whether it was still held."""
        state, _, configured, leases = self._keys(keys, part)
        ends = monotonic() + self.lease
        return Call(
            "limits.renew",
            "guard",
            lambda reply: slot.renewed(bool(reply), ends),
            script=_RENEW,
            keys=(leases, state, configured),
            args=(slot.owner, self._lease_us, self._kept_ms),
        )

    # Steering

    def reset(self, keys: Keys, part: str) -> Call[int]:
        """Forget every charge, what was learned and the pause. Leases stay: their holders are still at work."""
        state, pause = self._keys(keys, part)[:2]
        return Call("limits.reset", "guard", as_is, args=("DEL", state, pause))

    def pause(self, keys: Keys, part: str, duration: Duration) -> Call[Any]:
        """Refuse everything for so long, whatever pause there was."""
        pause, ms = self._keys(keys, part)[1], ceil(seconds(duration, what="pause") * 1e3)
        return Call("limits.pause", "guard", as_is, args=("SET", pause, "", "PX", ms))

    def configure(self, keys: Keys, part: str, rates: Sequence[Rate], concurrency: int | None) -> Call[Any]:
        """Replace this key's rates, or its cap, for the whole fleet; without either the definition counts again."""
        name = self._keys(keys, part)[2]
        if not rates and concurrency is None:
            return Call("limits.configure", "guard", as_is, args=("DEL", name))
        if concurrency is not None and not self._cap:
            raise DefinitionError(f"limiter {self.name} was defined without concurrency, so none can be configured")
        definition = self.definition
        burst = definition.burst if rates else None
        asked = Definition(
            self.name, tuple(rates), algorithm=definition.algorithm, burst=burst, concurrency=concurrency
        )
        known, given = set(definition.units), set(asked.units)
        if unknown := given - known:
            what = ", ".join(sorted(unit or "calls" for unit in known)) or "nothing"
            raise DefinitionError(f"{definition.what} does not count {min(unknown) or 'calls'}; it counts {what}")
        if rates and (missing := known - given):
            raise DefinitionError(f"{definition.what} counts {min(missing) or 'calls'} too: configure a rate of those")
        value: dict[str, Any] = {"cap": concurrency} if concurrency else {}
        if rates:
            value["rates"] = [
                {"period": str(definition.period_us(rate)), "limit": rate.amount, "unit": unit, "text": str(rate)}
                for rate, unit in zip(asked.rates, asked.units, strict=True)
            ]
        return Call("limits.configure", "guard", as_is, args=("SET", name, json.dumps(value), "PX", CONFIGURED_MS))

    def paused(self, keys: Keys, part: str) -> Call[bool]:
        """Whether everything is refused now."""
        return Call("limits.paused", "guard", bool, args=("EXISTS", self._keys(keys, part)[1]))

    def learn(self, keys: Keys, part: str, advice: Advice) -> Call[bool]:
        """Take in what the called API said; answers whether that paused this key, or brought a rate down."""
        units = dict.fromkeys(self.definition.units)
        budgets = []
        for unit in units:
            told = next((each for each in advice.budgets if ("" if each.unit in CALLS else each.unit) == unit), None)
            said: dict[str, Any] = {"unit": unit}
            if told and told.remaining is not None and told.reset:
                said |= {"left": told.remaining, "reset": ceil(told.reset * 1e6)}
            if (
                told
                and told.limit
                and told.window
                and (share := self._share(unit, told.limit, told.window)) is not None
            ):
                said["share"] = share
            budgets.append(said)
        news = {"pause": ceil(advice.pause * 1e6), "refused": advice.refused, "budgets": budgets}
        args = self._args(TAKE, json.dumps(news), self.definition.ones, named=True)
        script = _LEARN[self.definition.algorithm]
        return Call("limits.learn", "guard", bool, script=script, keys=self._keys(keys, part), args=args)

    def _share(self, unit: str, limit: int, window: float) -> int | None:
        """In 1/1000, how much of our rate of that very window the API grants; None when it is not less."""
        shares = [
            limit * 1000 // rate.amount
            for rate, each in zip(self.rates, self.definition.units, strict=True)
            if each == unit and rate.period == window and limit < rate.amount
        ]
        return min(shares, default=None)

    def cancel(self, keys: Keys, part: str, reservation: Reservation) -> Call[bool]:
        """Give back what can still be given to others."""
        nothing = dict.fromkeys(self.definition.units, 0)
        return self.settle(keys, part, reservation.charged, reservation.stamp, nothing)

    # Words and replies

    def _look(
        self, name: str, parse: Any, keys: Keys, part: str, costs: tuple[int, ...], *, ahead: int = 0
    ) -> Call[Any]:
        args = self._args(LOOK, str(ahead) if ahead else "", costs)
        return Call(name, "guard", parse, script=self._decide, keys=self._keys(keys, part), args=args)

    def _args(
        self,
        mode: int,
        owner: str,
        costs: tuple[int, ...],
        *,
        cap: int | None = None,
        extra: str = "",
        named: bool = False,
    ) -> tuple[Word, ...]:
        units = self._units or ("," * len(costs) if named else "")
        args: list[Word] = [mode, self._cap if cap is None else cap, self._lease_us, owner, units]
        args.append(f"{self._burst}{extra}")
        for (period, limit), cost in zip(self._limits, costs, strict=True):
            args += (period, limit, cost)
        return tuple(args)

    def _decision(self, reply: Any) -> Decision:
        allowed, remaining, wait, reset, bound = reply[:5]
        if allowed:
            return Decision(True, remaining, 0.0, reset / 1e6, "")
        if bound == -3:
            raise self._too_much(reply[6])
        retry_after = wait / 1e6 if wait else random.uniform(*HINT)  # noqa: S311 - jitter, not a secret
        return Decision(False, remaining, retry_after, reset / 1e6, self._text(bound))

    def _answer(self, reply: Any) -> Answer:
        decision = self._decision(reply)
        return Answer(decision, reply[5], reply[2] / 1e6 if decision.allowed else 0.0)

    def _usage(self, reply: Any) -> Usage:
        if reply[4] == -3:
            raise self._too_much(reply[6])
        configured, cap, taken, paused = reply[6]
        rates = tuple(
            RateUsage(
                self._text(text), limit, left, reset / 1e6, held, scale / 1000, None if told < 0 else told, till / 1e6
            )
            for text, limit, left, reset, held, scale, told, till, _ in reply[7:]
        )
        return Usage(rates, taken, cap or None, paused / 1e3, bool(configured))

    def _text(self, bound: int | bytes) -> str:
        return bound.decode("utf-8", "replace") if isinstance(bound, bytes) else self._bounds[bound]

    def _too_much(self, rate: int | bytes) -> DefinitionError:
        return DefinitionError(
            f"limiter {self.name}: the cost is above {self._text(rate)}, configured for this key; ask for less at once"
        )

    def _keys(self, keys: Keys, part: str) -> tuple[str, ...]:
        return tuple(keys.key(self.name, part, suffix) for suffix in (self._state, "p", "c", "l"))

    def _leases(self, keys: Keys, part: str) -> str:
        return keys.key(self.name, part, "l")

    def __repr__(self) -> str:
        return f"LimitPolicy({self.definition!r})"
