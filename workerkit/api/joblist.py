"""`kit.jobs.list` and `kit.jobs.tree`: pages of the index, each job as its record says, and what is wrong repaired."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

from workerkit.api.engine import Engine
from workerkit.core.events import BackgroundTrouble
from workerkit.core.flow import Flow
from workerkit.errors import DefinitionError, StoreError
from workerkit.jobs import policy
from workerkit.jobs.index import BANDS, NUMBERS, TOP, Entry, Index, Spot, known_entry
from workerkit.jobs.policy import Place
from workerkit.jobs.record import JobInfo, Record, Status, info

MOST = 1000
_LOOKS = 500  # at a time, where all are looked at
_LOST = NUMBERS["LOST"]


@dataclass(frozen=True)
class LostJob:
    """A job that began and never ended, and whose record has expired: what the index remembers of it, for a day.

    `created` and `heard` (when the index last heard of it) are seconds since 1970.
    """

    id: str
    task: str
    owner: str | None
    tags: tuple[str, ...]
    root_id: str | None
    created: float
    heard: float


class JobPage(NamedTuple):
    """Jobs, newest first. `next` is for `after=`, "" at the end. `lost` is filled where lost jobs are asked for."""

    jobs: list[JobInfo]
    next: str
    lost: list[LostJob]


@dataclass(frozen=True)
class JobTree:
    """The jobs of one root, oldest first, and their progress added up.

    `total` is None where nobody has said one, and while some job that says how much is done has not. `counts`: how many
    have each status that occurs.
    """

    jobs: list[JobInfo]
    lost: list[LostJob]
    done: int
    total: int | None
    counts: dict[Status, int]


class Ask(NamedTuple):
    """Which jobs are asked for. `bands` are numbers of statuses."""

    owner: str | None = None
    tag: str | None = None
    root_id: str | None = None
    bands: tuple[int, ...] = tuple(range(1, _LOST))
    stuck: bool = False

    def sources(self, index: Index) -> list[str]:
        by = [index.alive] if self.stuck else []
        for label, key in ((self.owner, index.owner), (self.tag, index.tag), (self.root_id, index.root)):
            if label is not None:
                by.append(key(label))
        return by or [index.all]

    def label(self, index: Index) -> str | None:
        """Where a job that has no such label would have no place."""
        found = self._replace(stuck=False).sources(index)[0]
        return None if found == index.all else found

    def takes(self, job: JobInfo) -> bool:
        return (
            NUMBERS[job.status] in self.bands
            and (job.stuck or not self.stuck)
            and self.owner in (None, job.owner)
            and (self.tag is None or self.tag in job.tags)
            and self.root_id in (None, job.root_id)
        )

    def fits(self, spot: Spot, job: JobInfo | None, *, taken: bool) -> bool:
        """Whether the index has the job where it belongs, as far as that can be seen from here."""
        if job is None:
            return spot.band == _LOST
        return taken and (self.stuck or NUMBERS[job.status] == spot.band)


def asked(
    owner: str | None, tag: str | None, status: Status | None, stuck: bool, lost: bool, after: str, most: int
) -> tuple[Ask, tuple[int, bytes] | None, int]:
    """Which jobs, after which, and how many. Raises DefinitionError for what cannot be asked."""
    policy.labels(owner, () if tag is None else (tag,))
    if status is not None and status not in BANDS[: _LOST - 1]:
        raise DefinitionError(f"jobs.list: status must be one of {', '.join(BANDS[: _LOST - 1])}, not {status!r:.60}")
    if lost and (stuck or status is not None):
        raise DefinitionError("jobs.list: a lost job has no record, so no status: leave out stuck= and status=")
    if stuck and status not in (None, "RUNNING"):
        raise DefinitionError(f"jobs.list: a stuck job is RUNNING, not {status}: leave out status=")
    if type(most) is not int or not 1 <= most <= MOST:
        raise DefinitionError(f"jobs.list: most must be an int from 1 to {MOST}, not {most!r:.60}")
    ask = Ask(owner, tag, stuck=stuck)
    if lost or status is not None:
        ask = ask._replace(bands=(_LOST,) if lost else (NUMBERS[status or "RUNNING"],))
    return ask, _position(after), most


def _position(after: str) -> tuple[int, bytes] | None:
    if after == "":
        return None
    try:
        offset, _, member = after.partition(".")
        position = int(offset), unquote(member, errors="surrogatepass").encode("utf-8", "surrogatepass")
        if position[1] and 0 <= position[0] <= TOP and _next(position) == after:
            return position
    except (AttributeError, TypeError, ValueError):
        pass
    raise DefinitionError(f"jobs.list: after must be the `next` of a page, not {after!r:.60}")


def _next(after: tuple[int, bytes] | None) -> str:
    return "" if after is None else f"{after[0]}.{quote(after[1], safe='')}"


def listing(index: Index, ask: Ask, after: tuple[int, bytes] | None, most: int) -> Flow[JobPage]:
    """A page; what turns out to be wrong in the index is repaired by the way."""
    if ask.bands == (_LOST,) and after is None:
        yield from _find_lost(index)
    jobs: list[JobInfo] = []
    lost: list[LostJob] = []
    sources, bands = ask.sources(index), (0,) if ask.stuck else ask.bands
    while True:
        page = yield from index.page(sources, bands, most - len(jobs) - len(lost), after, until_now=ask.stuck)
        records = yield from index.heads(page.found, page.now_us)
        gone: list[Spot] = []
        wrong: list[tuple[Spot, Record | None]] = []
        for spot, record in zip(page.found, records, strict=True):
            job = None if record is None else info(spot.job_id, record)
            taken = job is not None and ask.takes(job)
            if job is None and (spot.unfinished or spot.band == _LOST):
                gone.append(spot)
            elif job is not None and taken:
                jobs.append(job)
            if not ask.fits(spot, job, taken=taken):
                wrong.append((spot, record))
        if _LOST in ask.bands:
            lost += yield from _lost(index, gone)
        if wrong:
            yield from index.repair([spot for spot, _ in wrong], [record for _, record in wrong], ask.label(index))
        after = page.after
        if after is None or len(jobs) + len(lost) >= most:
            return JobPage(jobs, _next(after), lost)


def _lost(index: Index, spots: list[Spot]) -> Flow[list[LostJob]]:
    if not spots:
        return []
    found = []
    for spot, known in zip(spots, (yield from index.known(spots)), strict=True):
        if known is not None:
            entry = known_entry(spot.job_id, known, "LOST")
            found.append(LostJob(spot.job_id, *entry.labels, entry.created_ms / 1000, (entry.heard_ms or 0) / 1000))
    return found


def _find_lost(index: Index) -> Flow[None]:
    """Look after all jobs whose record may have expired before its end."""
    after: tuple[int, bytes] | None = None
    while True:
        page = yield from index.page([index.expiring], (NUMBERS["RUNNING"],), _LOOKS, after, until_now=True)
        yield from index.repair(page.found, (yield from index.heads(page.found, page.now_us)))
        after = page.after
        if after is None:
            return


def tree(index: Index, root_id: str) -> Flow[JobTree]:
    """All jobs of a root, however many pages that takes."""
    ask, after = Ask(root_id=root_id, bands=tuple(NUMBERS.values())), None
    jobs: list[JobInfo] = []
    lost: list[LostJob] = []
    while True:
        page = yield from listing(index, ask, after, _LOOKS)
        jobs += page.jobs
        lost += page.lost
        after = _position(page.next)
        if after is None:
            break
    jobs.reverse()
    lost.reverse()
    said = [job.progress for job in jobs if (job.progress.done, job.progress.total) != (None, None)]
    totals = [progress.total for progress in said]
    known = [total for total in totals if total is not None]
    return JobTree(
        jobs,
        lost,
        sum(progress.done or 0 for progress in said),
        sum(known) if known and len(known) == len(totals) else None,
        dict(Counter(job.status for job in jobs)),
    )


def listed(engine: Engine, entry: Entry, left_ms: int) -> Flow[None]:
    """Write how a job stands into the index. Trouble with Redis is told to the hooks, and no trouble of the job's."""
    yield from _tolerant(engine, Index(engine.keys("j")).put(entry, left_ms))


def refreshed(engine: Engine, where: Place) -> Flow[None]:
    """The same of a job that somebody else has ended, as its record says."""
    yield from _tolerant(engine, Index(engine.keys("j")).refresh(where))


def _tolerant(engine: Engine, flow: Flow[None]) -> Flow[None]:
    try:
        yield from flow
    except StoreError as error:  # the record stands; whoever lists, or writes next, repairs the index
        engine.hooks.emit(BackgroundTrouble("job index", str(error)))
