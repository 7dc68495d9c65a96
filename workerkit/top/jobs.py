"""Jobs: how many have each status, and the newest of those that run, are stuck, or have failed."""

from __future__ import annotations

from collections.abc import Iterable

from workerkit.jobs.index import BANDS, NUMBERS, Index, Spot
from workerkit.jobs.record import JobInfo, info
from workerkit.top.asking import Answers, Questions
from workerkit.top.snapshot import JobBoard

RUNNING, FAILED = 30, 10
SUSPECTS = 50


def first(index: Index) -> Questions:
    """Which jobs there are."""
    return {
        **{("jobs", status): index.size(status) for status in BANDS},
        "running": index.page([index.all], (NUMBERS["RUNNING"],), RUNNING),
        # Those who were not heard of in time, as far as the index knows; their records say whether that is so.
        "suspects": index.page([index.alive], (0,), SUSPECTS, until_now=True),
        "failed": index.page([index.all], (NUMBERS["FAILURE"], NUMBERS["POISONED"]), FAILED),
    }


def second(index: Index, first: Answers) -> Questions:
    """What their records say."""
    return {
        ("job", spot.member): index.head(spot, first[name].now_us)
        for name in ("running", "suspects", "failed")
        for spot in first[name].found
    }


def board(first: Answers, second: Answers) -> JobBoard:
    """All of it. A job that has gone on since the index was told stands where its record says."""

    def infos(spots: Iterable[Spot]) -> list[JobInfo]:
        records = ((spot.job_id, second["job", spot.member]) for spot in spots)
        return [info(job_id, record) for job_id, record in records if record is not None]

    suspects = first["suspects"]
    stuck = tuple(job for job in infos(suspects.found) if job.stuck)
    running = tuple(job for job in infos(first["running"].found) if job.status == "RUNNING" and not job.stuck)
    failed = tuple(job for job in infos(first["failed"].found) if job.status in {"FAILURE", "POISONED"})
    counts = {status: first["jobs", status] for status in BANDS}
    return JobBoard(counts, running, stuck, failed, more=suspects.after is not None)
