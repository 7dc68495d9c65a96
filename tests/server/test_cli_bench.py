"""`workerkit bench` against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.server.cli_rig import Shop, rows, runner
from workerkit import bench
from workerkit.cli import bench as command
from workerkit.cli import main
from workerkit.testing.servers import RunningServer

KINDS = ["PING", "cached value", "memoized hit", "limiter decision", "fenced job write"]


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    yield shop
    shop.close()


def test_each_kind_of_call_is_measured_and_nothing_stays(shop: Shop, redis_server: RunningServer) -> None:
    redis_server.cli("SET", "mine", "1")
    figures = shop.json("bench", "--seconds", "0.2")
    assert [each["name"] for each in figures] == KINDS
    assert all(each["calls"] >= 1 and 0 < each["p50"] <= each["p99"] and each["per_second"] > 0 for each in figures)
    assert redis_server.cli("KEYS", "*") == ["mine"]


def test_a_url_needs_no_app(redis_url: str) -> None:
    done = runner().invoke(main.main, ["bench", "--url", redis_url, "--seconds", "0.1"])
    assert (done.exit_code, done.stderr) == (0, "")
    header, *lines = rows(done.stdout)
    assert header == ["calls", "p50", "p99", "a second"]
    assert [line[0] for line in lines[:5]] == KINDS
    assert all(line[2].endswith(" ms") for line in lines[:5])


def test_slow_calls_are_warned_of(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = bench.Figure("PING", 100, 4.0, 7.25, 250.0)
    monkeypatch.setattr(command, "run", lambda settings, seconds: [slow, slow._replace(name="GET", p99=5.0)])
    assert shop("bench").splitlines()[-1] == "slow: 1 PING in 100 takes longer than 7.2 ms; 5 ms would do"
    assert [each["slow"] for each in shop.json("bench")] == [True, False]


def test_without_a_redis_it_says_so(shop: Shop) -> None:
    assert "redis://localhost:1/0 (workerkit_redis_url) cannot be reached" in shop.refused(
        "bench", "--url", "redis://localhost:1/0"
    )
    done = runner().invoke(main.main, ["bench"])
    assert (done.exit_code, done.stdout, "write --url" in done.stderr) == (2, "", True)


def test_one_of_several_kits(shop: Shop) -> None:
    shop.another(namespace="second")
    assert shop.refused("bench") == "the app has several kits; write --kit wk or --kit second"
    assert len(json.loads(shop("bench", "--kit", "wk", "--seconds", "0.1", "--json"))) == 5


def test_percentiles_are_of_what_calls_took(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, *[sum(range(n + 1)) / 1000 for n in range(1, 201)]])  # the nth takes n ms
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    figure = bench._measured("x", lambda: None, sum(range(200)) / 1000 + 0.0005)
    assert (figure.calls, round(figure.p50, 6), round(figure.p99, 6)) == (200, 100.0, 198.0)
    assert figure.per_second == pytest.approx(200 / (sum(range(201)) / 1000))
