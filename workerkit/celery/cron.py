"""Cron lines, as Celery's own crontab reads them."""

from __future__ import annotations

import time
from typing import Any

from celery.schedules import ParseException, crontab

from workerkit.errors import DefinitionError
from workerkit.warming.schedule import Cron


def parsed(line: str, late_ms: int, *, what: str) -> Cron:
    """Raises DefinitionError for a line that does not parse, and for one whose day never comes."""
    try:
        read: Any = crontab.from_string(line)  # whose sets have no types
        sets = (read.minute, read.hour, read.day_of_month, read.month_of_year, read.day_of_week)
        minutes, hours, days, months, weekdays = map(frozenset, sets)
        cron = Cron(minutes, hours, days, months, weekdays, offset=late_ms)
        cron.after(int(time.time() * 1000))
    except (ValueError, TypeError, AttributeError, ParseException, DefinitionError) as error:
        raise DefinitionError(
            f"{what}: {line!r:.60} is no cron line ({error}); "
            'write minute hour day month weekday, as in "0 6 * * mon-fri"'
        ) from None
    return cron
