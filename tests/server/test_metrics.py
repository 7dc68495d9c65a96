"""Metrics for Prometheus: what a process counted, and the fleet as the command line shows and serves it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from tests.rig import until
from workerkit import Job, WorkerKit
from workerkit.cli.exposition import METRICS, PREFIX
from workerkit.cli.plugin import workerkit
from workerkit.core.events import StoreDown
from workerkit.errors import DefinitionError, StoreError
from workerkit.telemetry.prometheus import instrument
from workerkit.testing.servers import RunningServer

SECRET = "hunter2-key"


class Rows(BaseModel):
    rows: int = 0


class Shop:
    """An app with one of everything, counted in a registry of its own."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.app.conf.task_always_eager = True
        self.kit = kit = WorkerKit(self.app, url=url, hooks=[], **settings)
        self.registry = CollectorRegistry()
        instrument(kit, registry=self.registry)
        self.limiter = kit.limiter("api", "10/h")

        @kit.memoize("10m", l1=True)
        def price(sku: str) -> int:
            return 19

        @kit.task(name="shop.load")
        @kit.job(Rows, owner="{owner}")
        def load(job: Job[Rows], owner: str) -> None:
            job.add(rows=1)

        self.price, self.load = price, load
        kit.warmup(price, every="1h", args=["a"], name="prices")

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"workerkit_{name}", labels)

    def series(self) -> int:
        return sum(len(family.samples) for family in self.registry.collect())

    def run(self, *words: str) -> Result:
        obj = SimpleNamespace(app=self.app)
        return CliRunner(env={"COLUMNS": "80"}).invoke(workerkit, ["metrics", *words], obj=obj)


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    made = Shop(redis_url)
    yield made
    made.kit.close()


def used(shop: Shop, times: int = 12) -> None:
    for _ in range(times):
        shop.price(SECRET)
        shop.limiter.try_acquire(SECRET)
    shop.load.delay(SECRET)
    shop.kit.warmups["prices"].run()
    shop.kit.engine.flusher.flush()


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by the names of samples and the values of labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels[name] for name in sorted(sample.labels))] = (
                sample.value
            )
    return found


