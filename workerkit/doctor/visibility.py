"""Whether Redis as a broker delivers messages again that are being worked on.

It does so when a message was not acknowledged for the visibility timeout: with late acknowledgement that is the whole
of the run, and for each message all the time that it waits in a worker, for its turn or its countdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from workerkit.core.durations import humanize
from workerkit.doctor.facts import Facts, names
from workerkit.doctor.finding import Finding, Kind

RUN = Kind("visibility-run", "error", "A task has run for longer than the visibility timeout")
COUNTDOWN = Kind("visibility-countdown", "error", "A task's retries wait for longer than the visibility timeout")
WAIT = Kind("visibility-prefetch", "warning", "Reserved messages may wait for longer than the visibility timeout")
LIMIT = Kind("visibility-limit", "warning", "A task may run for longer than the visibility timeout")
KINDS = (RUN, COUNTDOWN, WAIT, LIMIT)

MARGIN = 2  # times what is known to be needed


class _Need(NamedTuple):
    kind: Kind
    seconds: float
    why: str


def check(facts: Facts) -> Iterator[Finding]:
    """Judge the visibility timeout by runs, countdowns, prefetching and time limits."""
    app = facts.app
    if app.broker != "redis":
        return
    short = [need for need in _needs(facts) if need.seconds >= app.visibility_timeout]
    if not short:
        return
    # One line for all of them: mended by one, the next would come up.
    enough = rounded(MARGIN * max(need.seconds for need in short))
    options = f'{{**(app.conf.broker_transport_options or {{}}), "visibility_timeout": {enough}}}'
    for need in short:
        text = f"{need.why}; unacknowledged for {humanize(app.visibility_timeout)} a message is delivered again"
        yield need.kind.found(
            "visibility_timeout", text, at="the app", fix=f"app.conf.broker_transport_options = {options}"
        )


def _needs(facts: Facts) -> Iterator[_Need]:
    app = facts.app
    late = [task for task in app.tasks if task.acks_late]
    ran = max((task for task in late if task.longest), key=lambda task: task.longest, default=None)
    if ran is not None:
        yield _Need(RUN, ran.longest, f"{ran.name}, acknowledged late, has run for {_told(ran.longest)}")
    waits = max(app.tasks, key=lambda task: task.countdown, default=None)
    if waits is not None:
        yield _Need(COUNTDOWN, waits.countdown, f"{waits.name} is retried after up to {_told(waits.countdown)}")
    longest = app.longest
    if longest is not None and app.prefetch > 1:
        behind = app.prefetch * longest.longest
        why = f"{app.prefetch} messages a process are reserved, and {longest.name} has run for {_told(longest.longest)}"
        yield _Need(WAIT, behind, f"{why}: the last may wait for {_told(behind)}")
    limit = max((task.time_limit or 0.0 for task in late), default=0.0)
    limited = [task for task in late if task.time_limit == limit]
    yield _Need(LIMIT, limit, f"{names(limited)} may run for {_told(limit)} (time_limit), acknowledged late")


def rounded(seconds: float) -> int:
    """Up to the next minute; above an hour to the next hour."""
    step = 60 if seconds <= 3600 else 3600
    return int(-(-seconds // step) * step)


def _told(seconds: float) -> str:
    return humanize(round(seconds, 1))
