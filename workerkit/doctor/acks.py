"""Whether a message survives the end of the worker that has it, and whom it keeps waiting."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.core.durations import humanize
from workerkit.doctor.facts import AppFacts, Facts
from workerkit.doctor.finding import Finding, Kind

EARLY = Kind("acks-early", "warning", "A throttled task or a job is lost with the process that runs it")
PREFETCH = Kind("prefetch-long", "note", "Messages are reserved behind long runs while other workers idle")
SHUTDOWN = Kind("soft-shutdown-off", "note", "A worker that is told to stop at once leaves its messages behind")
GREEN = Kind("gevent-prefetch", "note", "With gevent or eventlet, late acknowledgements hold up the next messages")
KINDS = (EARLY, PREFETCH, SHUTDOWN, GREEN)

LONG = 10.0  # seconds
_GREEN = ("gevent", "eventlet")


def check(facts: Facts) -> Iterator[Finding]:
    """Judge acknowledgement, prefetching and shutdown."""
    app = facts.app
    for task in app.having("throttle", "job"):
        if not (task.acks_late and task.reject_on_worker_lost):
            text = "it is throttled or a job, but its message is gone when the process that runs it is killed"
            fix = "@kit.task(acks_late=True, reject_on_worker_lost=True)"
            yield EARLY.found(task.name, text, at=f"above {task.name}", fix=fix)
    yield from _prefetch(app)
    yield from _shutdown(app)


def _prefetch(app: AppFacts) -> Iterator[Finding]:
    where, longest = "worker_prefetch_multiplier", app.longest
    green = app.pool in _GREEN
    if green and app.prefetch == 1 and any(task.acks_late for task in app.tasks):
        text = f"the pool {app.pool} acknowledges up to 2 s late while all that may be reserved is; nothing comes then"
        yield GREEN.found(where, text, at="the app", fix="app.conf.worker_prefetch_multiplier = 2")
    if not green and app.prefetch > 1 and longest is not None and longest.longest >= LONG:
        ran = humanize(round(longest.longest, 1))
        text = f"{app.prefetch} messages a process wait behind each run, and {longest.name} has run for {ran}"
        yield PREFETCH.found(where, text, at="the app", fix="app.conf.worker_prefetch_multiplier = 1")


def _shutdown(app: AppFacts) -> Iterator[Finding]:
    late = [task.longest for task in app.tasks if task.acks_late and task.longest]
    if late and not app.soft_shutdown and app.broker == "redis":
        text = (
            f"a worker that is told to stop at once (SIGQUIT, a second SIGTERM) cuts its runs off; their messages come "
            f"back after the visibility timeout, {humanize(app.visibility_timeout)}"
        )
        fix = f"app.conf.worker_soft_shutdown_timeout = {int(max(late)) + 1}"
        yield SHUTDOWN.found("worker_soft_shutdown_timeout", text, at="the app", fix=fix)
