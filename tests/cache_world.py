"""Two kits that stand for two processes, with one function whose computations do as they are told.

Time is the kits' server time and the keys' expiries, both put forward by the test.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.rig import outcome
from workerkit import WorkerKit

HOUR = 3600
# In hours, so that the seconds which really pass make no difference.
FRESH, STALE, ON_ERROR, LEASE, PAUSE = 100.0, 100.0, 300.0, 10.0, 60 / HOUR
KEYS = {"a": "t1", "b": "t1", "c": "t2"}  # with the tag that the arguments give
ADDED = {"b": "t2"}  # and the one that the computation adds
CUT = """
for _, key in ipairs(redis.call('KEYS', 'm:c:*')) do
  local left = redis.call('PTTL', key) - ARGV[1]
  if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
end"""


@dataclass
class Plan:
    """What the computation of one call is to do: it may be held up until `gate` opens."""

    ending: str = "ok"
    gate: threading.Event | None = None
    computed: list[int] = field(default_factory=list)


class World:
    """The kits with their function, and the hours that they believe have passed."""

    def __init__(self, url: str) -> None:
        self.kits = [WorkerKit(url=url, hooks=[], namespace="m", early=0) for _ in range(2)]
        self.pool = ThreadPoolExecutor(16)
        self.here = threading.local()
        self.hours = 0.0
        self.next = 0
        self.functions = [self._function(kit) for kit in self.kits]
        self.client = self.kits[0].client()

    def _function(self, kit: WorkerKit) -> Any:
        now = kit.engine.now_us
        kit.engine.now_us = lambda: now() + int(self.hours * HOUR * 1e6)

        @kit.memoize(
            FRESH * HOUR,
            stale=STALE * HOUR,
            stale_if_error=ON_ERROR * HOUR,
            lease=LEASE * HOUR,
            wait=0.001,
            tags=[lambda key: KEYS[key]],
        )
        def fn(key: str) -> list[Any]:
            plan = self.here.plan
            self.next += 1
            n = self.next
            if key in ADDED:
                fn.memo.current.tag(ADDED[key])
            plan.computed.append(n)
            if plan.gate is not None:
                assert plan.gate.wait(20)
            if plan.ending == "fail":
                raise LookupError(n)
            if plan.ending == "skip":
                fn.memo.current.skip()
            return [n, key]

        return fn

    def planned(self, plan: Plan, act: Any, *args: Any) -> Any:
        self.here.plan = plan
        return outcome(lambda: act(*args))

    def sharing(self, kit: int) -> int:
        return sum(1 + len(each._latches) for each in list(self.kits[kit].engine.runner._shared.values()))

    def close(self) -> None:
        self.client.close()
        self.pool.shutdown()
        for kit in self.kits:
            kit.close()
