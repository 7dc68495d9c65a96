"""A RateLimited that escapes from a task's own calls parks the task; where there is none, it is raised."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.worker.gate_rig import Gated
from workerkit.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

# Each module imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")

PARKED_ONCE = [0, 1]  # no retry, parked
ANSWERS = {
    "limited": PARKED_ONCE, "bare": PARKED_ONCE, "retried": PARKED_ONCE, "sends": PARKED_ONCE, "awaits": "in",
    "awaits_sending": 200, "recorded": PARKED_ONCE,
}  # fmt: skip


@pytest.fixture(scope="module")
def gated(shared_broker: Any, eventually: Callable[..., None]) -> Gated:
    return Gated(shared_broker, eventually, "escaping")


def test_parked_and_no_retry_spent(gated: Gated) -> None:
    gated.close(*ANSWERS)
    results = {name: getattr(gated.app, name).delay(name) for name in ANSWERS}
    gated.eventually(lambda: gated.waiting() == dict.fromkeys(ANSWERS, 1))
    assert {result.state for result in results.values()} == {"THROTTLED"}
    assert gated.app.outer.usage().holders == 0
    assert gated.app.kit.jobs.get(results["recorded"].id, gated.app.Progress).status == "RETRY"
    gated.open(*ANSWERS)
    assert {name: result.get(timeout=20) for name, result in results.items()} == ANSWERS
    for name, result in results.items():
        assert gated.notes(name) == ["asks"] * 2
        assert [message["headers"]["retries"] for message in gated.received(result.id)] == [0, 0]
    record = gated.app.kit.jobs.get(results["recorded"].id, gated.app.Progress)
    assert (record.status, record.data.begun, record.attempt) == ("SUCCESS", 2, 2)
    gated.eventually(lambda: gated.waitlist.count() == 0)


def test_memoized_leader_lets_go_and_one_computes_for_all(gated: Gated) -> None:
    gated.close("memoized")
    results = [gated.app.memoized.delay("memoized") for _ in range(4)]
    # Sooner than the lease of a leader who never said that he is gone would end.
    gated.eventually(lambda: gated.waiting() == {"memoized": 4}, seconds=8)
    gated.open("memoized")
    assert [result.get(timeout=20) for result in results] == ["memoized"] * 4
    assert gated.notes("memoized").count("computed") == 1
    gated.eventually(lambda: gated.waitlist.count() == 0)


def test_calls_inside_never_make_a_ticket_of_their_own(gated: Gated) -> None:
    gated.close("inner")
    result = gated.app.calls.delay("own", ["inner"])
    gated.await_parked("inner", 1)
    assert gated.parked("inner")[0].task_id == result.id
    assert gated.notes("own") == ["asks"]
    gated.open("inner")
    assert result.get(timeout=20) == ["own", "inner", []]
    assert gated.notes("own") == ["asks"] * 2
    assert gated.notes("inner") == ["asks"] * 2  # by its own function, and by another task's
    assert len({message["body"] for message in gated.received(result.id)}) == 1


def test_eager_and_direct_calls_wait_a_little_or_are_refused(gated: Gated) -> None:
    gated.app.gate.pause("eager", 0.3)
    began = time.monotonic()
    assert gated.app.calls.apply(("eager", [])).get() == ["eager"]
    assert time.monotonic() - began >= 0.25
    gated.close("eager")
    for result in (gated.app.calls.apply(("eager", [])), gated.app.bare.apply(("eager",))):
        with pytest.raises(RateLimited):
            result.get()
    with pytest.raises(RateLimited):
        gated.app.calls("eager", [])
    assert gated.waiting() == {}
