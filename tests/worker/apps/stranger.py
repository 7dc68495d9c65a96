"""Another app on the same queues: it has throttled tasks, and so a pump, but knows none of the others' tasks."""

from __future__ import annotations

from setup import app, kit

app.conf.task_queue_max_priority = 10  # as the others declare them


@kit.task
@kit.throttle(kit.limiter("its-own", "10/s"))
def own() -> str:
    return "mine"
