"""The message of a throttled task: what comes back is what was sent, and ends as Celery would have it end."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError

from tests.worker.gate_rig import Gated

if TYPE_CHECKING:
    from collections.abc import Callable

# Each module imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "routed": {"queue": "other", "routing_key": "topics.one", "priority": 3},
    "headed": {"headers": {"mine": "h", "number": 7}},
    "rich": {"headers": {"at": datetime(2030, 1, 1, tzinfo=UTC), "much": Decimal("1.10"), "deep": {"list": [1, None]}}},
    "zlib": {"compression": "zlib"},
    "yaml": {"serializer": "yaml"},
    "msgpack": {"serializer": "msgpack"},
    "compressed msgpack": {"serializer": "msgpack", "compression": "zlib"},
    "described": {"argsrepr": "(...)", "kwargsrepr": "{...}", "shadow": "another name"},
    "limited": {"soft_time_limit": 50, "time_limit": 60, "expires": 300},
    "answered": {"reply_to": "somewhere", "message_id": "m", "app_id": "a", "type": "t"},
    "rooted": {"root_id": "r", "parent_id": "p"},
    "stamped": {"stamped_headers": ["kind"], "kind": "x"},
    "not kept": {"delivery_mode": 1},
    "unanswered": {"ignore_result": True},
}
OURS = {"wk_gen", "wk_pub", "wk_line"}  # headers


@pytest.fixture(scope="module")
def gated(shared_broker: Any, eventually: Callable[..., None]) -> Gated:
    return Gated(shared_broker, eventually)


def test_message_is_the_same_after_parking(gated: Gated) -> None:
    gated.close("same")
    results = {name: gated.app.step.apply_async((name, "same", "!"), **how) for name, how in VARIANTS.items()}
    gated.await_parked("same", len(VARIANTS))
    gated.app.gate.pause("same", 1.0)
    gated.waitlist.drain()  # they are parked once more, and then the worker's pump lets them go
    for name, result in results.items():
        if name != "unanswered":
            assert result.get(timeout=20) == f"{name}!"
        gated.eventually(lambda name=name: any(note.startswith(f"{name} ") for note in gated.notes("same")))
        first, *others = gated.received(result.id)
        first["headers"].pop("compression", None)  # the body was inflated as it came
        first["properties"].pop("expiration", None)  # the broker would drop it without a word: the header remains
        assert [message["headers"]["wk_gen"] for message in others] == [*range(1, len(others) + 1)]
        for message in others:
            message["headers"] = {key: value for key, value in message["headers"].items() if key not in OURS}
            assert message == first, name


def test_task_that_expires_while_it_is_parked_is_revoked(gated: Gated) -> None:
    gated.close("expires")
    result = gated.app.step.apply_async((1, "expires"), expires=1.5)
    gated.await_parked("expires", 1)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=20)
    assert result.state == "REVOKED"
    gated.eventually(lambda: gated.waitlist.explain(result.id) is None)
    assert gated.notes("expires") == []


def test_time_limits_of_the_message_hold_after_parking(gated: Gated) -> None:
    gated.close("overruns")
    result = gated.app.overruns.apply_async(("overruns",), soft_time_limit=1)
    gated.await_parked("overruns", 1)
    gated.open("overruns")
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=15)
    assert gated.notes("overruns") == ["begins 1"]


def test_started_is_said_after_admission_and_a_spent_duplicate_says_nothing(gated: Gated) -> None:
    gated.close("tracked")
    result = gated.app.tracked.delay("tracked")
    gated.await_parked("tracked", 1)
    assert result.state == "THROTTLED"
    assert result.info["retry_after"] > 1
    gated.open("tracked")
    assert result.get(timeout=20) == "STARTED"
    for number, message in enumerate(gated.received(result.id), 2):
        # The first, of before it was parked, is superseded; the second is what was admitted, under another name.
        message["headers"].update({"wk_pub": "another"} if "wk_gen" in message["headers"] else {})
        gated.send(message)
        gated.eventually(lambda number=number: gated.log.count(f"[{result.id}] ignored") == number)
        assert result.backend.get_task_meta(result.id, cache=False)["status"] == "SUCCESS"
    assert gated.notes("tracked") == ["began 1"]
