"""`workerkit cache ...` on a real server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.server.cli_rig import Shop, rows


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    yield shop
    shop.close()


def memoized(shop: Shop, fn: Any, name: str = "", **options: Any) -> Any:
    fn.__module__, fn.__qualname__ = "shop", name or fn.__name__
    shop.kept.append(shop.kit.memoize(options.pop("ttl", "10m"), **options)(fn))
    return shop.kept[-1]


def profile(user: int, fields: dict[str, Any] | None = None, *, deep: bool = False) -> int:
    return 1


def text(sku: str) -> int:
    return 1


def test_functions_and_their_counts(shop: Shop) -> None:
    called = memoized(shop, profile, stale="1h", tags=["user:{user}"])
    memoized(shop, text, ttl=lambda result: 60)
    called(7), called(7)
    header, *lines = rows(shop("cache", "ls"))
    assert header == ["function", "fresh", "stale", "calls", "hit rate", "saved"]
    assert lines[0][:-1] == ["shop.profile", "10m", "1h", "2", "50.0%"]
    assert lines[1] == ["shop.text", "by result", "-", "0", "-", "0s"]
    first, second = shop.json("cache", "ls")
    assert (first["function"], first["ttl"], first["stale"], first["tags"]) == ("shop.profile", 600, 3600, 1)
    assert (first["calls"], first["hit_rate"], second["ttl"], second["calls"]) == (2, 0.5, None, 0)
    for alias in (["stats"], ["cache", "stats"]):
        assert shop.json(*alias)["shop.profile"]["calls"] == 2


def test_nothing_is_memoized(shop: Shop) -> None:
    assert shop("cache", "ls") == 'nothing is memoized: write @kit.memoize("10m") above a function\n'
    assert shop.json("cache", "ls") == []
    assert shop.json("cache", "stats") == {}
    assert shop.refused("cache", "bust", "x", status=1) == "there is no memoized function 'x'; there are: none"


def test_one_call_explained(shop: Shop) -> None:
    fn = memoized(shop, profile, tags=["user:{user}"])
    fn(7, {"a": 1}, deep=True)
    call = ["profile", "7", '{"a": 1}', "deep=true"]
    told = shop("cache", "explain", *call).splitlines()
    assert told[:2] == [
        "shop.profile(7, {'a': 1}, deep=True)",
        "fresh: the next call is answered from Redis",
    ]
    assert told[-2:] == [told[-2], "  tag       user:7"]
    found = shop.json("cache", "explain", *call)
    assert (found["state"], found["tags"], found["key"]) == ("fresh", ["user:7"], fn.memo.key(7, {"a": 1}, deep=True))
    assert 0 <= found["age"] < 600 - found["fresh_for"] + 1
    other = shop.json("cache", "explain", "shop.profile", "8")
    assert (other["state"], other["age"]) == ("missing", None)
    shop.kit.cache.invalidate(tag="user:7")
    assert shop("cache", "explain", *call).splitlines()[1].startswith("invalidated: ")
    assert fn.memo.stats().calls == 1, "nothing of this is counted"


@pytest.mark.parametrize(
    ("hint", "word", "value"),
    [
        (str, "7", "7"),
        (str, '"7"', "7"),
        (str, "null", "null"),
        (str | None, "null", None),
        (int | None, "null", None),
        (int, "7", 7),
        (int, "-7", -7),
        (Any, "7", 7),
        (Any, "seven", "seven"),
        (Any, "NaN", "NaN"),
        (Any, "[" * 100_000, "[" * 100_000),
        (dt.date, "2024-05-01", dt.date(2024, 5, 1)),
        (Decimal, "1.5", Decimal("1.5")),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (list[int], "[1, 2]", [1, 2]),
        ("Unknown", "7", 7),
        (object(), "7", 7),
        (Any, "a=b", "a=b"),
        (Any, "it", "it"),
    ],
)
def test_a_word_is_what_the_annotation_says(shop: Shop, hint: Any, word: str, value: Any) -> None:
    def fn(it):
        return 1

    fn.__annotations__["it"] = hint
    call = memoized(shop, fn)
    for words in ([word], [f"it={word}"]):
        assert shop.json("cache", "explain", "fn", *words)["key"] == call.memo.key(value)


def test_words_in_order_by_name_and_the_rest(shop: Shop) -> None:
    def fn(first: str, /, *more: int, by: str = "", **rest: int):
        return 1

    call = memoized(shop, fn)
    found = shop.json("cache", "explain", "fn", "1", "2", "3", "by=x", "other=4")
    assert found["key"] == call.memo.key("1", 2, 3, by="x", other=4)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "missing a required argument: 'user'"),
        (["x"], "user cannot be 'x'"),
        (["1", "{}", "3", "4"], "too many positional arguments"),
        (["1", "user=2"], "multiple values for argument 'user'"),
        (["1", "--jsno"], "fields cannot be '--jsno'"),
    ],
)
def test_a_call_that_does_not_fit_shows_the_signature(shop: Shop, words: list[str], why: str) -> None:
    memoized(shop, profile)
    for verb in ("explain", "invalidate"):
        told = shop.refused("cache", verb, "profile", *words)
        assert told.startswith("shop.profile(user: ")
        assert told.endswith(f"-> int: {why}")


def test_names_that_are_wrong_list_what_there_is_the_likeliest_first(shop: Shop) -> None:
    for name in ("aardvark", "profile"):
        memoized(shop, profile, name)
    assert shop.refused("cache", "explain", "shop.profil", "7", status=1) == (
        "there is no memoized function 'shop.profil'; there are: shop.profile, shop.aardvark"
    )
    assert shop.refused("cache", "explain", "zzz", "7", status=1).endswith("there are: shop.aardvark, shop.profile")
    assert "there is no" in shop.refused("cache", "explain", "rofile", "7", status=1)
    memoized(shop, profile, "old.profile")
    assert shop.refused("cache", "explain", "profile", "7") == (
        "profile may be shop.old.profile or shop.profile; write it in full"
    )
    assert shop.json("cache", "explain", "shop.profile", "7")["state"] == "missing"


def test_forgetting_one_call(shop: Shop) -> None:
    fn = memoized(shop, profile)
    fn(7), fn(8)
    assert shop("cache", "invalidate", "profile", "user=7") == "forgotten: shop.profile(user=7)\n"
    assert (fn.memo.peek(7), fn.memo.peek(8)) == (None, 1)
    assert shop("cache", "invalidate", "profile", "7") == "nothing was cached of shop.profile(7)\n"
    assert shop.json("cache", "invalidate", "profile", "8") == {"call": "shop.profile(8)", "forgotten": True}


def test_forgetting_by_tag(shop: Shop) -> None:
    fn = memoized(shop, profile, tags=["user:{user}"])
    fn(7), fn(8), fn(9)
    assert shop("cache", "invalidate", "--tag", "user:7", "--tag", "user:8") == (
        "forgotten: all that was under user:7, user:8\n"
    )
    assert [fn.memo.peek(user) for user in (7, 8, 9)] == [None, None, 1]
    for words in ([], ["profile", "7", "--tag", "user:7"]):
        done = shop.run("cache", "invalidate", *words)
        assert done.exit_code == 2
        assert "or --tag TAG" in done.stderr


def test_forgetting_a_whole_function(shop: Shop) -> None:
    fn = memoized(shop, profile)
    fn(7), fn(8)
    assert shop("cache", "bust", "profile") == "shop.profile: 2 entries forgotten\n"
    fn(7)
    assert shop("cache", "bust", "profile") == "shop.profile: 1 entry forgotten\n"
    assert shop.json("cache", "bust", "profile") == {"function": "shop.profile", "forgotten": 0}


def test_a_bound_task_is_called_without_itself(shop: Shop) -> None:
    def price(self, sku: str) -> int:
        return 1

    price.__module__ = "shop"
    task = shop.app.task(bind=True)(shop.kit.memoize("1h")(price))
    task("a")
    name = next(iter(shop.kit.memos))
    assert shop.json("cache", "explain", name, "a")["state"] == "fresh"
    assert shop("cache", "invalidate", name, "a").startswith("forgotten: ")
    assert "(sku: str)" in shop.refused("cache", "explain", name)


def test_a_key_that_fails_is_told_with_its_line(shop: Shop) -> None:
    memoized(shop, profile, key=lambda user, **_: 1 // user)
    told = shop.refused("cache", "explain", "profile", "0")
    assert "shop.profile has a key or tag that failed: ZeroDivisionError: " in told
    assert f"({__file__}, line " in told


def test_text_of_the_user_steers_no_terminal(shop: Shop) -> None:
    memoized(shop, text, "[red]\x1b]0;x\x07", tags=["{sku}"])
    for words in (["ls"], ["explain", "[red]\x1b]0;x\x07", "\x1b[31m[bold]\u202e"], ["explain", "\x1b"]):
        done = shop.run("cache", *words)
        told = done.stdout + done.stderr
        assert not {"\x1b", "\x07", "\u202e"} & set(told)
        assert "\\x1b" in told
    assert "[bold]\\u202e" in shop("cache", "explain", "[red]\x1b]0;x\x07", "\x1b[31m[bold]\u202e")


def test_of_several_kits_the_one_that_is_meant(shop: Shop) -> None:
    second = shop.another(namespace="second")
    here = memoized(shop, profile)
    profile.__qualname__ = "profile"
    there = second.memoize("1h")(profile)
    here(7), there(7), there(8)
    assert [(each["kit"], each["calls"]) for each in shop.json("cache", "ls")] == [("wk", 1), ("second", 2)]
    assert shop.json("stats")["shop.profile"]["calls"] == 3
    assert shop.json("cache", "ls", "--kit", "second")[0]["ttl"] == 3600
    assert shop.refused("cache", "bust", "profile") == (
        "several of the app's kits have a memoized function shop.profile; write --kit wk or --kit second"
    )
    assert shop.json("cache", "bust", "profile", "--kit", "second")["forgotten"] == 2
    assert here.memo.peek(7) == 1
    assert shop.refused("cache", "ls", "--kit", "third") == "there is no kit 'third'; the app's are wk, second"


def test_kits_of_one_namespace_are_numbered(shop: Shop) -> None:
    shop.another()
    assert shop.refused("cache", "ls", "--kit", "wk") == "there is no kit 'wk'; the app's are wk#1, wk#2"
    assert shop.json("cache", "ls", "--kit", "wk#2") == []
