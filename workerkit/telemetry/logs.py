"""Events as structlog lines: the event's stable name, then its fields."""

from __future__ import annotations

from dataclasses import fields

import structlog

from workerkit.core.events import (
    BackgroundTrouble,
    CacheTrouble,
    Event,
    GuardWarning,
    JobEvent,
    LimitDown,
    RefreshFailed,
    StoreDown,
    TaskParked,
    TicketTrouble,
)

_ROUTINE = (TaskParked, JobEvent)  # one for each task: of interest only when one looks for it
_WARNINGS = (StoreDown, LimitDown, GuardWarning, CacheTrouble, RefreshFailed, TicketTrouble, BackgroundTrouble)


def log(event: Event) -> None:
    """Write one event; troubles are warnings, what every task does is for debugging."""
    if isinstance(event, _ROUTINE) and not structlog.is_configured():
        return  # as it comes, structlog prints what is for debugging, too
    logger = structlog.get_logger("workerkit")
    if isinstance(event, _WARNINGS):
        write = logger.warning
    else:
        write = logger.debug if isinstance(event, _ROUTINE) else logger.info
    write(f"workerkit.{event.name}", **{each.name: getattr(event, each.name) for each in fields(event)})
