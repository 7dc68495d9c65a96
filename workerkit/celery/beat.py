"""Beat's part in warming: one entry, whose task runs whatever is due. Beats may be many: ticks are claimed."""

from __future__ import annotations

from celery import Celery

from workerkit.api.warmups import Warmups

WARM_TASK = "workerkit.warm"
ENTRY = "workerkit-warm"
SHORTEST, LONGEST = 0.5, 15.0


def install_schedule(app: Celery, warmups: Warmups) -> None:
    """Have beat look four times an interval: a tick is run soon after it is due, wherever beat's own phase lies."""
    shortest = warmups.shortest
    if shortest is None:
        return
    period = min(max(shortest / 4, SHORTEST), LONGEST)
    entry = {"task": WARM_TASK, "schedule": period, "options": {"expires": period * 4}}
    app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), ENTRY: entry}
