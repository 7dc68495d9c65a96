"""What is worth telling of the time between two snapshots, by the names that events of hooks have."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from workerkit.jobs.record import JobInfo
from workerkit.top.change import change
from workerkit.top.snapshot import Snapshot, Store, Warm

Level = Literal["good", "bad", "note"]


class News(NamedTuple):
    """Something that happened, in seconds since 1970; `name` as the event's. `times`: how often, where it goes on."""

    at: float
    name: str
    text: str
    level: Level = "note"
    times: int = 0

    @property
    def said(self) -> str:
        """For the reader."""
        return f"{self.text} ({self.times:,})" if self.times else self.text


def news(before: Snapshot | None, after: Snapshot) -> list[News]:
    """What has happened since `before`, the oldest first; without it what is still known of earlier times."""
    found = [*_jobs(before, after), *_warmups(before, after)]
    if before is not None:
        found += [*_stores(before, after), *_counts(before, after), *_limits(before, after)]
    return sorted(found)


def down(at: float, reason: str) -> News:
    """No server can be read."""
    return News(at, "store.down", reason, "bad")


def up(at: float, seconds: float) -> News:
    """They can again."""
    return News(at, "store.up", f"figures again after {seconds:.0f} s", "good")


def _jobs(before: Snapshot | None, after: Snapshot) -> Iterator[News]:
    board, known = after.jobs, before.jobs if before is not None else None
    if board is None:
        return
    was = {job.id for job in known.failed} if known is not None else set()
    for job in board.failed:
        if job.id not in was:
            why = f": {job.error.type}: {job.error.message}" if job.error is not None else ""
            yield News(job.ended or after.at, "job", f"{job.task} {job.status}{why}", "bad")
    stuck = {job.id for job in known.stuck} if known is not None else set()
    for job in board.stuck:
        if job.id not in stuck:
            quiet = after.at - job.heartbeat
            yield News(quiet, "job", f"{job.task} is stuck since then, attempt {job.attempt}", "bad")
    yield from _recovered(stuck, board.running)


def _recovered(stuck: set[str], running: tuple[JobInfo, ...]) -> Iterator[News]:
    for job in running:
        if job.id in stuck:
            yield News(job.started, "job", f"{job.task} goes on, attempt {job.attempt}", "good")


def _warmups(before: Snapshot | None, after: Snapshot) -> Iterator[News]:
    known = {warm.status.name: warm for warm in (before.warmups if before is not None else None) or ()}
    for warm in after.warmups or ():
        was, status = known.get(warm.status.name), warm.status
        if status.ended is not None and (was is None or was.status.ended != status.ended):
            yield News(status.ended, "warm.tick", f"{status.name}: {_ran(warm)}", "bad" if _poor(warm) else "note")
        if was is not None and was.status.paused != status.paused:
            yield News(after.at, "warm.tick", f"{status.name} was {'paused' if status.paused else 'resumed'}")


def _ran(warm: Warm) -> str:
    last = warm.status.last
    if warm.status.reason or last is None:
        return warm.status.reason or "nothing"
    return " ".join(f"{name}={count}" for name, count in last._asdict().items())


def _poor(warm: Warm) -> bool:
    return bool(warm.status.reason) or warm.debt > 0


def _stores(before: Snapshot, after: Snapshot) -> Iterator[News]:
    known = {store.roles: store for store in before.stores}
    for store in after.stores:
        was = known.get(store.roles)
        if was is None:
            continue
        if bool(was.error) != bool(store.error):
            yield News(after.at, *(("store.down", store.error, "bad") if store.error else _well(store)))
        if store.uptime < was.uptime and not store.error:
            yield News(after.at - store.uptime, "store.up", f"{store.address} was started anew", "bad")
        elif not was.error:
            yield from _lost(store, "keys evicted", was.evicted, store.evicted, after.at)
            yield from _lost(store, "connections refused", was.rejected, store.rejected, after.at)


def _lost(store: Store, what: str, before: int, after: int, at: float) -> Iterator[News]:
    if after > before:
        yield News(at, "store", f"{store.address}: {what}", "bad", after - before)


def _well(store: Store) -> tuple[str, str, Level]:
    return "store.up", f"{store.address} answers again", "good"


def _counts(before: Snapshot, after: Snapshot) -> Iterator[News]:
    for name, counted in change(before, after).functions.items():
        if counted.errors:
            yield News(after.at, "cache.trouble", f"{name}: uses of the cache failed", "bad", counted.errors)
        if counted.failures:
            yield News(after.at, "cache.refresh_failed", f"{name}: old values served instead", "bad", counted.failures)
    for name, decided in change(before, after).limits.items():
        if decided.unseen:
            yield News(after.at, "limits.down", f"{name}: admitted without Redis", "bad", decided.unseen)
    if before.parked is not None and after.parked is not None:
        more = after.parked.quarantined - before.parked.quarantined
        if more > 0:
            yield News(after.at, "throttle.quarantine", "parked tasks went to quarantine", "bad", more)


def _limits(before: Snapshot, after: Snapshot) -> Iterator[News]:
    known = {(limit.name, key.key): key.usage for limit in before.limits or () for key in limit.keys}
    for limit in after.limits or ():
        for key in limit.keys:
            was, usage = known.get((limit.name, key.key)), key.usage
            if usage is None or was is None:
                continue
            name = f"{limit.name} {key.key}".rstrip()
            if usage.paused and not was.paused:
                yield News(after.at, "limits.learned", f"{name} is paused for {usage.paused:.0f} s", "bad")
            for old, rate in zip(was.rates, usage.rates, strict=False):
                if rate.rate == old.rate and rate.learned < old.learned:
                    yield News(
                        after.at, "limits.learned", f"{name}: {rate.rate} was brought down to {rate.limit}", "bad"
                    )


def clock(at: float) -> str:
    """A moment as this machine's clock shows it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")
