"""When a warmup is due: on an interval, or by a cron line. A tick is the moment at which it was due, in whole ms since
1970 by the server's clock: all processes name it alike, and no counter has to be shared. All moments here are ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

from workerkit.errors import DefinitionError

Missed = Literal["skip", "once", "all"]
MISSED: tuple[Missed, ...] = ("skip", "once", "all")
_YEARS = 41  # the 29th of February falls on each weekday within 40 years, around 2100 too


class Schedule(Protocol):
    """Both answers are moments that are due."""

    def last(self, now: int) -> int:
        """The newest one that is not after `now`."""

    def after(self, moment: int) -> int:
        """The first one after `moment`."""


@dataclass(frozen=True)
class Every:
    """Each `interval` since 1970, `offset` late."""

    interval: int
    offset: int = 0

    def last(self, now: int) -> int:
        return (now - self.offset) // self.interval * self.interval + self.offset

    def after(self, moment: int) -> int:
        return self.last(moment) + self.interval


@dataclass(frozen=True)
class Cron:
    """The minutes that a cron line names, in the time of `zone`, `offset` late. Weekdays begin with Sunday, 0.

    A day must be named both by its number and by its weekday, as in Celery's crontab. An hour that the end of summer
    time brings twice counts twice where every hour is named, else once; a minute that its beginning leaves out comes
    an hour later.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    zone: tzinfo = UTC
    offset: int = 0

    def last(self, now: int) -> int:
        limit = now - self.offset
        for day in self._dates(limit, -1):
            found = max((moment for moment in self._moments(day) if moment <= limit), default=None)
            if found is not None:
                return found + self.offset
        raise self._never()

    def after(self, moment: int) -> int:
        limit = moment - self.offset
        for day in self._dates(limit, 1):
            found = min((each for each in self._moments(day) if each > limit), default=None)
            if found is not None:
                return found + self.offset
        raise self._never()

    def _dates(self, moment: int, step: int) -> Iterator[date]:
        """The days that are named, beginning with a moment's; a day more, for a minute that comes an hour late."""
        day = datetime.fromtimestamp(moment // 1000, self.zone).date() - timedelta(days=step)
        for _ in range(_YEARS * 366):
            if day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays:
                yield day
            day += timedelta(days=step)

    def _moments(self, day: date) -> Iterator[int]:
        for hour in self.hours:
            for minute in self.minutes:
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
                first, second = (int(local.replace(fold=fold).timestamp()) * 1000 for fold in (0, 1))
                yield first
                if second > first and len(self.hours) == 24:  # before it: an hour that is left out, and may be a day's
                    yield second

    def _never(self) -> DefinitionError:
        return DefinitionError("cron: no day has such a date")


def offset(name: str, jitter: int) -> int:
    """How late a warmup is by its name: the same in all processes, spread from 0 to `jitter`."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()) % (jitter + 1)


class Due(NamedTuple):
    """The tick to run now, or None and why not; `passed` ticks before it are left out."""

    tick: int | None
    reason: Literal["", "done", "first", "late"]
    mark: int  # what is done, or left out, once this is settled
    passed: int = 0


def due(schedule: Schedule, now: int, done: int | None, missed: Missed, grace: int | None, *, at_once: bool) -> Due:
    """Which tick to run at `now`, when the last one that was run or left out is `done`.

    Of ticks that nobody has run "once" and "skip" run the newest, "all" each in its order; none runs one that is more
    than `grace` late. Where nothing is known yet, only what goes `at_once` is run.
    """
    newest = schedule.last(now)
    if done is None:
        return Due(newest, "", newest) if at_once else Due(None, "first", newest)
    if newest <= done:
        return Due(None, "done", done)
    oldest = done if grace is None else max(done, now - grace - 1)
    if newest <= oldest:
        return Due(None, "late", newest, _passed(schedule, done, newest) + 1)
    tick = schedule.after(oldest) if missed == "all" else newest
    return Due(tick, "", tick, _passed(schedule, done, tick))


def _passed(schedule: Schedule, done: int, tick: int) -> int:
    """How many ticks are between those two; beyond a thousand nobody counts."""
    passed = 0
    while (done := schedule.after(done)) < tick and passed < 1000:
        passed += 1
    return passed
