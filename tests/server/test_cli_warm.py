"""`celery -A app workerkit warm ...`, as a user reads it, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import Result

from tests.rig import at_once
from tests.server.cli_rig import runner
from workerkit import WorkerKit
from workerkit.cli import warmrun
from workerkit.cli.plugin import workerkit


class Shop:
    """An app whose tasks run at once where they are sent, its kit, and what is warmed."""

    def __init__(self, url: str) -> None:
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.app.conf.task_always_eager = True
        self.kit = WorkerKit(self.app, url=url, hooks=[print])
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()

        @self.kit.memoize("10h")
        @self.kit.throttle(self.kit.limiter("api", "1000/s"))
        def price(item: Any, *, currency: str = "EUR") -> float:
            print("computing")
            self.begun.set()
            self.go.wait(30)
            if item == "BAD":
                raise LookupError(item)
            return 1.5

        self.price = price

    def warm(self, name: str, *args: Any, **options: Any) -> Any:
        return self.kit.warmup(self.price, **{"name": name, "every": "2h", "args": args, **options})

    def __call__(self, *words: str, status: int = 0) -> str:
        done = self.run(*words)
        assert done.exit_code == status, done.output
        return done.stdout

    def run(self, *words: str) -> Result:
        obj = SimpleNamespace(app=self.app)
        return runner().invoke(workerkit, ["warm", *words], obj=obj)

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status))


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    yield shop
    shop.go.set()
    shop.kit.close()


class Time:
    """The command's own clock: what happens while it sleeps."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self.sleep = sleep


