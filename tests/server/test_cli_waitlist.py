"""`workerkit waitlist ...` on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.cli_rig import Shop, rows
from workerkit.api.limiter import Limiter


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    yield shop
    shop.close()


@pytest.fixture
def stripe(shop: Shop) -> Limiter:
    return shop.kit.limiter("stripe", "5/h", name_keys=True)


def quarantine(shop: Shop, name: str, limiter: Limiter, why: str) -> None:
    parked = shop.park(name, limiter)
    shop.kit.engine.runner.call(shop.kit.engine.waitlist.quarantine(parked.id, parked.line, why))


def test_nothing_is_parked(shop: Shop) -> None:
    assert shop("waitlist", "ls") == "no task is parked\n"
    assert shop.json("waitlist", "ls") == []


def test_parked_tasks_in_their_order(shop: Shop, stripe: Limiter) -> None:
    other = shop.kit.limiter("other", "1/h")
    for name, limiter, key in (("a", stripe, "acct_7"), ("b", stripe, "acct_7"), ("c", other, "")):
        shop.park(name, limiter, key)
    quarantine(shop, "d", stripe, "[red]no\x1b queue")
    header, *lines, said = rows(shop("waitlist", "ls"))
    assert header == ["task id", "task", "waits for", "ahead", "prio", "parked", "state"]
    by_id = {line[0]: line for line in lines}
    assert by_id["a"][2:5] == ["stripe/acct_7", "0", "0"]
    assert by_id["b"][2:4] == ["stripe/acct_7", "1"]
    assert by_id["d"][-1].startswith("quarantined:")
    assert "[red]no\\x1b queue" in shop("waitlist", "ls")
    assert said == ["4 shown; 4 parked in all"]
    assert [each["task_id"] for each in shop.json("waitlist", "ls", "--limiter", "stripe")] == ["a", "b", "d"]
    assert [each["task_id"] for each in shop.json("waitlist", "ls", "--limiter", "other")] == ["c"]
    (bad,) = shop.json("waitlist", "ls", "--state", "quarantined")
    assert (bad["task_id"], bad["reason"], bad["kit"]) == ("d", "[red]no\x1b queue", "wk")
    assert "1 shown of these; 4 parked in all" in shop("waitlist", "ls", "--limiter", "stripe", "--most", "1")
    assert len(shop.json("waitlist", "ls", "--most", "3")) == 3
    assert "\x1b" not in shop("waitlist", "ls")
    assert max(map(len, shop("waitlist", "ls").splitlines())) <= 80
    assert shop.run("waitlist", "ls", "--state", "lost").exit_code == 2


def test_why_one_waits(shop: Shop, stripe: Limiter) -> None:
    shop.park("a", stripe, "acct_7")
    shop.park("b", stripe, "acct_7")
    assert shop("waitlist", "explain", "b").startswith("waits on stripe/acct_7: 5/h, 1 ahead, about ")
    found = shop.json("waitlist", "explain", "b")
    assert (found["task_id"], found["ahead"], found["limiter"]) == ("b", 1, "stripe")
    assert found["wait"] > 0
    assert shop.refused("waitlist", "explain", "x", status=1) == (
        "task 'x' is not parked: it runs, has ended, or was never throttled"
    )


def test_cancelling(shop: Shop, stripe: Limiter) -> None:
    shop.park("a", stripe)
    shop.park("b", stripe)
    quarantine(shop, "c", stripe, "no queue")
    assert shop("waitlist", "cancel", "a", "c") == "a: revoked\nc: revoked\n"
    assert shop("waitlist", "cancel", "b", "x", status=1) == "b: revoked\nx: not parked\n"
    assert shop.json("waitlist", "cancel", "x", status=1) == [{"task_id": "x", "cancelled": False}]
    assert shop.run("waitlist", "cancel").exit_code == 2
    assert shop.json("waitlist", "ls", "--state", "quarantined") == []


def test_a_store_that_is_down_is_one_line() -> None:
    lonely = Shop("redis://localhost:1/0")
    for verb in (["ls"], ["explain", "a"], ["cancel", "a"]):
        assert "redis://localhost:1/0 (workerkit_redis_url) " in lonely.refused("waitlist", *verb)
    lonely.close()
