"""Two processes, or three, that work at one job: attempts replace each other, end, come back, are cancelled, expire and
lose answers in any order. The record must be what a plain model of the promises says, after each step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import BaseModel

from tests.server.job_rig import START, S, World
from tests.server.limits_model import runner_on
from workerkit.core.flow import Flow
from workerkit.core.keys import Keys
from workerkit.errors import JobCancelled, JobError, JobFenced, JobFinished, JobMissing, JobPoisoned, OutcomeUnknown
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt
from workerkit.jobs.policy import About, Terms, settled
from workerkit.jobs.record import Record, Shape, view

if TYPE_CHECKING:
    from workerkit.testing.servers import RunningServer

HEAVY = os.environ.get("WORKERKIT_HEAVY") == "1"
TTL, AGE, KEEP = 3600, 10_000, 600  # seconds
LIFE = Terms(TTL * 1000, AGE * 1000, KEEP * 1000, 5.0, crashes=3)
WHERE = policy.place(Keys("wk", "j"), "import")
LATE_MS = 2000  # by how much real time may have taken from a TTL since it was set


class Import(BaseModel):
    rows: int = 0
    name: str = ""


SHAPE = Shape(Import)


@dataclass(frozen=True)
class Job:
    """What a record should say. Times are in us."""

    fence: int
    expires: int
    dies: int
    status: str = "RUNNING"
    attempt: int = 1
    version: int = 1
    rows: int = 0
    name: str = ""
    done: int | None = None
    total: int | None = None
    cursor: int | None = None
    crashes: int = 0
    cancel: bool = False
    cached: bool = False
    ended: bool = False
    error: str | None = None


Refused = type[JobError] | None
Change = Callable[[Job], dict[str, Any]]


class Model:
    """What is promised, without a word on how it is done."""

    def __init__(self) -> None:
        self.now = START
        self.job: Job | None = None
        self.tokens: list[str] = []  # of this record's attempts, the newest first

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * S)
        if self.job is not None and self.job.dies <= self.now:
            self.job = None

    def _live(self, job: Job, seconds: int) -> Job:
        return replace(job, dies=min(self.now + seconds * S, job.expires))

    def begin(self, token: str, *, again: bool, cached: bool = False) -> Refused:
        job = self.job
        if job is None:
            self.tokens = []
            fresh = Job(self.now, self.now + AGE * S, 0, attempt=0, version=0)
            job = replace(fresh, fence=fresh.fence - 1)
        elif token in self.tokens:
            return None if token == self.tokens[0] else JobFenced
        elif job.ended and not (job.status == "FAILURE" and again):
            return JobPoisoned if job.status == "POISONED" else JobFinished
        elif job.status == "RUNNING" and not cached:
            job = replace(job, crashes=job.crashes + 1)
            if job.crashes == LIFE.crashes:
                poisoned = replace(job, status="POISONED", ended=True, error="JobPoisoned")
                self.job = self._live(self._next(poisoned), TTL)
                return JobPoisoned
        self.tokens.insert(0, token)
        job = replace(self._next(job), attempt=job.attempt + 1, status="RUNNING", ended=False)
        if cached:
            job = replace(job, status="SUCCESS", ended=True, cached=True, error=None)
        self.job = self._live(job, KEEP if cached else TTL)
        return None

    @staticmethod
    def _next(job: Job) -> Job:
        return replace(job, fence=job.fence + 1, version=job.version + 1)

    def check(self, fence: int) -> Refused:
        if self.job is None:
            return JobMissing
        if self.job.fence != fence:
            return JobFenced
        return JobFinished if self.job.ended else None

    def write(self, fence: int, change: Change) -> Refused:
        if refused := self.check(fence):
            return refused
        assert self.job is not None
        new = change(self.job)
        if "done" in new:
            new["crashes"] = 0
        self.job = self._live(replace(self.job, **new, version=self.job.version + bool(new)), TTL)
        return JobCancelled if self.job.cancel else None

    def end(self, fence: int, status: str, error: str | None) -> Refused:
        refused = self.check(fence)
        if refused not in (None, JobFinished):
            return refused
        assert self.job is not None
        if self.job.status == status:
            return None
        if refused:
            return refused
        final = status != "RETRY"
        error = None if status == "SUCCESS" else error or self.job.error
        ended = replace(self.job, status=status, ended=final, error=error, version=self.job.version + 1)
        self.job = self._live(ended, KEEP if final else TTL)
        return None

    def cancel(self) -> bool:
        job = self.job
        if job is None or job.ended:
            return False
        if not job.cancel:
            self.job = replace(job, cancel=True, version=job.version + 1)
        return True


class Twice:
    """The world, where the answer to a Flow's first Call can be lost after it was executed."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, flow: Flow[Any], *, lost: bool) -> Any:
        try:
            step: Any = next(flow)
            while True:
                try:
                    answer = self.world.run(step)
                    if lost:
                        lost = False
                        raise OutcomeUnknown
                except Exception as error:  # noqa: BLE001 - as a runner does
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            return done.value


