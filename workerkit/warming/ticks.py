"""Ticks of a warmup: numbered by the server's clock, claimed by exactly one process, with no leader."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from workerkit.core.call import Call
from workerkit.core.keys import Keys, escape
from workerkit.core.lua import Script

_CLAIM = Script("workerkit.warming", "claim")
_FINISH = Script("workerkit.warming", "finish")
CLAIM_MS = 15_000
_VERDICTS: dict[int, Literal["go", "done", "overlap"]] = {1: "go", 0: "done", -1: "overlap"}


class Tick(NamedTuple):
    """A tick, and whether it is to be run."""

    number: int
    verdict: Literal["go", "done", "overlap"]


class Ticks:
    """Makes the Calls of one warmup, due every `interval` seconds."""

    def __init__(self, keys: Keys, name: str, interval: float) -> None:
        part = escape(name)
        self._done = keys.key("warmup", part, "done")
        self._run = keys.key("warmup", part, "run")
        self._interval_us = int(interval * 1e6)
        # Long enough that a tick is never run twice, however late its second beat.
        self._life_ms = int(interval * 2000) + 86_400_000

    def claim(self, token: str) -> Call[Tick]:
        return Call(
            "warm.claim",
            "guard",
            _tick,
            script=_CLAIM,
            keys=(self._done, self._run),
            args=(token, self._interval_us, CLAIM_MS),
        )

    def renew(self, token: str) -> Call[bool]:
        return self._finish(token, -1, CLAIM_MS)

    def finish(self, token: str, tick: int) -> Call[bool]:
        return self._finish(token, tick, self._life_ms)

    def _finish(self, token: str, tick: int, life_ms: int) -> Call[bool]:
        keys = (self._done, self._run)
        return Call("warm.finish", "guard", bool, script=_FINISH, keys=keys, args=(token, tick, life_ms))


def _tick(reply: Any) -> Tick:
    return Tick(int(reply[0]), _VERDICTS[int(reply[1])])
