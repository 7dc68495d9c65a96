"""`kit.job` around functions and tasks, with no server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import typing
from typing import Any

import pytest
from celery.utils.functional import head_from_fun

from tests.unit.job_rig import Ended, Import, Retry, SoftTimeLimitExceeded, engine, jobs, make_engine, numbers, record
from workerkit.api import layers
from workerkit.api.host import Running
from workerkit.api.job import AioJob, Job
from workerkit.api.jobs import AioJobs, Jobs
from workerkit.api.recording import job
from workerkit.errors import (
    DefinitionError,
    JobFenced,
)
from workerkit.jobs.index import NUMBERS

__all__ = ["engine", "jobs"]  # fixtures


TASK = Running("task-1", "shop.import")


def test_outside_a_task_each_call_has_a_record_of_its_own(engine: Any) -> None:
    @job(engine, Import, owner="{account}", tags=["import"])
    def work(job: Job[Import], account: str, *, times: int = 1) -> str:
        job.add(rows=times)
        return job.id

    ids = {work("acct", times=3), work("acct")}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)
    assert {each["owner"] for each in engine.store.records.values()} == {"acct"}
    assert {each["status"] for each in engine.store.records.values()} == {"SUCCESS"}
    assert [event.outcome for event in engine.events] == ["began", "success"] * 2


def test_inside_a_task_the_record_is_the_tasks() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(job: Job[Import]) -> str:
        return job.id

    assert work() == "task-1"
    found = Jobs(engine).get("task-1", Import)
    assert found is not None
    assert (found.task, found.root_id, found.status) == ("shop.import", "root-1", "SUCCESS")


def test_a_retried_task_goes_on_where_it_failed() -> None:
    engine = make_engine(TASK)
    seen: list[int] = []

    @job(engine, Import)
    def work(job: Job[Import]) -> int:
        for item in job.each(numbers(5), cursor=lambda item: item):
            if item == 3 and job.attempt == 1:
                raise KeyError(item)
            seen.append(item)
            job.add(rows=1)
        return job.attempt

    with pytest.raises(KeyError):
        work()
    assert record(engine)["status"] == "FAILURE"
    assert work() == 2
    assert seen == [0, 1, 2, 3, 4]
    assert (record(engine)["status"], record(engine)[":rows"]) == ("SUCCESS", "5")
    assert "error" not in record(engine)
    with pytest.raises(Ended):  # delivered once more: what has succeeded is final
        work()
    assert engine.host.told == [("JobFinished", False)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError(), "FAILURE"),
        (Retry(), "RETRY"),
        (SoftTimeLimitExceeded(), "FAILURE"),
        (KeyboardInterrupt(), "RETRY"),
        (SystemExit(), "RETRY"),
    ],
)
def test_how_an_error_leaves_the_record(error: BaseException, status: str) -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(job: Job[Import]) -> None:
        raise error

    with pytest.raises(type(error)):
        work()
    assert record(engine)["status"] == status


def test_the_host_may_say_which_errors_come_back() -> None:
    engine = make_engine(TASK)
    engine.host.comes_back = lambda error: isinstance(error, KeyError)

    @job(engine, Import)
    def work(job: Job[Import], error: Exception) -> None:
        raise error

    for error, status in ((KeyError(), "RETRY"), (Retry(), "FAILURE")):
        with pytest.raises(type(error)):
            work(error)
        assert record(engine)["status"] == status


def test_a_fenced_attempt_ends_in_silence() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        Jobs(engine).begin("task-1", Import)
        mine.add(rows=1)

    with pytest.raises(Ended):
        work()
    assert engine.host.told == [("JobFenced", False)]
    assert record(engine)["status"] == "RUNNING"


def test_a_zombies_own_error_is_not_heard_either() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        Jobs(engine).begin("task-1", Import)
        raise KeyError("woke up too late")

    with pytest.raises(Ended):
        work()
    assert (record(engine)["status"], "error" in record(engine)) == ("RUNNING", False)


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_cancelled_task_is_recorded_and_stopped(when: str) -> None:
    engine = make_engine(TASK)
    ran: list[int] = []

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        ran.append(1)
        Jobs(engine).cancel("task-1")
        mine.check()

    if when == "before":
        Jobs(engine).begin("task-1", Import)
        Jobs(engine).cancel("task-1")
    with pytest.raises(Ended):
        work()
    assert engine.host.told == [("JobCancelled", True)]
    assert record(engine)["status"] == "CANCELLED"
    assert len(ran) == (when == "within")


def test_a_zombie_that_swallows_its_error_is_stopped_all_the_same() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import], *, raises: bool) -> None:
        Jobs(engine).begin("task-1", Import)
        with contextlib.suppress(JobFenced):
            mine.add(rows=1)
        if raises:
            raise KeyError

    for raises in (False, True):
        with pytest.raises(Ended):
            work(raises=raises)
    assert record(engine)["status"] == "RUNNING"


def test_another_jobs_error_is_an_ordinary_error() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        raise JobFenced(job_id="other")

    with pytest.raises(JobFenced):
        work()
    assert record(engine)["status"] == "FAILURE"


def test_a_hit_closes_the_record() -> None:
    engine = make_engine(TASK)

    @job(engine, Import, owner="{account}")
    def work(job: Job[Import], account: str) -> None: ...

    def close() -> bool:
        return bool(engine.store.run(getattr(work, layers.CLOSING)(("acct",), {})))

    assert close() is True
    found = Jobs(engine).get("task-1", Import)
    assert found is not None
    assert (found.status, found.cached, found.owner) == ("SUCCESS", True, "acct")
    assert close() is False
    assert engine.store.listed == [(b"task-1", NUMBERS["SUCCESS"])]
    engine.host.now = None
    assert getattr(work, layers.CLOSING)(("acct",), {}) is None


def test_a_hit_fences_an_attempt_that_still_runs() -> None:
    engine = make_engine(TASK)
    zombie = Jobs(engine).begin("task-1", Import)

    @job(engine, Import)
    def work(job: Job[Import]) -> None: ...

    engine.store.run(getattr(work, layers.CLOSING)((), {}))
    with pytest.raises(JobFenced):
        zombie.add(rows=1)


def test_a_coroutine_function_stays_one() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    async def work(job: Job[Import], times: int) -> int:
        async def source(cursor: int | None) -> Any:
            for item in numbers(times)(cursor):
                yield item

        async for _ in job.aio.each(source, cursor=lambda item: item):
            await job.aio.add(rows=1)
        await job.aio.update(name="x")
        await job.aio.progress(message="m")
        await job.aio.check()
        await job.aio.heartbeat()
        return job.data.rows

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(5)) == 5
    assert (record(engine)[":rows"], record(engine)["status"]) == ("5", "SUCCESS")


def test_a_cancelled_coroutine_may_come_back() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    async def work(job: Job[Import]) -> None:
        async for _ in job.aio.each(numbers(5), cursor=lambda item: item):
            await job.aio.add(rows=1)
            if job.data.rows == 3:
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert (record(engine)["status"], record(engine)[":rows"]) == ("RETRY", "2")


def test_jobs_begin_awaited_and_entered(engine: Any) -> None:
    async def main() -> None:
        jobs = Jobs(engine).aio
        first = await jobs.begin("j", Import)
        async with jobs.begin("j", Import) as second:
            assert second.attempt == 2
            with pytest.raises(JobFenced):
                await first.aio.fail(ValueError())
            await second.aio.add(rows=1)
        found = await jobs.get("j", Import)
        assert found is not None
        assert (found.status, found.data.rows) == ("SUCCESS", 1)
        assert await jobs.cancel("j") is False

    asyncio.run(main())


def test_the_job_is_absent_from_the_signature(engine: Any) -> None:
    @job(engine, Import)
    def work(job: Job[Import], account: str, path: str = "p") -> int:
        return 1

    assert str(inspect.signature(work)) == "(account: 'str', path: 'str' = 'p') -> 'int'"
    assert typing.get_type_hints(work) == {"account": str, "path": str, "return": int}
    assert work.__name__ == "work"
    check = head_from_fun(work)
    check("a", path="b")
    for wrong in ((), ("a", "b", "c")):
        with pytest.raises(TypeError):
            check(*wrong)


def test_a_wrong_call_leaves_no_record(engine: Any) -> None:
    @job(engine, Import)
    def work(job: Job[Import], account: str) -> None: ...

    for args, kwargs in (((), {}), (("a", "b"), {}), (("a",), {"job": 1})):
        with pytest.raises(TypeError):
            work(*args, **kwargs)
    assert engine.store.records == {}


def test_a_bound_task_gets_itself_first(engine: Any) -> None:
    class Self:
        pass

    @job(engine, Import, owner="{account}")
    def work(self: Self, job: Job[Import], account: str) -> tuple[object, str]:
        return self, account + job.task[-4:]

    me = Self()
    assert work(me, "acct") == (me, "acctwork")
    assert list(inspect.signature(work).parameters) == ["self", "account"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl": "no"}, "ttl"),
        ({"owner": "{nobody}"}, "nobody"),
        ({"tags": "import"}, r"tags=\[\"import\"\]"),
        ({"heartbeat": 0}, "heartbeat"),
    ],
)
def test_wrong_options_are_told_at_definition(engine: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):

        @job(engine, Import, **options)
        def work(job: Job[Import], account: str) -> None: ...


def test_functions_that_cannot_be_jobs(engine: Any) -> None:
    def none() -> None: ...
    def keyword(*, job: Job[Import]) -> None: ...
    def lone(self: object) -> None: ...
    def items(job: Job[Import]) -> Any:
        yield 1

    for fn in (none, keyword, lone, items):
        with pytest.raises(DefinitionError, match=fn.__name__):
            job(engine, Import)(fn)  # type: ignore[arg-type]  # that is the point
    done = job(engine, Import)(lambda job: None)
    with pytest.raises(DefinitionError, match="twice"):
        job(engine, Import)(done)


@pytest.mark.parametrize(("sync", "aio"), [(Job, AioJob), (Jobs, AioJobs)])
def test_both_sides_have_the_same_verbs(sync: type, aio: type) -> None:
    internal = {"getting", "cancelling", "beginning", "listing", "growing"}

    def verbs(side: type) -> dict[str, Any]:
        return {
            name: [(each.name, each.kind, each.default) for each in inspect.signature(verb).parameters.values()]
            for name, verb in vars(side).items()
            if inspect.isfunction(verb) and not name.startswith("_") and name not in internal
        }

    assert verbs(sync) == verbs(aio)
    assert len(verbs(sync)) >= 3


TYPED = """
from collections.abc import AsyncIterator, Coroutine
from typing import Any, assert_type
from pydantic import BaseModel
from workerkit.api.engine import Engine
from workerkit.api.job import Job
from workerkit.api.recording import job
from workerkit.api.jobs import Jobs
from workerkit.jobs.record import JobView

