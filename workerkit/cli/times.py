"""Moments and lengths of time, for people."""

from __future__ import annotations

from datetime import UTC, datetime

from workerkit.core.durations import humanize


def clock(at: float) -> str:
    """Seconds since 1970 as a time of this machine's zone."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(seconds: float) -> str:
    """A length of time, to what anybody wants to know of it: a day on, the minutes do not matter."""
    step = 3600 if seconds >= 86400 else 60 if seconds >= 3600 else 1 if seconds >= 1 else 0.001
    return humanize(round(max(seconds, 0.0) / step) * step)
