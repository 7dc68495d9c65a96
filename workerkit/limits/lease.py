"""A slot: an admission that is held, and that knows by the monotonic clock when it has been lost."""

from __future__ import annotations

from math import inf
from time import monotonic

from workerkit.core.rates import MAX_AMOUNT
from workerkit.errors import DefinitionError
from workerkit.limits.decision import Answer

Holder = tuple[str, str, int]  # a strand of a task that holds a lease: of which key, the task's id, the strand


class Slot:
    """What `with limiter.slot(...)` gives: `decision`, and the `owner` token under which the lease is held."""

    __slots__ = (
        "__weakref__",
        "_over",
        "_real",
        "_units",
        "charged",
        "decision",
        "ends",
        "exact",
        "holder",
        "leased",
        "owner",
        "stamp",
    )

    def __init__(
        self,
        owner: str,
        answer: Answer,
        units: tuple[str, ...] = (),
        charged: tuple[int, ...] = (),
        *,
        leased: bool = False,
        exact: bool = False,
    ) -> None:
        self.owner = owner
        self.decision = answer.decision
        self._units = units
        self.charged = charged  # by rate, as the units are
        self.ends = inf  # of the lease, by the monotonic clock
        self.holder: Holder | None = None
        self.stamp = answer.acts  # the server's time of the charge
        self.leased = leased
        self.exact = exact
        self._real: dict[str, int] | None = None
        self._over = False

    @property
    def lost(self) -> bool:
        """Whether the lease has run out unrenewed, so that somebody else may hold the slot; stop what it protects.

        True before the server counts it so: the time runs from before each request. Always False for a slot that
        holds no lease, and for one that was admitted because Redis was down.
        """
        return monotonic() >= self.ends

    def settle(self, *, cost: int | None = None, **units: int) -> None:
        """Say what was really used, before the slot ends: `slot.settle(tokens=612)`. Sent with its end.

        Less than was charged is given back to the moment of the charge; more is charged at the end, if need be as a
        debt above the limit. The limit's promise therefore holds for estimates that are not too low. What is not
        settled (a killed process, Redis down at the end) counts as charged.

        Raises DefinitionError for a unit that the limiter does not count, for an amount that is no whole number of at
        least 0, and after the slot's end.
        """
        if self._over:
            raise DefinitionError("settle: this slot has ended and its charge stands; settle inside its with block")
        said = {**({} if cost is None else {"": cost}), **units}
        for unit, amount in said.items():
            if unit not in self._units:
                known = ", ".join(dict.fromkeys(each or "cost" for each in self._units)) or "nothing"
                raise DefinitionError(f"settle: this limiter counts {known}, not {unit or 'cost'}")
            if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
                raise DefinitionError(f"settle: {unit or 'cost'}={amount!r} must be a whole number from 0 to 2**53")
        self._real = {**(self._real or {}), **said}

    def end(self) -> dict[str, int] | None:
        """What was settled by unit, if anything; from now on nothing can be."""
        self._over = True
        return self._real

    def renewed(self, held: bool, ends: float) -> bool:
        """Take the server's answer to a renewal that was asked for one lease before `ends` (monotonic seconds)."""
        if self.ends < inf:
            self.ends = ends if held else -inf
        return held
