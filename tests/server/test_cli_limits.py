"""`workerkit limits ...` on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.server.cli_rig import Shop, rows, runner
from workerkit.api.limiter import Limiter
from workerkit.cli import main
from workerkit.limits.headers import Advice, Budget


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    yield shop
    shop.close()


@pytest.fixture
def stripe(shop: Shop) -> Limiter:
    return shop.kit.limiter("stripe", "100/h", "1000/d", concurrency=20, name_keys=True)


@pytest.fixture
def plain(shop: Shop) -> Limiter:
    return shop.kit.limiter("plain", "3/h")


def test_limiters_by_the_keys_that_are_asked_for_most(shop: Shop, stripe: Limiter, plain: Limiter) -> None:
    with stripe.slot("acct_7", cost=2), stripe.slot("acct_7"), stripe.slot("acct_8"):
        shop.park("waits", stripe, "acct_8")
        for _ in range(4):
            plain.try_acquire()
        header, *lines = rows(shop("limits", "ls"))
        assert header == ["limiter", "key", "left", "held", "waiting", "refused", "state"]
        assert lines == [
            ["plain", "0 of 3/h", "-", "0", "1", "used up"],
            ["stripe", "acct_7", "97 of 100/h, 997 of 1000/d", "2/20", "0", "0", "ok"],
            ["acct_8", "99 of 100/h, 999 of 1000/d", "1/20", "1", "ok"],
        ]
        assert shop.json("limits", "ls", "--keys", "1")[1]["keys"] == [
            {
                "key": "acct_7",
                "rates": [
                    {"rate": "100/h", "limit": 100, "remaining": 97, "reset_after": pytest.approx(3600, abs=60)},
                    {"rate": "1000/d", "limit": 1000, "remaining": 997, "reset_after": pytest.approx(86400, abs=60)},
                ],
                "holders": 2,
                "concurrency": 20,
                "paused": 0,
                "state": "ok",
                "waiting": [],
                "parked": 0,
            }
        ]


def test_digests_of_keys_that_have_no_name_and_a_key_where_somebody_waits_alone(shop: Shop, plain: Limiter) -> None:
    plain.try_acquire("secret", cost=2)
    shop.park("waits", plain, "another")
    plain.pause("another", "1h")
    first, second = shop.json("limits", "ls")[0]["keys"]
    assert (first["key"], first["rates"][0]["remaining"]) == (plain.part("secret"), 1)
    assert (second["key"], second["parked"], second["state"]) == (plain.part("another"), 1, "paused")
    assert "secret" not in shop("limits", "ls")
    assert max(map(len, shop("limits", "ls").splitlines())) <= 80


def test_no_limiter(shop: Shop) -> None:
    assert shop("limits", "ls") == 'there is no limiter: write kit.limiter("stripe", "100/s")\n'
    assert shop.json("limits", "ls") == []
    for verb in (["show", "x"], ["set", "x", "1/s"], ["pause", "x", "1s"], ["reset", "x"], ["test", "x"]):
        assert shop.refused("limits", *verb, status=1) == "there is no limiter 'x'; there are: none"


def test_budgets_of_warmups_are_listed_when_asked_for(shop: Shop, plain: Limiter) -> None:
    @shop.kit.memoize("10m")
    @shop.kit.throttle(plain)
    def fn(n: int) -> int:
        return n

    shop.kit.warmup(fn, every="1h", args=[1], budget="50%")
    mine = shop.kit.limiter("warm.mine", "1/s")
    assert [each["limiter"] for each in shop.json("limits", "ls")] == ["plain", "warm.mine"]
    assert len(shop.json("limits", "ls", "--all")) == 3
    assert not mine.internal


def test_one_key(shop: Shop, stripe: Limiter) -> None:
    stripe.configure("acct_7", "50/h", "1000/d")
    stripe.learn("acct_7", Advice(30.0, False, (), ()))
    shop.kit.engine.runner.call(stripe.waiters.note(stripe.part("acct_7"), "worker-1:47 shop.export", 60.0))
    shop.park("waits", stripe, "acct_7")
    shop.park("too", stripe, "acct_8")
    first, header, hour, day, who = shop("limits", "show", "stripe", "--key", "acct_7").splitlines()
    assert first.startswith("stripe/acct_7: paused for ")
    assert first.endswith("s, set at run time, 0 of 20 slots held, 1 task parked")
    assert header.split()[:4] == ["rate", "limit", "left", "unanswered"]
    assert [rows(line)[0][:4] for line in (hour, day)] == [["50/h", "50", "50", "0"], ["1000/d", "1,000", "1,000", "0"]]
    assert who == "waits: worker-1:47 shop.export"
    found = shop.json("limits", "show", "stripe", "--key", "acct_7")
    assert (found["limiter"], found["key"], found["configured"], found["parked"]) == ("stripe", "acct_7", True, 1)
    assert (found["waiting"], found["rates"][0]["limit"]) == (["worker-1:47 shop.export"], 50)
    assert 0 < found["paused"] <= 30


def test_what_was_learned(shop: Shop, plain: Limiter) -> None:
    plain.learn("", Advice(0.0, False, (Budget("", 3, 1, 60.0, None),), ()))
    told = shop("limits", "show", "plain")
    assert told.startswith("plain: 0 tasks parked\n")
    assert rows(told)[2][-1] == "the API said 1 left"


def test_setting_rates_at_run_time_and_going_back(shop: Shop, stripe: Limiter) -> None:
    assert shop("limits", "set", "stripe", "5/h", "1000/d", "--key", "a", "--concurrency", "3") == (
        "stripe/a: 5/h, 1000/d, concurrency 3, from now on\n"
    )
    usage = stripe.usage("a")
    assert ([rate.limit for rate in usage.rates], usage.concurrency, usage.configured) == ([5, 1000], 3, True)
    assert stripe.usage("b").configured is False
    assert shop.json("limits", "set", "stripe", "--clear", "--key", "a") == {
        "limiter": "stripe",
        "kit": "wk",
        "key": "a",
        "rates": [],
        "concurrency": None,
    }
    assert stripe.usage("a").configured is False
    assert shop("limits", "set", "stripe", "--concurrency", "2") == "stripe: concurrency 2, from now on\n"
    assert shop("limits", "set", "stripe", "--clear") == "stripe: as the code says, from now on\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["set", "plain", "fast"], "'fast' is no rate"),
        (["set", "plain", "5/h", "6/h"], "have one period"),
        (["set", "plain", "5 tokens/h"], "tokens"),
        (["pause", "plain", "soon"], "DURATION: 'soon' is no duration; write seconds"),
        (["pause", "plain", "0"], "DURATION: '0' must be at least"),
        (["test", "plain", "tokens=3"], "does not count tokens"),
        (["test", "plain", "tokens"], "'tokens' is no amount of a unit; write it like tokens=800"),
        (["test", "plain", "tokens=-3"], "is no amount"),
        (["test", "plain", "--cost", "4"], "is above 3/h"),
        (["test", "llm"], "limiter llm counts tokens too; say how many: tokens=800"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(shop: Shop, plain: Limiter, words: list[str], why: str) -> None:
    llm = shop.kit.limiter("llm", "90000 tokens/m")
    assert why in shop.refused("limits", *words)
    assert (plain.usage().configured, plain.peek().remaining, llm.peek(tokens=1).allowed) == (False, 3, True)


def test_set_needs_one_of_the_two(shop: Shop, plain: Limiter) -> None:
    for words in ([], ["5/h", "--clear"]):
        done = shop.run("limits", "set", "plain", *words)
        assert done.exit_code == 2
        assert "--clear goes back to the code's" in done.stderr


def test_pause_and_reset(shop: Shop, stripe: Limiter) -> None:
    stripe.learn("a", Advice(5.0, False, (), ()))
    assert shop("limits", "pause", "stripe", "90", "--key", "a") == "stripe/a: paused for 1m30s\n"
    assert 80 < stripe.usage("a").paused <= 90
    assert stripe.usage("b").paused == 0
    assert shop("limits", "reset", "stripe", "--key", "a") == (
        "stripe/a: charges, pause and what was learned are forgotten\n"
    )
    assert stripe.usage("a").paused == 0
    assert shop.json("limits", "pause", "stripe", "1m")["paused"] == 60
    assert shop.json("limits", "reset", "stripe")["reset"] is True


def test_whether_a_call_would_be_admitted_is_asked_without_spending(shop: Shop, plain: Limiter) -> None:
    for _ in range(3):
        assert shop("limits", "test", "plain") == "plain: admitted: 3 left\n"
    assert plain.peek().remaining == 3
    plain.try_acquire("a", cost=2)
    assert shop("limits", "test", "plain", "--key", "a", "--cost", "2", status=1).startswith(
        "plain/a: refused: 3/h; ask again in "
    )
    refused = shop.json("limits", "test", "plain", "--key", "a", "--cost", "2", status=1)
    assert (refused["allowed"], refused["bound_by"], refused["key"]) == (False, "3/h", "a")
    assert 0 < refused["retry_after"] <= 3600


def test_units_of_a_limiter(shop: Shop) -> None:
    llm = shop.kit.limiter("llm", "60/m", "90000 tokens/m")
    llm.try_acquire(tokens=89_000)
    assert shop("limits", "test", "llm", "tokens=1000").startswith("llm: admitted: ")
    assert shop("limits", "test", "llm", "tokens=1001", status=1).startswith("llm: refused: 90000 tokens/m; ")


def test_many_keys_and_long_ones_stay_within_80_columns(shop: Shop) -> None:
    wide = shop.kit.limiter("a-limiter-with-a-long-name", "100000/s", "5000000/h", concurrency=100, name_keys=True)
    with wide.slot("[red]\x1b[31m" + "k" * 100):
        told = shop("limits", "ls")
    assert max(map(len, told.splitlines())) <= 80
    assert "[red]" in told
    assert "\x1b" not in told


def test_one_limiter_of_two_kits(shop: Shop, plain: Limiter) -> None:
    second = shop.another(namespace="second")
    other = second.limiter("plain", "3/h")
    assert "write --kit wk or --kit second" in shop.refused("limits", "reset", "plain")
    shop("limits", "pause", "plain", "1h", "--kit", "second")
    assert (plain.usage().paused, other.usage().paused > 0) == (0, True)
    assert [each["kit"] for each in shop.json("limits", "ls")] == ["wk", "second"]


def test_a_store_that_is_down_is_one_line(shop: Shop) -> None:
    lonely = Shop("redis://localhost:1/0")
    limiter = lonely.kit.limiter("plain", "3/h")
    began = time.monotonic()
    for verb in (["ls"], ["show", limiter.name], ["set", "plain", "1/s"], ["pause", "plain", "1s"], ["test", "plain"]):
        assert "redis://localhost:1/0 (workerkit_redis_url) " in lonely.refused("limits", *verb)
    assert time.monotonic() - began < 30
    lonely.close()


def test_without_an_app_it_says_what_to_write() -> None:
    done = runner().invoke(main.main, ["limits", "ls"])
    assert (done.exit_code, done.stderr) == (2, "workerkit: of which app? write workerkit -A shop ..., as for celery\n")