def rows(text: str) -> list[list[str]]:
    """A table's cells, which two blanks divide."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_how_they_stand(shop: Shop) -> None:
    shop.warm("[red]news", "a")
    shop.warm("prices", "a", "b", "BAD", every="20h").run()
    shop.warm("off", "a", cron="0 6 29 2 *", every=None).pause()

    def broken() -> list[str]:
        raise RuntimeError("no list today")

    with pytest.raises(RuntimeError):
        shop.kit.warmup(shop.price, every="1m", args=broken, name="broken").run()
    header, *lines = rows(shop("ls"))
    assert header == ["name", "schedule", "next", "last run", "runs", "state"]
    assert [[line[0], line[1], *line[3:]] for line in lines[:4]] == [
        ["[red]news", "every 2h", "-", "0", "never run"],
        ["prices", "every 20h", "2 warmed, 1 failed", "1", "idle"],
        ["off", "cron 0 6 29 2 *", "-", "0", "paused"],
        ["broken", "every 1m", "nothing", "1", "failed"],
    ]
    assert [line[2][:3] for line in lines[:4]] == ["in ", "in ", "-", "in "]
    assert lines[4:] == [["broken failed: RuntimeError: no list today"]]
    news, prices, off, broken_ = shop.json("ls")
    assert (news["last"], news["runs"], news["state"], news["on_start"]) == (None, 0, "never run", False)
    assert prices["last"] == {"warmed": 2, "fresh": 0, "failed": 1, "left": 0}
    assert (off["paused"], broken_["reason"]) == (True, "RuntimeError: no list today")


def test_columns_that_say_something_fit_80_columns(shop: Shop) -> None:
    shop.warm("the whole catalog of all shops", *range(30), cron="0 6 * * 1-5", every=None).run()
    with shop.kit.client() as client:
        (key,) = client.keys("*warmup*:state*")
        client.hset(key, mapping={"missed": 1234, "overlaps": 5678})
    told = shop("ls")
    assert max(map(len, told.splitlines())) <= 80
    assert {"missed", "overlaps", "1,234", "5,678", "idle"} <= set(told.split())


def test_a_plan_in_its_order_and_what_it_would_leave_alone(shop: Shop) -> None:
    warmup = shop.warm("prices", *"abcde", before="1m", budget="20%")
    for item in "abcd":
        shop.price(item)
    header, pick, total, *skips = rows(shop("plan", "prices"))
    assert header == ["call", "cost", "score"]
    assert pick[0] == "price('e')"
    assert total == [f"to refresh: 1 call in about {pick[1]}; 20% of api: 200/s"]
    assert [skip[0].split(" for ")[0] for skip in skips] == [
        "left alone: 4 fresh",
        *(f"price('{item}') fresh" for item in "abc"),
    ]
    (told,) = shop.json("plan", "prices", "--most", "2")
    assert (told["name"], told["calls"], told["share"], told["skipped"]) == (
        "prices",
        1,
        "20% of api: 200/s",
        {"fresh": 4},
    )
    assert [each["call"] for each in told["picks"]] == ["price('e')"]
    assert [each["call"] for each in told["skips"]] == ["price('a')", "price('b')"]
    assert warmup.status().runs == 0


def test_a_plan_of_many_long_calls(shop: Shop) -> None:
    shop.warm("prices", "[red]x", "y" * 500, *range(100))
    told = shop("plan", "prices", "--most", "2").splitlines()
    assert told[1].startswith("price('[red]x')  ")
    assert max(map(len, told)) <= 80
    assert told[-2:] == ["and 100 more", told[-1]]
    assert told[-1].startswith("to refresh: 102 calls in about ")
    assert all(f"'{'y' * 46}..." in text for text in (told[2], shop.json("plan", "prices")[0]["picks"][1]["call"]))


def test_a_plan_of_nothing(shop: Shop) -> None:
    shop.warm("prices", "a").run()
    assert shop("plan", "prices").startswith("to refresh: nothing\nleft alone: 1 fresh\n  price('a') fresh for ")


def test_handed_to_the_workers(shop: Shop) -> None:
    sent: list[str] = []
    shop.warm("prices", "a")
    shop.warm("start", "b", on_start=True)
    shop.kit.engine.host.warm = lambda namespace, name, *_: sent.append(name)  # type: ignore[method-assign]  # a broker
    assert shop("run", "--deploy") == "start: handed to the workers\n"
    assert shop("run", "prices", "start", "prices", status=1) == (
        "prices: handed to the workers\nstart: refused: another run is under way\n"
    )
    assert sent == ["start", "prices"]
    assert [each["state"] for each in shop.json("ls")] == ["running", "running"]


def test_waiting_for_what_the_workers_do(shop: Shop) -> None:
    shop.warm("prices", "a", "b", "BAD")
    shop.warm("bad", "BAD")
    told = shop("run", "prices", "bad", "--wait", status=1).splitlines()
    assert [line.rpartition(" in ")[0] for line in told] == [
        "prices: done: 2 warmed, 1 failed",
        "bad: failed: 1 failed",
    ]
    (run,) = shop.json("run", "prices", "--wait")
    assert (run["name"], run["state"], run["warmed"], run["fresh"], run["reason"]) == ("prices", "done", 0, 2, "")


def test_waiting_for_the_run_of_another(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    warmup = shop.warm("prices", "a")
    shop.go.clear()
    monkeypatch.setattr(warmrun, "time", Time(lambda _: shop.go.set()))
    other = threading.Thread(target=warmup.run)
    other.start()
    assert shop.begun.wait(30)
    assert shop("run", "prices", status=1) == "prices: refused: another run is under way\n"
    assert shop("run", "prices", "--here", status=1) == "prices: refused: another run is under way\n"
    assert shop("run", "prices", "--wait", "--timeout", "0", status=1) == (
        "prices: has not ended in time; is there a worker to run it?\n"
    )
    assert shop("run", "prices", "--wait").startswith("prices: done: 1 warmed in ")
    assert warmup.status().runs == 1
    other.join()


def test_a_run_that_no_worker_took_in_time_is_handed_over_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    warmup, host = shop.warm("prices", "a"), shop.kit.engine.host
    deliver, sent = host.warm, list[Any]()
    monkeypatch.setattr(host, "warm", lambda *message: deliver(*message) if sent else sent.append(message))

    naps = iter(range(5))

    def lapse(_: float) -> None:
        next(naps)
        with shop.kit.client() as client:
            client.delete("none", *client.keys("*warmup*:run"))

    monkeypatch.setattr(warmrun, "time", Time(lapse))
    assert shop("run", "prices", "--wait").startswith("prices: done: 1 warmed in ")
    assert (len(sent), warmup.status().runs) == (1, 1)


def test_in_this_process(shop: Shop) -> None:
    def broken() -> list[str]:
        raise RuntimeError("no list today")

    shop.warm("prices", "a", on_start=True)
    shop.kit.warmup(shop.price, every="2h", args=broken, name="broken", on_start=True)
    shop.app.conf.task_always_eager = False
    told = shop("run", "--deploy", "--here", status=1).splitlines()
    assert told[0].startswith("prices: done: 1 warmed in ")
    assert told[1:] == ["broken: failed: RuntimeError: no list today"]


def test_pause_and_resume_say_whether_that_changed_anything(shop: Shop) -> None:
    warmups = [shop.warm("prices", "a"), shop.warm("news", "a")]
    assert shop("pause", "prices") == "prices: paused\n"
    assert shop("pause", "prices", "news") == "prices: paused already\nnews: paused\n"
    assert [each.status().paused for each in warmups] == [True, True]
    assert shop.json("resume", "news") == [{"name": "news", "changed": True}]
    assert shop("resume", "prices", "news") == "prices: resumed\nnews: not paused\n"
    assert [each.status().paused for each in warmups] == [False, False]


def test_history(shop: Shop) -> None:
    warmup = shop.warm("prices", "a", "BAD")
    assert shop("history", "prices") == "never run\n"
    warmup.run_due()
    warmup.run()
    header, *lines = rows(shop("history", "prices"))
    assert header == ["ended", "took", "warmed", "fresh", "failed", "left", "why"]
    assert [line[2:] for line in lines] == [["0", "1", "1", "0", "asked for"], ["1", "0", "1", "0", "due"]]
    (run,) = shop.json("history", "prices", "--most", "1")
    assert (run["name"], run["fresh"], run["tick"]) == ("prices", 1, None)


def test_all_kits_of_an_app(shop: Shop, redis_url: str) -> None:
    shop.warm("prices", "a")
    with WorkerKit(shop.app, url=redis_url, namespace="second", hooks=[]) as second:
        fn = second.memoize("1h")(lambda: 1)
        for name in ("prices", "news"):
            second.warmup(fn, every="2h", args=[()], name=name)
        assert [each["name"] for each in shop.json("ls")] == ["prices", "prices", "news"]
        assert shop("pause", "prices", "news") == "prices: paused\nprices: paused\nnews: paused\n"
        assert second.warmups["prices"].status().paused


def test_what_cannot_be_is_told_in_one_line(shop: Shop) -> None:
    assert shop("ls") == 'no warmup is declared: write kit.warmup(fn, every="5m", args=[...])\n'
    assert shop("run", "--deploy") == "nothing has on_start=True\n"
    shop.warm("prices", "a")
    shop.warm("news", 1)
    for words in (["plan", "x"], ["run", "news", "x"], ["pause", "prices", "x"], ["resume", "x"], ["history", "x"]):
        done = shop.run(*words)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == "workerkit: there is no warmup 'x'; there are: news, prices\n"
    assert not any(each["paused"] or each["runs"] for each in shop.json("ls"))
    for words in (["run"], ["run", "prices", "--deploy"]):
        done = shop.run(*words)
        assert done.exit_code == 2
        assert "write the names of the warmups to run, or --deploy for those with on_start=True" in done.stderr


def test_a_broker_that_is_down_is_one_line_a_warmup(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any) -> None:
        raise ConnectionRefusedError("the broker is down")

    shop.warm("prices", "a")
    shop.warm("news", "a")
    monkeypatch.setattr(shop.kit.engine.host, "warm", down)
    lines = [f"{name}: failed: ConnectionRefusedError: the broker is down\n" for name in ("prices", "news")]
    assert shop("run", "prices", "news", status=1) == "".join(lines)


MODULE = """
import os
from celery import Celery
from workerkit import WorkerKit
print("the app's own words")
app = Celery("shop", broker="memory://")
kit = WorkerKit(app, url=os.environ["STORE"])