class Import(BaseModel):
    rows: int = 0

class Export(BaseModel):
    rows: int = 0

class Task: ...

def source(cursor: int | None) -> list[str]: return []
async def stream(cursor: int | None) -> AsyncIterator[str]:
    yield ""

def check(engine: Engine, jobs: Jobs) -> None:
    @job(engine, Import)
    def plain(job: Job[Import], account: str, *, times: int = 1) -> int:
        assert_type(job.data, Import)
        for row in job.each(source, cursor=lambda row: row):
            assert_type(row, str)
        return job.data.rows

    @job(engine, Import)
    async def coroutine(job: Job[Import], account: str) -> int:
        async for row in job.aio.each(source, cursor=lambda row: row):
            assert_type(row, str)
        async for row in job.aio.each(stream, cursor=lambda row: len(row)):
            assert_type(row, str)
        return 1

    @job(engine, Import)
    def bound(self: Task, job: Job[Import], account: str) -> int:
        return 1

    assert_type(plain("a", times=2), int)
    awaited: Coroutine[Any, Any, int] = coroutine("a")
    assert_type(bound(Task(), "a"), int)
    plain(1)  # refused
    plain("a", job=1)  # refused
    job(engine, Export)(lambda job: plain(job))  # refused
    with jobs.begin("j", Import) as mine:
        assert_type(mine, Job[Import])
        mine.add(rows="many")  # refused
    assert_type(jobs.get("j", Import), JobView[Import] | None)

async def aio(jobs: Jobs) -> None:
    assert_type(await jobs.aio.begin("j", Import), Job[Import])
    async with jobs.aio.begin("j", Import) as mine:
        assert_type(mine, Job[Import])
    assert_type(await jobs.aio.get("j", Import), JobView[Import] | None)
"""


def test_types_as_users_see_them() -> None:
    api = pytest.importorskip("mypy.api", reason="no mypy here, as in an environment of scripts/test --matrix")
    out, _, _ = api.run(["--strict", "--follow-imports=silent", "-c", TYPED])
    told = {int(line.split(":")[1]) for line in out.splitlines() if ": error:" in line}
    refused = {number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# refused")}
    assert told == refused, out
