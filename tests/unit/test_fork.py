"""What a worker does before its pool forks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest
from celery import Celery, signals

from workerkit import WorkerKit


@pytest.fixture
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # as the whole run has it


@pytest.mark.usefixtures("_thawed")
def test_what_is_there_when_a_worker_begins_is_shared_with_its_children() -> None:
    app = Celery("test", broker="memory://", set_as_current=False)
    WorkerKit(app, url="redis://localhost:1", hooks=[])
    young = [[number] for number in range(1000)]
    before = gc.get_freeze_count()
    signals.worker_init.send(None)
    assert gc.get_freeze_count() >= before + len(young)
    assert "workerkit.io.aiorunner" in sys.modules
    assert not any(each is young for each in gc.get_objects())
