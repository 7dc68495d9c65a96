"""Fixtures for pytest; `pytest_plugins = ["workerkit.testing.fixtures"]` in the topmost conftest.py brings them in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from workerkit.testing.drill import FOLDER, ZombieDrill


@pytest.fixture
def zombie_drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZombieDrill]:
    """A ZombieDrill that workers which the test starts take part in; they need `zombie_point(job)` in their task.

    For workers that run already, set WORKERKIT_ZOMBIE_DRILL to a folder where they are started, and for the tests too.
    """
    folder = Path(os.environ.get(FOLDER) or tmp_path / "zombie")
    monkeypatch.setenv(FOLDER, str(folder))
    with ZombieDrill(folder) as drill:
        yield drill
