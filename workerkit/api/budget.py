"""A warmup's share of the limit that its function is throttled by."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from workerkit.api import layers
from workerkit.api.engine import Engine
from workerkit.api.gate import Gate
from workerkit.api.limiter import Limiter
from workerkit.api.memo import Memo
from workerkit.core.call import Call
from workerkit.core.flow import Flow
from workerkit.errors import DefinitionError
from workerkit.limits.decision import Decision
from workerkit.waitlist.line import Line
from workerkit.warming.budget import least, share_of, shared, spare
from workerkit.warming.plan import Arguments

PAUSE = 0.1  # seconds after which it is looked again whether live callers leave something over


class Share(Limiter):
    """The limit of a warmup's own calls, which nobody declared by this name."""

    internal = True


class Budget:
    """Asked before each refresh. The refresh itself is charged to the limit like any call."""

    def __init__(self, engine: Engine, memo: Memo[Any, Any], name: str, text: str) -> None:
        share, gate = share_of(text, f"warmup {name}: budget"), getattr(memo.fn, layers.GATE, None)
        if not isinstance(gate, Gate) or gate.limiter is None or not gate.limiter.definition.rates:
            raise DefinitionError(
                f"warmup {name}: budget= is a share of a limit: put @kit.throttle(limiter) under @kit.memoize"
            )
        self._gate, self._limiter = gate, gate.limiter
        # A limiter of its own: no more than the share in any period, however many processes warm.
        rates = shared(gate.limiter.definition.rates, share, gate.costs, f"warmup {name}: budget {text.strip()}")
        own = f"warm.{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
        self._own = Share(engine, own, *rates)
        self.said = f"{text.strip()} of {gate.limiter.name}: {', '.join(map(str, self._own.definition.rates))}"

    def seconds(self, calls: Iterable[Arguments]) -> float:
        """What these calls take at least, each key of the limit by itself."""
        rates = self._own.definition.rates
        costs: dict[str, list[int]] = {}
        for args, kwargs in calls:
            key, each = self._gate.asked(args, kwargs)
            costs[key] = [sum(pair) for pair in zip(costs.get(key, [0] * len(rates)), each, strict=True)]
        return max((least(*pair) for each in costs.values() for pair in zip(each, rates, strict=True)), default=0.0)

    def asking(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[float]:
        """0.0 where this call may be refreshed now, else the seconds after which to ask again."""
        limiter, (key, costs) = self._limiter, self._gate.asked(args, kwargs)
        usage = yield from limiter.policy.usage(limiter.keys, limiter.part(key))
        definition = limiter.definition
        most = [definition.most(rate) for rate in definition.rates]
        if not spare(usage, costs, most) or (yield from self._parked(key)):
            return PAUSE
        units = {rate.unit: cost for rate, cost in zip(definition.rates, costs, strict=True)}
        decision: Decision = yield from self._own.deciding(key, units.pop("", 1), units)
        return 0.0 if decision.allowed else max(decision.retry_after, 0.001)

    def _parked(self, key: str) -> Call[int]:
        """How many tasks are parked for the same key of the limit."""
        line = Line(self._limiter.name, self._limiter.part(key), "", (), "")
        _, waiting, *_ = self._limiter.engine.waitlist.of_line(line.name)
        return Call("warm.parked", "guard", int, args=("ZCARD", waiting))
