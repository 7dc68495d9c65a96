"""A throttled task with a base class of its own and Celery's limit, which a worker refuses to start with."""

from __future__ import annotations

from celery import Task
from setup import app, kit


class Own(Task):  # type: ignore[type-arg]  # celery's Task takes parameters in its stubs alone
    """A base class that the kit knows nothing of."""


@app.task(base=Own, rate_limit="10/s")
@kit.throttle(kit.limiter("some", "10/s"))
def limited_twice() -> None:
    """Never runs."""
