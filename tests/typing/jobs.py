"""The same for jobs and sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from celery import Celery
from pydantic import BaseModel

from workerkit import Job, WorkerKit
from workerkit.api.joblist import JobPage, JobTree, LostJob
from workerkit.api.sessions import Session
from workerkit.jobs.events import JobUpdate
from workerkit.jobs.record import Failure, JobInfo, JobView, Progress
from workerkit.jobs.sessions import SessionInfo
from workerkit.testing.drill import ZombieDrill, zombie_point

kit = WorkerKit(Celery("shop"))


class Import(BaseModel):
    rows: int = 0


def read(after: str | None) -> list[str]:
    return [] if after else ["a"]


async def stream(after: str | None) -> AsyncIterator[str]:
    yield after or "a"


def check_job(job: Job[Import], drill: ZombieDrill) -> None:
    assert_type(job.data, Import)
    assert_type(job.fence, int)
    assert_type(job.each(read, cursor=lambda row: row.upper()), Iterator[str])
    assert_type(job.modify(lambda data: {"rows": data.rows + 1}), None)
    assert_type(job.update(rows=1), None)
    assert_type(job.progress(1, total=2, message="half"), None)
    zombie_point(job)
    assert_type(drill.stop(), int)
    assert_type(drill.wake("10s"), dict[str, str])


async def check_aio_job(job: Job[Import]) -> None:
    assert_type(job.aio.each(stream, cursor=lambda row: row), AsyncIterator[str])
    assert_type(job.aio.each(read, cursor=lambda row: row), AsyncIterator[str])
    assert_type(await job.aio.modify(lambda data: {"rows": data.rows}), None)
    async with kit.jobs.aio.begin("id", Import) as begun:
        assert_type(begun, Job[Import])
    assert_type(await kit.jobs.aio.begin("id", Import), Job[Import])
    assert_type(await kit.jobs.aio.get("id", Import), JobView[Import] | None)
    assert_type(await kit.jobs.aio.get("id"), JobInfo | None)
    async for update in kit.jobs.aio.watch("id"):
        assert_type(update, JobUpdate)
    assert_type(await kit.jobs.aio.list(), JobPage)


def check_jobs() -> None:
    with kit.jobs.begin("id", Import, owner="me", tags=["a"]) as job:
        assert_type(job, Job[Import])
    found = kit.jobs.get("id", Import)
    assert found is not None
    assert_type(kit.jobs.get("id"), JobInfo | None)
    assert_type(found.data, Import)
    assert_type(found.progress, Progress)
    assert_type(found.progress.eta, float | None)
    assert_type(found.error, Failure | None)
    assert_type(found.traceback, str | None)
    assert_type(kit.jobs.watch("id"), Iterator[JobUpdate])
    assert_type(kit.jobs.list(status="RUNNING").jobs, list[JobInfo])
    assert_type(kit.jobs.list(lost=True).lost, list[LostJob])
    assert_type(kit.jobs.tree("id"), JobTree)
    assert_type(kit.jobs.cancel("id"), bool)


def check_sessions() -> None:
    session = kit.sessions.create({"a": 1}, owner="me")
    assert_type(session, Session)
    assert_type(session.data, dict[str, Any])
    assert_type(kit.sessions.load("id"), Session | None)
    assert_type(kit.sessions.rotate("id"), str)
    assert_type(kit.sessions.list("me"), list[SessionInfo])
    assert_type(kit.sessions.revoke_all("me", keep=session.ref), int)


def check_refusals() -> None:
    """Each line must be an error, as in the examples."""
    kit.jobs.list(status="STARTED")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such status
    kit.jobs.get("id", dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # no pydantic model
    kit.job(Import, ttl=b"1d")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a duration is text
    kit.sessions.create(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # 7 has no names
