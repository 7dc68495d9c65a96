"""What a job keeps of its data: read, changed and written as one; secrets for the task alone; an error's traceback."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr

from workerkit.api.jobs import Jobs
from workerkit.errors import CodecError, DefinitionError, JobConflict, JobFenced, JobMissing
from workerkit.jobs.attempt import TRIES
from workerkit.jobs.record import MAX_TRACE, JobInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerkit.api.engine import Engine
    from workerkit.testing.servers import RunningServer


class Import(BaseModel):
    longest: int = Field(0, ge=0)
    name: str = ""


class Login(BaseModel):
    user: str = ""
    password: SecretStr = SecretStr("")
    key: SecretBytes | None = None
    birthday: Secret[date] = Secret(date(1970, 1, 1))


@pytest.fixture
def jobs(engine: Engine, redis_server: RunningServer) -> Jobs:
    redis_server.cli("FLUSHALL")
    return Jobs(engine)


def record(server: RunningServer) -> dict[str, str]:
    flat: Any = server.cli("HGETALL", "wk:j:{job:j}:r")
    return dict(zip(flat[::2], flat[1::2], strict=True))


def test_how_a_job_stands_without_its_model(jobs: Jobs) -> None:
    with jobs.begin("j", Import, owner="me", tags=["a"]) as job:
        job.progress(1, 2)
        found, whole = jobs.get("j"), jobs.get("j", Import)
    assert type(found) is JobInfo
    assert found is not None
    assert whole is not None
    assert replace(found, heartbeat=0.0) == JobInfo(
        **{name: getattr(whole, name) for name in vars(found)} | {"heartbeat": 0.0}
    )
    assert asyncio.run(jobs.aio.get("j")) is not None
    assert jobs.get("none") is None


# Read, change, write


def test_threads_that_modify_at_once_lose_nothing(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    start = Barrier(8)

    def longer(_: int) -> None:
        start.wait()  # of 8 who try at once one comes through each time: the last after 8 tries
        job.modify(lambda data: {"longest": data.longest + 1})

    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(longer, range(8)))
    found = jobs.get("j", Import)
    assert found is not None
    assert found.data.longest == job.data.longest == 80


def test_coroutines_that_modify_at_once_lose_nothing(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)

    async def all_of_them() -> None:
        await asyncio.gather(*(job.aio.modify(lambda data: {"longest": data.longest + 1}) for _ in range(8)))

    asyncio.run(all_of_them())
    found = jobs.get("j", Import)
    assert found is not None
    assert found.data.longest == 8


def test_a_change_is_made_anew_when_something_else_is_written_meanwhile(jobs: Jobs) -> None:
    job, seen = jobs.begin("j", Import), []

    def change(data: Import) -> dict[str, object]:
        seen.append(data.name)
        if len(seen) == 1:
            job.update(name="other")
        return {"name": f"{data.name}+"}

    job.modify(change)
    found = jobs.get("j", Import)
    assert found is not None
    assert (seen, found.data.name) == (["", "other"], "other+")


def test_who_never_comes_through_is_told(jobs: Jobs, redis_server: RunningServer) -> None:
    job, tries = jobs.begin("j", Import), []

    def change(data: Import) -> dict[str, object]:
        tries.append(data)
        job.add(longest=1)
        return {"name": "mine"}

    with pytest.raises(JobConflict, match="20 times") as told:
        job.modify(change)
    assert told.value.job_id == "j"
    assert (len(tries), job.data) == (TRIES, Import(longest=TRIES))
    assert record(redis_server)[":name"] == '""'


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: None, "must answer a dict"),
        (lambda _: {"rows": 1}, "job.modify: Import has no field 'rows'"),
        (lambda _: {"longest": -1}, "not valid"),
        (lambda _: {"name": object()}, "not valid"),
    ],
)
def test_a_change_that_will_not_do(jobs: Jobs, redis_server: RunningServer, change: Any, problem: str) -> None:
    job = jobs.begin("j", Import)
    before = record(redis_server)
    with pytest.raises(DefinitionError, match=problem):
        job.modify(change)
    assert record(redis_server) == before


def test_an_error_of_the_change_is_its_own(jobs: Jobs, redis_server: RunningServer) -> None:
    def change(data: Import) -> Mapping[str, object]:
        raise LookupError(data.name)

    job = jobs.begin("j", Import)
    before = record(redis_server)
    with pytest.raises(LookupError):
        job.modify(change)
    assert record(redis_server) == before


def test_who_may_not_write_may_not_modify(jobs: Jobs, redis_server: RunningServer) -> None:
    old = jobs.begin("j", Import)
    jobs.begin("j", Import)
    before = record(redis_server)
    with pytest.raises(JobFenced):
        old.modify(lambda _: {"name": "old"})
    assert record(redis_server) == before
    redis_server.cli("FLUSHALL")
    with pytest.raises(JobMissing):
        old.modify(lambda _: {"name": "old"})
    assert redis_server.cli("DBSIZE") == 0


def test_an_end_that_comes_meanwhile_is_final(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)

    def change(_: Import) -> dict[str, object]:
        jobs.begin("j", Import).finish()
        return {"name": "late"}

    with pytest.raises(JobFenced):
        job.modify(change)
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.data.name) == ("SUCCESS", "")


# Secrets


def test_a_secret_is_seen_by_the_task_alone(jobs: Jobs) -> None:
    job = jobs.begin("j", Login)
    job.update(
        user="eve", password=SecretStr("hunter2"), key=SecretBytes(b"k\xc3\xa9y"), birthday=Secret(date(1999, 9, 9))
    )
    resumed = jobs.begin("j", Login).data
    assert resumed.password.get_secret_value() == "hunter2"
    assert resumed.key is not None
    assert resumed.key.get_secret_value() == b"k\xc3\xa9y"
    assert resumed.birthday.get_secret_value() == date(1999, 9, 9)
    found = jobs.get("j", Login)
    assert found is not None
    assert found.data == Login(user="eve")
    listed = jobs.list().jobs
    said = f"{found!r} {list(jobs.watch('j', timeout=0))!r} {listed!r} {job.data!r}"
    assert len(listed) == 1
    assert not any(secret in said for secret in ("hunter2", "k\xc3\xa9y", "k\\xc3", "1999"))


def test_no_message_quotes_a_secret(jobs: Jobs, redis_server: RunningServer) -> None:
    job = jobs.begin("j", Login)
    for wrong in ({"birthday": "hunter2"}, {"password": ["hunter2"]}):
        with pytest.raises(DefinitionError) as told:
            job.update(**wrong)
        assert "hunter2" not in str(told.value)
    with pytest.raises(CodecError, match="password is the largest field") as large:
        job.update(password=SecretStr("hunter2" * 10_000))
    assert "hunter2" not in str(large.value)
    redis_server.cli("HSET", "wk:j:{job:j}:r", ":birthday", '"hunter2"')
    with pytest.raises(CodecError, match="birthday") as stored:
        jobs.begin("j", Login)
    assert "hunter2" not in str(stored.value)


def test_bytes_that_are_no_text_are_no_secret(jobs: Jobs, redis_server: RunningServer) -> None:
    job = jobs.begin("j", Login)
    before = record(redis_server)
    with pytest.raises(CodecError, match="key"):
        job.update(key=SecretBytes(b"\xff"))
    assert record(redis_server) == before


# Tracebacks


def failing(jobs: Jobs, *, traceback: bool, message: str = "no") -> str | None:
    def deep(message: str) -> None:
        raise ValueError(message)

    with pytest.raises(ValueError), jobs.begin("j", Import, traceback=traceback, retry=True):
        deep(message)
    found = jobs.get("j", Import)
    assert found is not None
    assert found.error is not None
    assert found.error.type == "ValueError"
    return found.traceback


def test_a_traceback_is_kept_where_it_is_asked_for(jobs: Jobs, redis_server: RunningServer) -> None:
    assert failing(jobs, traceback=False) is None
    said = failing(jobs, traceback=True)
    assert said is not None
    assert "in deep" in said
    assert said.endswith("ValueError: no\n")
    assert not any("in deep" in repr(each) for each in (jobs.list(), [*jobs.watch("j", timeout=0)]))
    assert "in deep" not in str(redis_server.cli("XRANGE", "wk:j:{job:j}:e", "-", "+"))
    jobs.begin("j", Import, retry=True).finish()
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.error, found.traceback) == (None, None)


def test_a_long_traceback_keeps_its_end(jobs: Jobs) -> None:
    said = failing(jobs, traceback=True, message="x" * MAX_TRACE + "end")
    assert said is not None
    assert (len(said), said[:2], said[-4:]) == (MAX_TRACE, "…x", "end\n")
