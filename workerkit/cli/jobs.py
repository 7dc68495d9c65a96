"""`workerkit jobs ...`: the records of jobs, and following one to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

import click

from workerkit.api import layers
from workerkit.api.joblist import MOST, LostJob
from workerkit.cli.sheet import Sheet, say
from workerkit.cli.times import ago, clock
from workerkit.cli.verb import Answer, NotFound, Refusal, Verb, Verbs, kits, titles
from workerkit.core.durations import humanize
from workerkit.errors import CodecError, DefinitionError, JobMissing
from workerkit.jobs.events import JobUpdate
from workerkit.jobs.record import TERMINAL, JobInfo, Progress, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workerkit.api.kit import WorkerKit


@click.group(cls=Verbs)
def jobs() -> None:
    """See, follow and cancel jobs: tasks with @kit.job, by their ids."""


@jobs.command()
@click.option("--owner", help="Only this owner's.")
@click.option("--tag", help="Only those with this tag.")
@click.option("--status", type=click.Choice(get_args(Status), case_sensitive=False), help="Only those in this state.")
@click.option("--stuck", is_flag=True, help="Those that say they run, and were not heard of for three heartbeats.")
@click.option("--lost", is_flag=True, help="Those that never ended, and whose record has expired.")
@click.option("--most", default=50, type=click.IntRange(min=1), show_default=True, help="Jobs to list.")
@click.pass_context
def ls(
    ctx: click.Context, owner: str | None, tag: str | None, status: Status | None, stuck: bool, lost: bool, most: int
) -> Answer:
    """Show jobs, the newest first."""
    there = kits(ctx)
    asked = {"owner": owner, "tag": tag, "status": status, "stuck": stuck, "lost": lost}
    found = [(title, job) for kit, title in zip(there, titles(there), strict=True) for job in _listed(kit, asked, most)]
    found = sorted(found, key=lambda each: -each[1].created)[:most]

    def show() -> None:
        if found:
            _show([job for _, job in found])
        else:
            say("no such job" if any(asked.values()) else "there is no job: put @kit.job(Model) on a task")

    return Answer([{**_told(job), "kit": title} for title, job in found], show)


@jobs.command()
@click.argument("job_id")
@click.pass_context
def show(ctx: click.Context, job_id: str) -> Answer:
    """Show all that is known of a job, and its data where the app has its task; exits with 1 when there is none."""
    kit, job = _found(ctx, job_id)
    model = getattr(getattr(ctx.obj.app.tasks.get(job.task), "run", None), layers.MODEL, None)
    data = _told(job)
    if model is not None:
        with suppress(CodecError, DefinitionError):  # another version's
            view = kit.jobs.get(job_id, model)
            if view is not None:
                data |= {"data": view.data.model_dump(mode="json"), "traceback": view.traceback}

    def text() -> None:
        for line in _lines(job, data):
            say(line)

    return Answer(data, text)


@jobs.command(cls=Verb)
@click.argument("job_id")
@click.option("--wait", default="0", help='How long its task may still be in its queue, such as "30s".')
@click.option("--timeout", help='How long to follow it at most, such as "10m".  [default: to its end]')
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def watch(ctx: click.Context, job_id: str, wait: str, timeout: str | None, as_json: bool) -> None:
    """Follow a job to its end, an event a line; exits with 0 when it succeeded, else with 1."""
    there = kits(ctx)
    kit = there[0] if len(there) == 1 else _found(ctx, job_id)[0]
    status = ""
    try:
        for update in kit.jobs.watch(job_id, wait=wait, timeout=timeout):
            status = update.status
            if as_json:
                click.echo(json.dumps(_told(update)))
            else:
                say(_event(update))
    except JobMissing:
        raise _none(job_id) from None
    if status not in TERMINAL:
        raise NotFound(f"job {job_id!r:.80} has not ended: it was {status} when time was up, or its record expired")
    ctx.exit(int(status != "SUCCESS"))


@jobs.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@click.pass_context
def cancel(ctx: click.Context, job_ids: Sequence[str]) -> Answer:
    """Ask jobs to stop: each does at its next write or check; exits with 1 when one has ended, or is not there."""
    there = kits(ctx)
    done = {job_id: any(kit.jobs.cancel(job_id) for kit in there) for job_id in job_ids}

    def text() -> None:
        for job_id, cancelled in done.items():
            say(f"{job_id}: {'asked to stop' if cancelled else 'has ended, or is not there'}")

    data = [{"id": job_id, "cancelled": cancelled} for job_id, cancelled in done.items()]
    return Answer(data, text, int(not all(done.values())))


def _listed(kit: WorkerKit, asked: dict[str, Any], most: int) -> Iterable[JobInfo | LostJob]:
    """Page by page."""

    def pages() -> Iterator[JobInfo | LostJob]:
        after, size = "", min(most, MOST)
        while True:
            page = kit.jobs.list(**asked, after=after, most=size)
            yield from page.jobs
            yield from page.lost
            after = page.next
            if not after:
                return

    return islice(pages(), most)


def _found(ctx: click.Context, job_id: str) -> tuple[WorkerKit, JobInfo]:
    found = [(kit, job) for kit in kits(ctx) if (job := kit.jobs.get(job_id)) is not None]
    if not found:
        raise _none(job_id)
    if len(found) > 1:
        raise Refusal(f"several of the app's kits have a job {job_id!r:.80}; write --kit NAMESPACE")
    return found[0]


def _none(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r:.80}: it has not begun, has expired, or its task has no @kit.job")


def _told(job: JobInfo | LostJob | JobUpdate) -> dict[str, Any]:
    """For JSON."""
    data = job._asdict() if isinstance(job, JobUpdate) else asdict(job)
    for name in ("progress", "error"):
        if data.get(name) is not None:
            data[name] = data[name]._asdict()
    return data


def _show(found: Sequence[JobInfo | LostJob]) -> None:
    now = time.time()
    sheet = Sheet("id", "task", "status", "progress", ">age", "owner")
    for job in found:
        age = ago(now - job.created)
        if isinstance(job, LostJob):
            sheet.add(job.id, job.task or "-", f"lost {ago(now - job.heard)} ago", "-", age, job.owner or "-")
        else:
            sheet.add(job.id, job.task or "-", _status(job), _progress(job.progress), age, job.owner or "-")
    sheet.show()


def _status(job: JobInfo) -> str:
    why = "stuck" if job.stuck else "cancelling" if job.cancelling and job.ended is None else ""
    why = why or ("cached" if job.cached else "")
    return f"{job.status} ({why})" if why else job.status


def _progress(progress: Progress) -> str:
    if progress.done is None:
        return "-"
    if not progress.total:
        return f"{progress.done:,}"
    return f"{progress.done:,}/{progress.total:,} {progress.done / progress.total:.0%}"


def _lines(job: JobInfo, data: dict[str, Any]) -> Iterator[str]:
    yield f"{job.id}: {_status(job)}"
    speed = f", {job.progress.rate:,.3g}/s" if job.progress.rate else ""
    left = f", {ago(job.progress.eta)} left" if job.progress.eta is not None else ""
    about = {
        "task": job.task,
        "progress": f"{_progress(job.progress)}{speed}{left}",
        "message": job.progress.message,
        "attempt": job.attempt,
        "created": clock(job.created),
        "started": clock(job.started),
        "ended": None if job.ended is None else clock(job.ended),
        "heard of": f"{ago(job.heartbeat)} ago",
        "owner": job.owner,
        "tags": ", ".join(job.tags),
        "root": job.root_id,
        "error": job.error and f"{job.error.type}: {job.error.message}",
    }
    yield from (f"  {name:<9} {value}" for name, value in about.items() if value)
    for name, value in data.get("data", {}).items():
        yield f"  data      {name}={json.dumps(value, ensure_ascii=False)}"
    yield from (f"  {line}" for line in (data.get("traceback") or "").splitlines())


def _event(update: JobUpdate) -> str:
    parts = [clock(update.at)[11:], f"{update.kind:<10}", update.status]
    if update.progress.done is not None:
        parts.append(_progress(update.progress))
    if update.progress.eta is not None:
        parts.append(f"{humanize(round(update.progress.eta))} left")
    if update.progress.message:
        parts.append(update.progress.message)
    if update.fields:
        parts.append(f"({', '.join(update.fields)})")
    if update.error is not None:
        parts.append(f"{update.error.type}: {update.error.message}")
    return "  ".join(parts)
