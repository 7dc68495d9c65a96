"""Whether time limits, leases and the life of results fit how long tasks run."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.core.durations import humanize
from workerkit.doctor.facts import AppFacts, Facts, names
from workerkit.doctor.finding import Finding, Kind
from workerkit.doctor.visibility import rounded

NONE = Kind("time-limit-missing", "note", "A call that hangs holds its lease or slot, and its process, for ever")
CLOSE = Kind("time-limit-close", "warning", "A task has run for nearly as long as its time limit allows")
LEASE = Kind("lease-long", "warning", "After a kill the lease stays for longer than the task could have run")
KEPT = Kind("results-kept", "warning", "Task results are never deleted, and fill the server")
SHORT = Kind("results-expire-early", "warning", "Results go sooner than the longest task takes")
KINDS = (NONE, CLOSE, LEASE, KEPT, SHORT)

CLOSE_AT = 0.8  # of the limit
_USUAL = 600.0  # seconds for a task of which nothing is known


def check(facts: Facts) -> Iterator[Finding]:
    """Judge time limits by runs and leases, and the expiry of results."""
    yield from _limits(facts.app)
    yield from _leases(facts.app)
    yield from _results(facts.app)


def _limits(app: AppFacts) -> Iterator[Finding]:
    free = [task for task in app.having("memoize", "throttle", "job") if not task.time_limit]
    if free:
        text = f"{names(free)}: nothing ends a call that hangs, and its lease or slot is renewed as long as it lives"
        enough = rounded(max(_USUAL, *(2 * task.longest for task in app.tasks)))
        yield NONE.found("task_time_limit", text, at="the app", fix=f"app.conf.task_time_limit = {enough}")
    for task in app.tasks:
        if not task.time_limit or task.longest < CLOSE_AT * task.time_limit:
            continue
        ran, limit = humanize(round(task.longest, 1)), humanize(task.time_limit)
        text = f"it has run for {ran}, and is killed after {limit}; runs that were killed are not noted"
        enough = rounded(2 * task.longest)
        if task.time_limit == app.time_limit:
            yield CLOSE.found(task.name, text, at="the app", fix=f"app.conf.task_time_limit = {enough}")
        else:
            yield CLOSE.found(task.name, text, at=f"the options of {task.name}", fix=f"time_limit={enough}")


def _leases(app: AppFacts) -> Iterator[Finding]:
    brief = [task for task in app.having("memoize") if task.time_limit and task.time_limit < app.lease]
    if brief:
        text = (
            f"a lease lives for {humanize(app.lease)} after its process was killed, longer than {names(brief)} may run"
        )
        fix = f"app.conf.workerkit_lease = {int(max(1, min(task.time_limit or 1 for task in brief)))}"
        yield LEASE.found("workerkit_lease", text, at="the app", fix=fix)


def _results(app: AppFacts) -> Iterator[Finding]:
    if not app.stores_results:
        return
    longest = app.longest
    if not app.result_expires:
        text = "results are kept for ever"
        yield KEPT.found("result_expires", text, at="the app", fix="app.conf.result_expires = 86400")
    elif longest is not None and app.result_expires <= longest.longest:
        ran = humanize(round(longest.longest, 1))
        text = f"results are gone after {humanize(app.result_expires)}, and {longest.name} has run for {ran}: no chord"
        text += " of it would end"
        fix = f"app.conf.result_expires = {max(3600, rounded(2 * longest.longest))}"
        yield SHORT.found("result_expires", text, at="the app", fix=fix)
