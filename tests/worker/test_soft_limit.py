"""Soft time limits in a real prefork worker: billiard's own handler, in the middle of calls.

One child serves the module; the storm comes last, for its two threads leave it with two connections.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tests.worker.conftest import Broker
from workerkit.testing.servers import start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = 100


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, main_kind: str) -> Iterator[Any]:
    with start_server(main_kind) as server, pytest.MonkeyPatch.context() as patch:
        broker = Broker(server, tmp_path_factory.mktemp("limited"), patch)
        app = broker.load("limited")
        for number in range(KEYS):
            server.cli("SET", f"key:{number}", f"key:{number}")
        try:
            broker.worker("limited", concurrency=1)
            yield app
        finally:
            app.kit.close()
            broker.stop()


def test_a_soft_time_limit_in_the_middle_of_a_loop_of_calls(app: Any) -> None:
    found = app.overrun.delay().get(timeout=20)
    print(found)
    assert found["billiards"]
    assert 0.9 < found["took"] < 3.0
    assert found["calls"] > 100
    assert (found["wrong"], found["in_use"], found["depth"]) == (0, 0, 0)
    with pytest.raises(SoftTimeLimitExceeded):
        app.overrun_for_good.delay().get(timeout=20)
    after = app.checked.delay().get(timeout=20)
    assert after["pid"] == found["pid"]
    assert (after["wrong"], after["in_use"], after["depth"]) == (0, 0, 0)
    assert after["size"] <= 2  # one more when the times of these runs were sent meanwhile


@pytest.mark.parametrize("interrupts", [500, pytest.param(3000, marks=pytest.mark.heavy)])
def test_billiards_interrupts_mix_up_no_replies(app: Any, interrupts: int) -> None:
    seed = random.SystemRandom().randrange(10**6)
    found = app.storm.delay(interrupts, seed).get(timeout=120)
    print("seed", seed, found)
    assert found["billiards"]
    assert found["delivered"] == interrupts
    assert (found["wrong"], found["swallowed"], found["in_use"], found["depth"]) == (0, 0, 0, 0)
    assert found["size"] <= 3  # two threads that call, and who sends the time that the run before took
    assert app.checked.delay().get(timeout=20)["wrong"] == 0
