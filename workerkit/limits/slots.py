"""How a slot is got: asked for, waited for, and cleaned up after when the asking was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic

from workerkit.core.flow import Flow, Sleep
from workerkit.core.keys import Keys
from workerkit.errors import StoreError, StoreRefused, StoreUnavailable
from workerkit.limits.decision import Reservation
from workerkit.limits.lease import Slot
from workerkit.limits.limiter import LimitPolicy
from workerkit.limits.waiters import NOTED, Waiters


class Slots:
    """The slots of one limiter key; `part` is the key as a digest."""

    def __init__(self, policy: LimitPolicy, keys: Keys, part: str) -> None:
        self._policy = policy
        self._keys = keys
        self._part = part
        self._waiters = Waiters(keys, policy.name)

    def hold(
        self,
        costs: tuple[int, ...],
        token: str,
        *,
        wait: float = 0.0,
        exact: bool = False,
        leased: bool = True,
        who: Callable[[], str] = str,
    ) -> Flow[Slot]:
        """Ask until admitted, or `wait` seconds have passed or cannot suffice: then the slot says no.

        `token` is nobody else's. A wait that is worth it is listed under what `who` answers. When an error or an
        interruption leaves open whether it was admitted, what it charged stays charged and its lease is released.
        """
        policy, keys, part = self._policy, self._keys, self._part
        leased = leased and policy.definition.concurrency is not None
        owner = f"{token}|{policy.definition.held(costs)}" if exact else token
        try:
            return (yield from self._wait(costs, owner, wait, exact=exact, leased=leased, who=who))
        except (StoreUnavailable, StoreRefused):
            raise  # not executed
        except BaseException:
            if exact or leased:
                try:
                    yield from (
                        policy.settle(keys, part, costs, 0, {}, owner=owner, exact=True)
                        if exact
                        else policy.release(keys, part, owner)
                    )
                except StoreError:
                    pass  # unrenewed, the lease ends by itself
            raise

    def _wait(
        self, costs: tuple[int, ...], owner: str, wait: float, *, exact: bool, leased: bool, who: Callable[[], str]
    ) -> Flow[Slot]:
        policy, deadline, noted = self._policy, monotonic() + wait, ""
        try:
            while True:
                asked = monotonic()
                patience = 0.0 if leased else max(0.0, deadline - asked)
                answer = yield from policy.request(
                    self._keys, self._part, costs, owner, exact=exact, leased=leased, patience=patience
                )
                held = answer.decision.allowed
                slot = Slot(owner, answer, policy.definition.units, costs, leased=leased and held, exact=exact and held)
                left = deadline - monotonic()
                pause = answer.delay or min(answer.decision.retry_after, left)
                if pause >= NOTED and not noted:
                    noted = who()
                    yield from self._note(noted, max(left, answer.delay))
                if held:
                    slot.ends = asked + policy.lease if leased or exact else inf
                    if not answer.delay or (yield from self._turn_comes(slot, answer.delay)):
                        return slot
                    continue
                # What must wait for a slot, or for answers, can only be guessed.
                sure = answer.decision.bound_by != "concurrency"
                if left <= 0 or (sure and answer.decision.retry_after > left):
                    return slot
                yield from Sleep(pause)
        finally:
            if noted:
                yield from self._note(noted, 0)

    def reserve(self, key: str, costs: tuple[int, ...], within: float) -> Flow[Reservation]:
        """Charge for a time of the call's own, at most `within` seconds ahead; refused when that is too soon."""
        answer = yield from self._policy.request(self._keys, self._part, costs, "", patience=within)
        return Reservation(answer.delay, answer.decision, key, costs, answer.acts)

    def _turn_comes(self, slot: Slot, delay: float) -> Flow[bool]:
        """Wait for the slot's own time; given back when that is interrupted, or falls into a pause."""
        paused = True
        try:
            yield from Sleep(delay)
            paused = yield from self._policy.paused(self._keys, self._part)
        finally:
            if paused:
                nothing = dict.fromkeys(self._policy.definition.units, 0)
                try:
                    yield from self._policy.settle(self._keys, self._part, slot.charged, slot.stamp, nothing)
                except StoreError:
                    pass  # it counts as used
        return not paused

    def _note(self, who: str, seconds: float) -> Flow[None]:
        try:
            yield from (
                self._waiters.note(self._part, who, seconds) if seconds else self._waiters.forget(self._part, who)
            )
        except StoreError:
            pass  # a list to look at: the next request tells whether Redis is there