WHO = st.sampled_from((0, 0, 0, 1, 2, 5))  # which of the attempts, counted from the newest: often the one that works
LOST = st.booleans()
SMALL = st.integers(0, 9)


class Machine(RuleBasedStateMachine):
    runner: ClassVar[Any]

    @initialize()
    def start(self) -> None:
        self.world = World(self.runner)
        self.run = Twice(self.world)
        self.model = Model()
        self.attempts: list[tuple[str, Attempt[Import]]] = []  # with their tokens, the newest first
        self.items = 0
        self.highest: tuple[int, int] = (0, 0)  # fence and version that have been seen

    # What is done to a job

    @rule(again=st.booleans(), lost=LOST)
    def begin(self, again: bool, lost: bool) -> None:
        self._tick()
        token = f"{self.model.now:022}"
        refused = self.model.begin(token, again=again)
        record = self._try(settled(policy.begin(WHERE, token, SHAPE, LIFE, About(), again=again)), refused, lost)
        if record is not None:
            self._begun(token, record)

    @precondition(lambda self: self.attempts)
    @rule(who=WHO)
    def begin_late(self, who: int) -> None:
        """A begin that was sent again, by whoever heard no answer."""
        self._tick()
        token, _ = self._who(who)
        if self.model.job is None:
            return  # then it is one as any other
        refused = self.model.begin(token, again=True)
        self._try(settled(policy.begin(WHERE, token, SHAPE, LIFE, About(), again=True)), refused, lost=False)

    def _begun(self, token: str, record: Record) -> None:
        attempt = Attempt(WHERE, SHAPE, LIFE, record)
        job = self.model.job
        assert job is not None
        assert all(attempt.fence > older.fence for _, older in self.attempts)
        assert (attempt.data, attempt.cursor) == (Import(rows=job.rows, name=job.name), job.cursor)
        assert (attempt.stop is not None) == job.cancel
        self.attempts.insert(0, (token, attempt))
        del self.attempts[6:]

    @rule(lost=LOST)
    def close_cached(self, lost: bool) -> None:
        self._tick()
        token = f"c{self.model.now:021}"
        refused = self.model.begin(token, again=True, cached=True)
        closed = self._try(settled(policy.close_cached(WHERE, token, SHAPE, LIFE, About())), None, lost)
        assert (closed is None) == (refused is not None)

    @precondition(lambda self: self.attempts)
    @rule(who=WHO, rows=SMALL)
    def add(self, who: int, rows: int) -> None:
        self._write(who, lambda it: it.add({"rows": rows}), lambda job: {"rows": job.rows + rows})

    @precondition(lambda self: self.attempts)
    @rule(who=WHO, name=st.text("ab", max_size=2))
    def update(self, who: int, name: str) -> None:
        self._write(who, lambda it: it.update({"name": name}), lambda _: {"name": name})

    @precondition(lambda self: self.attempts)
    @rule(who=WHO)
    def modify(self, who: int) -> None:
        self._write(
            who,
            lambda it: it.modify(lambda data: {"name": data.name[-3:] + "m"}),
            lambda job: {"name": job.name[-3:] + "m"},
        )

    @precondition(lambda self: self.attempts)
    @rule(who=WHO, done=SMALL, total=st.none() | SMALL)
    def progress(self, who: int, done: int, total: int | None) -> None:
        said = {"done": done} if total is None else {"done": done, "total": total}
        self._write(who, lambda it: it.progress(done, total, None), lambda _: {**said})

    @precondition(lambda self: self.attempts)
    @rule(who=WHO)
    def heartbeat(self, who: int) -> None:
        self._write(who, lambda it: it.heartbeat(), lambda _: {})

    @precondition(lambda self: self.attempts)
    @rule(who=WHO, rows=SMALL, lost=LOST)
    def save_batch(self, who: int, rows: int, lost: bool) -> None:
        """An item of `each`, and the write that saves it."""
        self.items += 1
        _, attempt = self._who(who)
        if attempt.outcome:
            return  # a loop ends with its attempt
        attempt.handled(json.dumps(self.items), {"rows": rows})
        item = self.items
        self._write(
            who,
            lambda it: it.flush(),
            lambda job: {"rows": job.rows + rows, "done": (job.done or 0) + 1, "cursor": item},
            lost=lost,
        )

    @precondition(lambda self: self.attempts)
    @rule(who=WHO, status=st.sampled_from(["SUCCESS", "FAILURE", "CANCELLED", "RETRY"]), lost=LOST)
    def end(self, who: int, status: Any, lost: bool) -> None:
        _, attempt = self._who(who)
        error = None if status == "SUCCESS" else ValueError(f"of {attempt.number}")
        refused = self.model.end(attempt.fence, status, error and "ValueError")
        self._try(attempt.end(status, error), refused, lost)

    @precondition(lambda self: self.attempts)
    @rule(who=WHO)
    def check(self, who: int) -> None:
        _, attempt = self._who(who)
        job = self.model.job
        refused = self.model.check(attempt.fence) or (JobCancelled if job and job.cancel else None)
        self._try(attempt.check(), refused, lost=False)

    @rule()
    def cancel(self) -> None:
        assert self.world.run(policy.cancel(WHERE)) == self.model.cancel()

    @rule(seconds=st.sampled_from([0.001, 1, 100, KEEP - 1, KEEP, TTL - 1, TTL, AGE]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)
        self.model.wait(seconds)

    @rule()
    def lose(self) -> None:
        self.world.command("FLUSHALL")
        self.world.command("SET", "clock", self.world.now)
        self.model.job = None

    # How it is done, and what must be true then

    def _who(self, who: int) -> tuple[str, Attempt[Import]]:
        return self.attempts[who % len(self.attempts)]

    def _write(
        self, who: int, verb: Callable[[Attempt[Import]], Flow[None]], change: Change, *, lost: bool = False
    ) -> None:
        _, attempt = self._who(who)
        refused = self.model.write(attempt.fence, change)
        self._try(verb(attempt), refused, lost)
        if refused not in (None, JobCancelled):
            attempt._batch.items, attempt._sent = 0, None  # a loop that was refused asks for no more

    def _try(self, flow: Flow[Any], refused: Refused, lost: bool) -> Any:
        if refused is None:
            return self.run(flow, lost=lost)
        with pytest.raises(JobError) as told:
            self.run(flow, lost=lost)
        assert type(told.value) is refused
        return None

    def _tick(self) -> None:
        """Time goes on, or a record that is lost could begin with a fence that was there already."""
        self.world.wait(0.000001)
        self.model.wait(0.000001)

    @invariant()
    def the_record_is_as_promised(self) -> None:
        found = self.world.run(
            policy.read(WHERE, SHAPE, lambda job_id, shape, record: (view(job_id, shape, record), record))
        )
        job = self.model.job
        if job is None:
            assert found is None
            assert self.world.command("KEYS", "wk:*") == []
            return
        assert found is not None, f"there should be {job}"
        seen, record = found
        assert Job(
            seen.fence, record.get("expires", int), job.dies, seen.status, seen.attempt, seen.version,
            seen.data.rows, seen.data.name, seen.progress.done, seen.progress.total, record.get("cursor", json.loads),
            record.get("crashes", int) or 0, seen.cancelling, seen.cached, seen.ended is not None,
            seen.error and seen.error.type,
        ) == job  # fmt: skip
        assert (seen.fence, seen.version) >= self.highest
        self.highest = (seen.fence, seen.version)
        left = (job.dies - self.model.now) // 1000
        for key in WHERE.keys:
            assert left - LATE_MS <= self.world.command("PTTL", key) <= left + 1


@pytest.mark.timeless
def test_no_order_of_events_breaks_a_promise(fresh_server: RunningServer) -> None:
    with runner_on(fresh_server.url) as runner:
        steps = settings(
            max_examples=300 if HEAVY else 60,
            stateful_step_count=60,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(type("Tried", (Machine,), {"runner": runner}), settings=steps)
