"""`kit.warmup`: a memoized function kept warm, so that no caller pays for a cold cache."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from workerkit.api.engine import Engine
from workerkit.api.warmer import Warmer
from workerkit.core.call import Call
from workerkit.core.events import WarmOutcome, WarmTick
from workerkit.core.flow import Batch
from workerkit.errors import DefinitionError
from workerkit.warming.plan import Plan
from workerkit.warming.run import Outcome, Run
from workerkit.warming.schedule import Missed, Schedule, due
from workerkit.warming.ticks import CLAIM_MS, State, Ticks

SHORTEST_CLAIM_MS = 1000


class When(NamedTuple):
    """When a warmup runs, and on which queue (None: as the app routes it). `grace` is in ms."""

    schedule: Callable[[], Schedule]
    said: str  # the schedule, as it was written
    missed: Missed
    grace: int | None
    at_once: bool
    on_start: bool
    queue: str | None


@dataclass(frozen=True)
class WarmStatus:
    """How a warmup stands. Moments are in seconds since 1970, by the server's clock.

    `next` is when it is due, `running` since when a run is under way. `missed` ticks were left out because nobody was
    there to run them, `overlaps` because a run took that long. `last` is what the last run did, `reason` why it failed.
    """

    name: str
    schedule: str
    next: float
    running: float | None
    ended: float | None
    paused: bool
    runs: int
    missed: int
    overlaps: int
    last: Outcome | None
    reason: str


class Warmup:
    """One declared warming; `kit.warmup` makes it. Its verbs raise StoreError when Redis is down."""

    def __init__(self, engine: Engine, name: str, when: When, warmer: Warmer) -> None:
        self._engine = engine
        self._when = when
        self._warmer = warmer
        self.name = name
        """Its name, which no other warmup of the kit has."""
        self.on_start = when.on_start
        """Whether it also runs when a worker starts."""
        self.function = warmer.function
        """The name of the function that it warms."""

    @property
    def period(self) -> float:
        """Seconds between the next two ticks."""
        return self._interval(int(time.time() * 1000)) / 1000

    def plan(self) -> Plan:
        """What a run would refresh now, in which order, and what it would leave alone and why; nothing is changed."""
        return self._warmer.plan()

    def run(self) -> Outcome | None:
        """Run now, in this process, whatever is due, also while paused; what was done, or None while another run is
        under way."""
        return self._here(self._by_hand(), quiet=False)

    def send(self) -> bool:
        """Have the workers run it now, whatever is due, also while paused; False while another run is under way."""
        return self._sent(self._by_hand)

    def run_due(self) -> Outcome | None:
        """Run the tick that is due in this process, unless it is done, left out or under way; what was done, or
        None. A run that fails is one, with its reason in the status."""
        return self._here(self._claimed_due(), quiet=True)

    def send_due(self) -> bool:
        """Have the workers run the tick that is due; False where it is done, left out or under way."""
        return self._sent(self._claimed_due)

    def go_on(self, message: list[Any]) -> None:
        """Work on the run of a message, unless it was taken over meanwhile; its rest is sent again."""
        run = self._warmer.run_of(message)
        if not self._engine.runner.call(self._ticks.renew(run.token)):
            return
        wait = self._worked(run, here=self._engine.host.eager(), quiet=True)
        if wait is not None:
            self._hand_over(run, wait)

    def status(self) -> WarmStatus:
        """How it stands."""
        state, held = self._engine.runner.run(iter(Batch(*self.looks())))
        return self.standing(state, held)

    def looks(self) -> tuple[Call[State], Call[bool]]:
        """The Calls whose answers say how it stands."""
        return self._ticks.look(), self._ticks.held()

    def standing(self, state: State, held: bool) -> WarmStatus:
        """What those answers say. A run that was killed is not under way, though it has never ended."""
        running = held and state.running is not None
        after = self._when.schedule().after(max(state.done or 0, self._engine.now_us() // 1000))
        last = {name: state.run[name] for name in Outcome._fields if name in state.run}
        return WarmStatus(
            self.name, self._when.said, after / 1000, _seconds(state.started if running else None),
            _seconds(state.ended), state.paused, state.runs, state.missed, state.overlaps,
            Outcome(**last) if last else None, state.run.get("reason", ""),
        )  # fmt: skip

    def late(self, state: State) -> float:
        """Seconds since a tick is due that nobody has run or left out; 0.0 for none, or where none was ever done."""
        if state.done is None:
            return 0.0
        return max(0.0, self._engine.now_us() // 1000 - self._when.schedule().after(state.done)) / 1000

    def history(self, most: int = 10) -> list[dict[str, Any]]:
        """What the last runs said of themselves, the newest first; at most 50 are kept."""
        return [{**run} for run in self._engine.runner.call(self._ticks.history(max(most, 1)))][: max(most, 0)]

    def pause(self) -> bool:
        """Run no more ticks until `resume`; False when it was paused already. A run that is under way goes on."""
        return self._engine.runner.call(self._ticks.pause(on=True))

    def resume(self) -> bool:
        """Let ticks be run again; False when it was not paused."""
        return self._engine.runner.call(self._ticks.pause(on=False))

    @cached_property
    def _ticks(self) -> Ticks:
        # Who takes over does so within an interval.
        claim = min(max(self._interval(0) // 2, SHORTEST_CLAIM_MS), CLAIM_MS)
        return Ticks(self._engine.keys("h"), self.name, claim)

    def _interval(self, moment: int) -> int:
        schedule = self._when.schedule()
        after = schedule.after(moment)
        return schedule.after(after) - after

    # Claiming

    def _by_hand(self) -> Run | None:
        return self._claimed(None, None, 0)

    def _claimed_due(self) -> Run | None:
        call, when = self._engine.runner.call, self._when
        state = call(self._ticks.look())  # whose reply tells the server's time, too
        now = self._engine.now_us() // 1000
        found = due(when.schedule(), now, state.done, when.missed, when.grace, at_once=when.at_once)
        if found.tick is not None:
            return self._claimed(found.tick, state.done, found.passed)
        if found.reason != "done" and call(self._ticks.mark(state.done, found.mark, found.passed)):
            self._tell(found.reason or "late")
        return None

    def _claimed(self, tick: int | None, done: int | None, passed: int) -> Run | None:
        token = secrets.token_hex(8)
        found = self._engine.runner.call(self._ticks.claim(token, tick, done))
        if found.verdict == "overlap":
            self._tell("overlap")
        if found.verdict == "again" and self._engine.host.can_queue:
            self._send(self._begun(found.token, found.tick, 0), 0.0)
        return self._begun(token, tick, passed) if found.verdict == "go" else None

    def _begun(self, token: str, tick: int | None, passed: int) -> Run:
        now = self._engine.now_us() // 1000
        return Run(token, tick, passed, now, self._when.schedule().after(max(now, tick or 0)))

    # Running

    def _here(self, run: Run | None, *, quiet: bool) -> Outcome | None:
        if run is None:
            return None
        self._worked(run, here=True, quiet=quiet)
        return run.outcome

    def _sent(self, claim: Callable[[], Run | None]) -> bool:
        if not self._engine.host.can_queue:
            raise DefinitionError(f"warmup {self.name}: there are no workers to run it; use run(), or WorkerKit(app)")
        run = claim()
        if run is not None:
            self._hand_over(run, 0.0)
        return run is not None

    def _hand_over(self, run: Run, wait: float) -> None:
        """Leave a run to a message. Where that is lost, or cannot be sent, whoever looks next sends it again."""
        token, run.token = run.token, secrets.token_hex(8)  # a message that is delivered again comes too late
        if self._engine.runner.call(self._ticks.queue(token, run.token, round(wait * 1000))):
            self._send(run, wait)

    def _send(self, run: Run, wait: float) -> None:
        message = self._warmer.message(run)
        if message is not None:
            self._engine.host.warm(self._engine.settings.namespace, self.name, message, wait, self._when.queue)

    def _worked(self, run: Run, *, here: bool, quiet: bool) -> float | None:
        """Do some of a run; seconds after which its rest is to be done, None when it has ended.

        Raises what ended it; where it is `quiet`, only what is meant for the task framework.
        """
        lost, call = threading.Event(), self._engine.runner.call
        renew = self._ticks.renew(run.token)

        def keep() -> None:
            if not call(renew):
                lost.set()

        beat = self._engine.ticker.every(self._ticks.claim_ms / 3000, "warm claim", keep)
        try:
            wait = self._warmer.go(run, lost, self._failed, here=here)
        except BaseException as error:
            self._end(run, f"{type(error).__name__}: {error}"[:500])
            if not (quiet and isinstance(error, Exception)) or isinstance(error, self._engine.personal):
                raise
            return None
        finally:
            beat.stop()
        if wait is None:
            self._end(run, "")
        return wait

    def _end(self, run: Run, reason: str) -> None:
        now, outcome = self._engine.now_us() // 1000, run.outcome
        tick, took = _seconds(run.tick), (now - run.began) / 1000
        said = {**outcome._asdict(), "seconds": took, "tick": tick, "at": now / 1000, "reason": reason}
        if self._engine.runner.call(self._ticks.finish(run.token, run.tick, run.passed, said)):
            counts = " ".join(f"{name}={count}" for name, count in outcome._asdict().items())
            self._tell("failed" if reason else "run", reason or counts)

    def _failed(self, error: Exception) -> None:
        self._tell("error", type(error).__name__)

    def _tell(self, outcome: WarmOutcome, detail: str = "") -> None:
        self._engine.hooks.emit(WarmTick(self.name, outcome, detail))


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
