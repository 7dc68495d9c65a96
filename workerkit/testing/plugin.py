"""The pytest plugin: installed with workerkit, it brings its fixtures to every project's tests.

What they need is imported when a test asks for one: a run that asks for none pays for this page alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit
    from workerkit.testing.clock import FrozenClock
    from workerkit.testing.drill import ZombieDrill
    from workerkit.testing.memory.store import Store
    from workerkit.testing.servers import RunningServer

__all__ = ["frozen_clock", "workerkit_memory", "workerkit_server", "workerkit_valkey", "zombie_drill"]


@pytest.fixture
def frozen_clock() -> FrozenClock:
    """A FrozenClock; a kit that `workerkit_memory` takes into memory in the same test goes by it."""
    from workerkit.testing.clock import FrozenClock

    return FrozenClock()


@pytest.fixture
def workerkit_memory(request: pytest.FixtureRequest) -> Iterator[Callable[[WorkerKit], Store]]:
    """`workerkit_memory(kit)` takes a kit into memory until the end of the test: it needs no Redis and begins empty."""
    from workerkit.testing.memory.kit import in_memory

    clock = request.getfixturevalue("frozen_clock") if "frozen_clock" in request.fixturenames else None
    with ExitStack() as until:
        yield lambda kit: until.enter_context(in_memory(kit, clock=clock))


@pytest.fixture(scope="session")
def workerkit_valkey() -> Iterator[RunningServer]:
    """A private Valkey for the whole session, started with the first test that asks; skipped where there is none."""
    from workerkit.testing.servers import missing, start_server

    if reason := missing("valkey"):
        pytest.skip(reason)
    with start_server("valkey") as server:
        yield server


@pytest.fixture
def workerkit_server(workerkit_valkey: RunningServer) -> RunningServer:
    """The session's private Valkey, emptied for this test; `workerkit_server.url` is what a kit needs of it."""
    workerkit_valkey.cli("FLUSHALL")
    return workerkit_valkey


@pytest.fixture
def zombie_drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZombieDrill]:
    """A ZombieDrill that workers which the test starts take part in; they need `zombie_point(job)` in their task.

    For workers that run already, set WORKERKIT_ZOMBIE_DRILL to a folder where they are started, and for the tests too.
    """
    import os

    from workerkit.testing.drill import FOLDER, ZombieDrill

    folder = Path(os.environ.get(FOLDER) or tmp_path / "zombie")
    monkeypatch.setenv(FOLDER, str(folder))
    with ZombieDrill(folder) as drill:
        yield drill
