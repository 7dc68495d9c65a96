"""Local leasing: a process takes tokens in blocks, by one request each, and hands them out without asking.

Why it never over-admits. A block is charged at server time s, after its request was sent, and hands out no token later
than `life` after the sending, by the monotonic clock of the one process that has it: each token is used at some time
in [s, s + life). So what is used in any window [t, t + T) was charged in (t - life, t + T), which is shorter than
T + life; the server counts every charge for T + life and so admits no more than N there. Without either half (tokens
that outlive `life`, or charges counted for T only) tokens saved up from an older charge meet those of a newer one. (The
asker's own token is used when it is charged, as where nothing is leased.) The price: N in T + life instead of N in T,
and the tokens that a block has left when it dies.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from itertools import repeat
from math import inf, sqrt
from operator import length_hint
from typing import Literal
from weakref import WeakMethod

from workerkit.errors import DefinitionError
from workerkit.limits.decision import Decision

MOST_PARTS = 4096


class _Block:
    """The tokens of one request; `asked` of them, of which the asker used the first."""

    __slots__ = ("asked", "decision", "ends", "sent", "tokens")

    def __init__(self, asked: int, decision: Decision, sent: float, life: float) -> None:
        self.asked = asked
        self.decision = decision
        self.sent = sent
        self.ends = sent + life if decision.allowed else -inf
        self.tokens = repeat(decision, asked - 1)

    @property
    def used(self) -> int:
        return self.asked - length_hint(self.tokens)


class Blocks:
    """The blocks of one limiter in this process, by key part.

    tokens: how many to ask for at once, or "auto": by demand. life: seconds that a block may be used for, counted from
    sending its request; every period on the server must be longer by as much. most: the largest block.

    A forked child begins with none: its parent goes on using them.
    """

    def __init__(
        self,
        tokens: int | Literal["auto"],
        life: float,
        most: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if tokens != "auto" and (type(tokens) is not int or not 1 <= tokens <= most):
            raise DefinitionError(f'lease_tokens={tokens!r} must be a whole number from 1 to {most} here, or "auto"')
        self._fixed = None if tokens == "auto" else tokens
        self._life = life
        self._most = most
        self._clock = clock
        self.forget()
        forget = WeakMethod(self.forget)
        os.register_at_fork(after_in_child=lambda: (act := forget()) and act())

    def forget(self) -> None:
        """Begin with no block."""
        self._lock = threading.RLock()  # a signal handler may ask in the middle of `put`
        self._blocks: dict[str, tuple[_Block, ...]] = {}  # several only after requests at the same time

    def take(self, part: str) -> Decision | None:
        """One token, or None: ask the server for `size` of them, and `put` what it says.

        Takes no lock: the steps that matter are one bytecode each (a dict's get, an iterator's next), so no token is
        handed out twice. One that is lost to an interrupt is wasted.
        """
        for block in self._blocks.get(part, ()):
            if self._clock() < block.ends:
                decision = next(block.tokens, None)
                if decision is not None:
                    return decision
        return None

    def size(self, part: str) -> int:
        """How many tokens to ask for now; after a refusal what the server said is left, or 1: always fewer.

        "auto" looks at the latest block: the demand is what was used of it in the time since, per life, less its
        standard deviation if calls come at random, so that few blocks die with tokens left. At most twice the latest.
        """
        blocks = self._blocks.get(part)
        if not blocks:
            return self._fixed or 1
        last = blocks[-1]
        if not last.decision.allowed:
            left = last.decision.remaining
            return left if 0 < left < last.asked else 1  # with more left something else refused, whatever the number
        if self._fixed:
            return self._fixed
        demand = last.used * self._life / max(1e-9, self._clock() - last.sent)
        return max(1, min(int(demand - sqrt(demand)), last.asked * 2, self._most))

    def put(self, part: str, n: int, decision: Decision, sent: float) -> None:
        """Take the server's answer to a request for `n` that was sent at monotonic `sent` (read before sending).

        When it is allowed, the first token is the asker's own, who acts on `decision` as on any other, however late it
        came; the block has the other n - 1.
        """
        block = _Block(n, decision, sent, self._life)
        with self._lock:
            now = self._clock()
            alive = (each for each in self._blocks.pop(part, ()) if now < each.ends and length_hint(each.tokens))
            self._blocks[part] = (*alive, block)
            if len(self._blocks) > MOST_PARTS:  # the one that asked longest ago, whose block dies first
                del self._blocks[next(iter(self._blocks))]