@kit.memoize("10m")
def price(sku: str) -> float:
    return 1.5

kit.warmup(price, every="5m", args=["a"])
"""


def command(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STORE": url, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_both_command_lines(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "shop.py").write_text(MODULE)
    lines = [
        (redis_url, "-m", "celery", "-A", "shop", "workerkit", "warm", "ls"),
        (redis_url, "-P", "-m", "workerkit.cli.main", "-A", "shop", "warm", "run", "--here", "price"),
        (redis_url, "-P", "-m", "workerkit.cli.main", "-A", "shop", "stats"),
        ("redis://localhost:1/0", "-m", "celery", "-A", "shop", "workerkit", "warm", "ls"),
        (redis_url, "-P", "-m", "workerkit.cli.main", "-A", "shap", "warm", "ls"),
        (redis_url, "-P", "-m", "workerkit.cli.main", "warm", "ls"),
        (redis_url, "-c", "import sys, celery.bin.celery; print([name for name in sys.modules if 'cli' in name])"),
    ]
    ls, run, stats, down, wrong, none, light = at_once(
        [lambda line=line: command(tmp_path, *line) for line in lines]  # type: ignore[misc]  # one of them each
    )
    assert rows(ls.stdout)[2][:2] == ["price", "every 5m"], ls.stderr
    assert run.stdout.splitlines()[-1].startswith("price: done: 1 warmed in "), run.stderr
    assert (stats.returncode, "function" in stats.stdout or "nothing counted" in stats.stdout) == (0, True)
    assert (down.returncode, down.stderr.count("\n")) == (2, 1)
    assert "localhost:1/0 (workerkit_redis_url) cannot be reached" in down.stderr
    assert (wrong.returncode, wrong.stderr) == (2, "workerkit: -A shap: ModuleNotFoundError: No module named 'shap'\n")
    assert none.returncode == 2
    assert "write workerkit -A shop" in none.stderr
    assert "workerkit.cli.plugin" in light.stdout
    assert "workerkit.cli.warm" not in light.stdout


def test_what_the_app_prints_is_no_part_of_the_answer(shop: Shop) -> None:
    shop.warm("prices", "a")
    done = shop.run("run", "prices", "--here", "--json")
    assert json.loads(done.stdout)[0]["warmed"] == 1
    assert done.stderr.startswith("computing\nWarmTick")
