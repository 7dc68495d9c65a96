"""What the tests of the cache on a server share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cache_rig import Coroutines, Threads
from workerkit import WorkerKit


@pytest.fixture(params=[Threads, Coroutines])
def callers(request: pytest.FixtureRequest, kit: WorkerKit) -> Iterator[Threads | Coroutines]:
    """Who calls: threads, or tasks of an event loop; `kit` is the test's own."""
    made = request.param()
    yield made
    made.close(kit)
