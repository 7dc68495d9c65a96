"""The zombie drill's two sides, without a server."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING

import pytest

from workerkit.api.job import Job
from workerkit.errors import DefinitionError
from workerkit.testing.drill import FOLDER, WRITES, ZombieDrill, zombie_point

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["workerkit.testing.fixtures"]


def test_without_a_drill_a_point_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    zombie_point()  # it does not wait
    assert list(tmp_path.iterdir()) == []


def test_nobody_comes(zombie_drill: ZombieDrill) -> None:
    with pytest.raises(TimeoutError, match=r"no attempt has come .* within 0\.05 s"):
        zombie_drill.stop("50ms")
    with pytest.raises(DefinitionError, match=r"call stop\(\)"):
        zombie_drill.wake()


def test_only_the_first_is_held_and_the_end_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for _ in range(2):  # the second drill in the same folder begins anew
        first, second = (threading.Thread(target=zombie_point, daemon=True) for _ in range(2))
        with ZombieDrill(tmp_path) as drill:
            first.start()
            while first.is_alive() and not (drill.folder / "pid").exists():
                first.join(0.01)
            second.start()
            second.join(20)
            assert not second.is_alive()
            assert first.is_alive()
        first.join(20)
        assert not first.is_alive()


def test_every_verb_of_a_job_is_tried() -> None:
    verbs = {name for name, member in vars(Job).items() if inspect.isfunction(member) and not name.startswith("_")}
    assert set(WRITES) == verbs
