"""A task that takes as long as it is told, acknowledged late."""

from __future__ import annotations

import time

from setup import app

app.conf.task_acks_late = True


@app.task
def rest(seconds: float) -> None:
    time.sleep(seconds)


@app.task
def fail(seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError("as told")


@app.task
def brief() -> None: ...
