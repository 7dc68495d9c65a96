"""Two kits on one app."""

from __future__ import annotations

import pytest
from celery import Celery

from workerkit import WorkerKit
from workerkit.celery.beat import WARM_TASK


def test_two_kits_share_the_tasks_of_warming(recwarn: pytest.WarningsRecorder) -> None:
    app = Celery("two", broker="memory://")
    first, second = (
        WorkerKit(app, url="redis://localhost:1", namespace=name, hooks=[], warm_tick="worker") for name in ("a", "b")
    )
    app.finalize()
    late = WorkerKit(app, url="redis://localhost:1", namespace="c", hooks=[], warm_tick="worker")
    due: list[str] = []
    for kit, name in ((first, "a"), (second, "b"), (late, "c")):
        kit.warmups.send_due = lambda name=name: due.append(name)  # type: ignore[method-assign, assignment, misc]  # seen
    app.tasks[WARM_TASK]()
    assert due == ["a", "b", "c"]
    # Other tests' shared tasks come to each new app, and some of them twice.
    assert not [str(each.message) for each in recwarn if "workerkit." in str(each.message)]