def promtool(*arguments: str, text: str = "") -> None:
    if shutil.which("promtool") is None:
        reason = "needs promtool: apt-get install prometheus"
        if os.environ.get("WORKERKIT_REQUIRE_SERVERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


# -- this process


def test_a_process_counts_what_its_ledgers_and_events_say(shop: Shop) -> None:
    used(shop)
    stats = shop.price.memo.stats()
    assert shop.value("cache_calls_total", function=shop.price.memo.function.shown, outcome="miss") == stats.misses == 1
    assert shop.value("cache_calls_total", function=shop.price.memo.function.shown, outcome="l1") == stats.l1 > 0
    assert shop.value("cache_computations_total", function=shop.price.memo.function.shown) == stats.computations
    assert shop.value("limiter_decisions_total", limiter="api", outcome="admitted") == 10
    assert shop.value("limiter_decisions_total", limiter="api", outcome="refused") == 2
    assert shop.value("job_attempts_started_total", task="shop.load") == 1
    assert shop.value("job_attempts_ended_total", task="shop.load", outcome="success") == 1
    assert shop.value("warmup_ticks_total", warmup="prices", outcome="run") == 1
    shop.kit.engine.hooks.emit(StoreDown("cache", "no answer"))
    assert shop.value("store_outages_total", store="cache") == 1


def test_the_number_of_series_does_not_grow_with_keys(shop: Shop) -> None:
    used(shop)
    before, shown = shop.series(), shop.run().stdout.count("\n")
    for number in range(3000):
        shop.limiter.try_acquire(f"account-{number}")
        shop.price(f"sku-{number}")
    shop.load.delay("another owner")
    shop.kit.engine.flusher.flush()
    assert shop.value("limiter_decisions_total", limiter="api", outcome="admitted") == 3010
    assert shop.series() == before
    assert shop.run().stdout.count("\n") == shown


def test_what_could_not_be_sent_is_counted_once_it_is(private_server: Callable[..., RunningServer]) -> None:
    server = private_server(tcp=True)
    shop = Shop(server.url, timeout=2)
    decided: dict[str, str] = {"limiter": "api", "outcome": "admitted"}
    shop.limiter.try_acquire("a")
    server.kill()
    with pytest.raises(Exception, match=r"cannot be reached|is down|outcome"):
        shop.kit.engine.flusher.flush()
    assert shop.value("limiter_decisions_total", **decided) is None
    server.start()
    until(lambda: _flushed(shop))
    until(lambda: shop.value("limiter_decisions_total", **decided))
    assert shop.value("limiter_decisions_total", **decided) == 1
    shop.kit.close()


def _flushed(shop: Shop) -> bool:
    try:
        shop.kit.engine.flusher.flush()
    except StoreError:  # the breaker lets nobody through yet
        return False
    return True


def test_one_registry_takes_all_kits_in_one_call(redis_url: str) -> None:
    registry = CollectorRegistry()
    one, other = (WorkerKit(url=redis_url, namespace=name, hooks=[]) for name in ("one", "other"))
    instrument(one, other, registry=registry)
    for kit in (one, other):
        kit.engine.hooks.emit(StoreDown("cache", ""))
    assert registry.get_sample_value("workerkit_store_outages_total", {"store": "cache"}) == 2
    with pytest.raises(DefinitionError, match=r"instrument\(kit, other\)"):
        instrument(one, registry=registry)


def test_a_watcher_that_fails_disturbs_nobody(shop: Shop) -> None:
    class Broken:
        def event(self, event: object) -> None:
            raise ValueError

        cached = limited = lambda self, *_: self.event(None)

    shop.kit.engine.flusher.watchers.insert(0, Broken())
    used(shop)
    assert shop.value("limiter_decisions_total", limiter="api", outcome="admitted") == 10


# -- the fleet


def test_the_fleets_metrics_parse_and_say_what_the_fleet_did(shop: Shop) -> None:
    used(shop)
    done = shop.run()
    assert done.exit_code == 0, done.output
    found = parsed(done.stdout)
    assert {name.removeprefix(PREFIX) for name in found} <= METRICS.keys()
    assert found["workerkit_fleet_store_up"] == {("wk", "cache"): 1, ("wk", "guard"): 1}
    assert found["workerkit_fleet_cache_calls_total"][shop.price.memo.function.shown, "wk", "miss"] == 1
    assert found["workerkit_fleet_limiter_decisions_total"]["api", "wk", "refused"] == 2
    assert found["workerkit_fleet_jobs"]["wk", "success"] == 1
    assert found["workerkit_fleet_warmup_last_run_calls"]["wk", "warmed", "prices"] == 1
    promtool("check", "metrics", text=done.stdout)


def test_each_metric_of_the_table_is_exposed_by_some_fleet(shop: Shop, redis_server: RunningServer) -> None:
    used(shop)
    redis_server.cli("CONFIG", "SET", "maxmemory", "1gb")
    try:
        found = parsed(shop.run().stdout)
    finally:
        redis_server.cli("CONFIG", "SET", "maxmemory", "0")
    assert {name.removeprefix(PREFIX) for name in found} == METRICS.keys()


def test_json_has_the_same_values(shop: Shop) -> None:
    used(shop)
    told = json.loads(shop.run("--json").stdout)
    again = parsed(shop.run().stdout)
    steady = [each for each in told if "calls" in each["name"] or "limiter" in each["name"]]
    assert steady
    for each in steady:
        labels = tuple(each["labels"][name] for name in sorted(each["labels"]))
        assert again[each["name"]][labels] == each["value"]


def test_no_metric_has_a_secret(private_server: Callable[..., RunningServer]) -> None:
    server = private_server(tcp=True, args=("--requirepass", "s3cret-pass"))
    shop = Shop(server.url.replace("redis://", "redis://:s3cret-pass@"))
    used(shop)
    texts = shop.run().stdout + shop.run("--json").stdout
    texts += str([family.samples for family in shop.registry.collect()])
    assert "workerkit_fleet_jobs" in texts
    assert SECRET not in texts
    assert "s3cret-pass" not in texts
    shop.kit.close()


def test_redis_down_is_one_line_and_exit_code_2() -> None:
    done = Shop("redis://:s3cret-pass@127.0.0.1:1/0").run()
    assert done.exit_code == 2
    assert done.stderr.startswith("workerkit: ")
    assert done.stderr.count("\n") == 1
    assert (done.stdout, "s3cret-pass" in done.stderr) == ("", False)


@pytest.mark.parametrize(
    ("listen", "words"),
    [("0.0.0.0:9469", "write --listen 127.0.0.1:9469"), ("example.com:80", "loopback"), ("9469x", "is no address")],
)
def test_metrics_are_served_on_loopback_alone(shop: Shop, listen: str, words: str) -> None:
    done = shop.run("--listen", listen)
    assert (done.exit_code, words in done.stderr) == (2, True), done.output


def test_a_port_that_is_taken_is_one_line(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = shop.run("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (done.exit_code, "write another port" in done.stderr) == (2, True), done.output


def test_without_prometheus_client_it_says_what_to_install(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = shop.run()
    assert (done.exit_code, "pip install 'workerkit[prometheus]'" in done.stderr) == (2, True), done.output


APP = """
import os
from celery import Celery
from workerkit import WorkerKit
app = Celery("shop", broker="memory://")
kit = WorkerKit(app, url=os.environ["STORE"])
"""


def test_metrics_are_served_until_ctrl_c_also_while_redis_is_down(
    private_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    server = private_server(tcp=True)
    (tmp_path / "shop.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "STORE": server.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "workerkit.cli.main", "-A", "shop", "metrics", "--listen", str(port)]
    serving = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert serving.stderr is not None
        assert serving.stderr.readline() == f"http://127.0.0.1:{port}/metrics until Ctrl+C\n"

        def up() -> dict[tuple[str, ...], float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                return parsed(answer.read().decode())["workerkit_fleet_store_up"]

        assert up() == {("wk", "cache"): 1, ("wk", "guard"): 1}
        server.kill()
        assert up() == {("wk", "cache"): 0, ("wk", "guard"): 0}
        server.start()
        until(lambda: up() == {("wk", "cache"): 1, ("wk", "guard"): 1})
        serving.send_signal(signal.SIGINT)
        assert serving.wait(20) == 0
    finally:
        serving.kill()
        serving.communicate()
