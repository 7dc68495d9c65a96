"""Ticks of a warmup: claimed by exactly one process, with no leader; and what is known of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys, escape
from workerkit.core.lua import Script

_CLAIM, _QUEUE, _RENEW, _FINISH, _MARK, _PAUSE = (
    Script("workerkit.warming", name) for name in ("claim", "queue", "renew", "finish", "mark", "pause")
)
CLAIM_MS = 15_000
QUEUED_MS = 86_400_000  # a message may be on its way for a day
KEPT_RUNS = 50
_NUMBERS = ("done", "running", "started", "ended", "runs", "missed", "overlaps")
LIFE_MS = 400 * 86_400_000  # a yearly warmup must know of its last run

Verdict = Literal["go", "again", "overlap", "busy", "paused", "changed"]


class Claimed(NamedTuple):
    """What became of a claim; with "again" it is another's run whose message is late."""

    verdict: Verdict
    token: str = ""
    tick: int | None = None


class State(NamedTuple):
    """How a warmup stands. Moments are in ms since 1970; `run` is what the last run said of itself.

    `done` is the newest tick that was run or left out, `running` the one under way. `missed` ticks were left out
    because nobody was there, `overlaps` because a run took that long.
    """

    done: int | None = None
    running: int | None = None
    started: int | None = None
    ended: int | None = None
    paused: bool = False
    runs: int = 0
    missed: int = 0
    overlaps: int = 0
    run: Mapping[str, Any] = {}


class Ticks:
    """Makes the Calls of one warmup."""

    def __init__(self, keys: Keys, name: str, claim_ms: int = CLAIM_MS) -> None:
        part = escape(name)
        self.claim_ms = claim_ms
        self._state, self._run, self._runs = (keys.key("warmup", part, kind) for kind in ("state", "run", "runs"))

    def look(self) -> Call[State]:
        """How it stands."""
        return Call("warm.look", "guard", _state, args=("HGETALL", self._state))

    def claim(self, token: str, tick: int | None, done: int | None = None) -> Call[Claimed]:
        """Claim a tick, when `done` is what the claimer believes to be done; or a run by hand, of no tick. The same
        claim again is the same."""
        args = (token, tick or 0, _word(done), self.claim_ms, LIFE_MS)
        return Call("warm.claim", "guard", _claimed, script=_CLAIM, keys=(self._state, self._run), args=args)

    def queue(self, token: str, heir: str, wait_ms: int) -> Call[bool]:
        """Leave a run to a message of the token `heir`, which is sent for so much later; whether it was still held.

        When nobody begins it, whoever claims next is told to send it again: after the life of a claim, then after
        doubled times. Idempotent.
        """
        args = (token, heir, QUEUED_MS, wait_ms, self.claim_ms, LIFE_MS)
        return Call("warm.queue", "guard", bool, script=_QUEUE, keys=(self._state, self._run), args=args)

    def mark(self, done: int | None, mark: int, passed: int) -> Call[bool]:
        """Leave out the ticks up to `mark`; whether `done` still was what is done."""
        args = (_word(done), mark, passed, LIFE_MS)
        return Call("warm.mark", "guard", bool, script=_MARK, keys=(self._state,), args=args)

    def renew(self, token: str) -> Call[bool]:
        """Keep the claim, or begin the run of a message; whether it is still held."""
        args = (token, self.claim_ms)
        return Call("warm.renew", "guard", bool, script=_RENEW, keys=(self._state, self._run), args=args)

    def held(self) -> Call[bool]:
        """Whether a run is under way: one that was killed is not, though it has never ended."""
        return Call("warm.held", "guard", bool, args=("EXISTS", self._run))

    def finish(self, token: str, tick: int | None, passed: int, run: Mapping[str, Any]) -> Call[bool]:
        """End a run, and keep what it says of itself; whether the claim was still held. Without a tick it was asked for
        by hand."""
        args = (token, _word(tick), LIFE_MS, passed, KEPT_RUNS, json.dumps(run))
        keys = (self._state, self._run, self._runs)
        return Call("warm.finish", "guard", bool, script=_FINISH, keys=keys, args=args)

    def pause(self, *, on: bool) -> Call[bool]:
        """Whether that changed anything."""
        return Call("warm.pause", "guard", bool, script=_PAUSE, keys=(self._state,), args=(int(on), LIFE_MS))

    def history(self, most: int) -> Call[list[Mapping[str, Any]]]:
        """What the last runs said of themselves, the newest first."""
        return Call("warm.history", "guard", _runs, args=("LRANGE", self._runs, 0, most - 1))


def _word(moment: int | None) -> Word:
    return "" if moment is None else moment


def _claimed(reply: list[bytes]) -> Claimed:
    verdict: Any
    verdict, *whose = (each.decode() for each in reply)
    return Claimed(verdict, whose[0], int(whose[1]) or None) if whose else Claimed(verdict)


def _runs(reply: list[bytes]) -> list[Mapping[str, Any]]:
    return [json.loads(each) for each in reply]


def _state(reply: Any) -> State:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found = {name.decode(): value for name, value in pairs}
    numbers = {name: int(found[name]) for name in _NUMBERS if name in found}
    return State(**numbers, paused="paused" in found, run=json.loads(found.get("run", b"{}")))
