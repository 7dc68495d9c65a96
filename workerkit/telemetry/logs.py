"""Events as structlog lines: the event's stable name, then its fields."""

from __future__ import annotations

from dataclasses import fields

import structlog

from workerkit.core.events import Event


def log(event: Event) -> None:
    """Write one event, at its level."""
    if event.level == "debug" and not structlog.is_configured():
        return  # as it comes, structlog prints what is for debugging, too
    write = getattr(structlog.get_logger("workerkit"), event.level)
    write(f"workerkit.{event.name}", **{each.name: getattr(event, each.name) for each in fields(event)})
