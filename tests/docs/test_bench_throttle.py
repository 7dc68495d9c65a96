"""The bench of throttled tasks counts what real workers did; no timing is judged here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from workerkit.errors import RateLimited

ROOT = Path(__file__).parents[2]
BENCHES = ROOT / "scripts" / "benches"
sys.path.append(str(BENCHES))  # not in front: the bench `limits` would stand before the library of that name

_throttle, _stories, _report = map(importlib.import_module, ("_throttle", "_stories", "_report"))


def loaded(path):
    """The module of a file, under a name that nobody else has."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = loaded(ROOT / "scripts" / "plots" / "throttle.py")
FIGURES = {
    "done",
    "lost",
    "no result",
    "wrong results",
    "starts",
    "most starts in any 1 s",
    "first burst, s",
    "makespan, s",
    "of ideal",
    "deliveries a task",
    "deliveries, p99",
    "deliveries, most",
    "retries, most",
}


def story(way="ours", starts=(0.0, 0.5, 1.0, 2.2), **changed):
    """Four tasks at two a second, unless told otherwise."""
    seen = {"starts": list(starts), "deliveries": [1, 1, 2, 6], "retries": 0, "done": 4, "lost": 0, "wrong": 0}
    return bench.Story(way, 2, 4, _throttle.Seen(**{**seen, **changed}))


def test_figures():
    figures = story(done=1, lost=2, wrong=1, retries=5).figures()
    assert figures == {
        "done": 1,
        "lost": 2,
        "no result": 1,
        "wrong results": 1,
        "starts": 4,
        "most starts in any 1 s": 2,
        "first burst, s": 0.5,
        "makespan, s": 2.2,
        "of ideal": 2.2,  # two tasks after the first two, at two a second
        "deliveries a task": 2.5,
        "deliveries, p99": 6,
        "deliveries, most": 6,
        "retries, most": 5,
    }
    assert set(figures) == FIGURES
    assert story(starts=[0.0, 0.3]).of_ideal == 1.0
    assert story(starts=[]).figures()["first burst, s"] == story(starts=[]).makespan == 0.0


@pytest.mark.parametrize(("moment", "count"), [(0.0, 1), (0.99, 2), (1.0, 2), (1.4, 2), (2.1, 0), (2.2, 1), (3.2, 0)])
def test_the_plot_shows_the_starts_of_the_last_second(moment, count):
    assert story().latest(moment) == count


def test_percentile():
    assert bench.percentile(list(range(1, 101)), 99) == 99
    assert bench.percentile([7, 5], 99) == 7
    assert bench.percentile([5, 7], 50) == 5


def test_the_table_stands_on_its_side():
    table = _stories.table(bench.lines([story(), story("peer", done=3)]), _report.figure)
    assert table[0] == ["", "ours", "peer"]
    assert table[1] == ["done", "4", "3"]
    assert {line[0] for line in table[1:]} == FIGURES


def test_rows_are_beside_those_who_did_it_all():
    ours = story(starts=[0.0, 0.1, 0.2, 1.1])
    peers = [story("all", starts=[0.0, 0.5, 1.0, 4.4]), story("some", done=3, lost=1)]
    (row,) = (each.json() for each in bench.rows(ours, peers))
    assert (row["name"], row["unit"], row["peer_name"]) == ("throttle.saturated", "s", "all")
    assert (row["ours"], row["peer"], row["ratio"]) == (1.1, 4.4, 0.25)
    assert (row["of_ideal"], row["mean_deliveries"], row["over"], row["met"]) == (1.1, 2.5, 1, False)
    assert list(bench.rows(story(done=3), peers)) == []


@pytest.mark.parametrize(
    ("starts", "deliveries", "met"),
    [
        ([0, 0.01, 1.0, 1.02], [2, 2, 2, 2], True),
        ([0, 0.01, 1.0, 1.04], [2, 2, 2, 2], False),
        ([0, 0.01, 0.9, 1.02], [2, 2, 2, 2], False),
        ([0, 0.01, 1.0, 1.02], [2, 2, 2, 3], False),
    ],
)
def test_the_goal_is_time_deliveries_and_the_limit(starts, deliveries, met):
    ours = story(starts=starts, deliveries=deliveries)
    assert [row.met for row in bench.rows(ours, [story("peer")])] == [met]


def test_moments_and_deliveries_are_read_from_notes():
    assert _throttle.moments(["1700000001500000", "1700000001000000"]) == [0.0, 0.5]
    assert _throttle.moments([]) == []
    assert _throttle.counted(["0 0", "2 0", "0 1", "0 2"], 4) == ([3, 0, 1, 0], 2)
    assert _throttle.counted([], 2) == ([0, 0], 0)


class Backend:
    """Answers each task once, by what it was told to."""

    def __init__(self, ends):
        self.ends = ends
        self.asked = Counter()

    def get_many(self, ids, **options):
        self.asked.update(ids)
        return [(uuid, self.ends[uuid]) for uuid in ids if self.asked[uuid] == 2 and uuid in self.ends]


def fake_app(monkeypatch, ends):
    """What `watch` needs of an app whose task number n ends like `ends[n]`."""
    monkeypatch.setattr(_throttle, "_workers", lambda app: contextlib.nullcontext())
    control = SimpleNamespace(add_consumer=lambda queue, **options: [{}] * _throttle.WORKERS)
    tasks = {"fake.task": SimpleNamespace(delay=lambda n: SimpleNamespace(id=str(n)))}
    backend = Backend({str(n): {"status": status, "result": result} for n, (status, result) in ends.items()})
    lists = {"starts": ["1000000", "2000000"], "deliveries": ["0 0", "1 0", "1 1"]}
    return SimpleNamespace(
        __name__="fake",
        app=SimpleNamespace(
            control=control, tasks=tasks, backend=backend, conf=SimpleNamespace(task_default_queue="q")
        ),
        answer=lambda n: 2 * n + 1,
        seen=SimpleNamespace(lrange=lambda name, first, last: lists[name]),
    )


def test_every_end_is_counted_and_every_result_compared(monkeypatch):
    ends = {0: ("SUCCESS", 1), 1: ("SUCCESS", 4), 2: ("FAILURE", RateLimited()), 3: ("SUCCESS", 7)}
    seen = _throttle.watch(fake_app(monkeypatch, ends), "task", 5, limit=0.1)
    assert seen == _throttle.Seen([0.0, 1.0], [1, 2, 0, 0, 0], retries=1, done=3, lost=1, wrong=1)


def test_another_failure_is_no_figure(monkeypatch):
    with pytest.raises(RuntimeError, match="1 tasks failed, the first with KeyError"):
        _throttle.watch(fake_app(monkeypatch, {0: ("FAILURE", KeyError("x"))}), "task", 1, limit=9.0)


def test_workers_that_do_not_begin_are_told(monkeypatch):
    module = fake_app(monkeypatch, {})
    module.app.control.add_consumer = lambda queue, **options: [{}]
    with pytest.raises(TimeoutError, match="only 1 of 2 workers have begun"):
        _throttle.watch(module, "task", 1, limit=9.0)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    bench.draw(tmp_path / "plot.svg", [story(), story("peer", lost=1, done=3)])
    drawn = (tmp_path / "plot.svg").read_text()
    assert "ours: 4 done; 2.2 s, 2.5 deliveries a task" in drawn
    assert "peer: 3 done, 1 lost; " in drawn


@pytest.mark.heavy
@pytest.mark.server
@pytest.mark.worker
def test_a_quick_run_with_real_workers(require, monkeypatch, tmp_path, capsys):
    require("valkey")
    for name in ("URL", "RATE"):
        monkeypatch.setenv(f"WORKERKIT_BENCH_{name}", "")  # so that it is as it was afterwards
    monkeypatch.setenv("WORKERKIT_TIMEOUT", "10")  # a machine that stalls for a second is no fault
    monkeypatch.setattr(bench, "QUICK", 30)
    file, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text("<!-- bench: throttle -->\n<!-- end -->\n")
    words = ["--quick", "--rate", "20", "--limit", "10", "--json", str(file), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["throttle", *words])
    assert bench.main() == 0
    found = json.loads(file.read_text())
    assert set(found) == {"machine", "rows", "stories"}
    assert set(found["stories"]) == set(bench.WAYS)
    for figures in found["stories"].values():
        assert set(figures) == FIGURES
        assert figures["starts"] >= figures["done"] >= 20
        assert figures["deliveries a task"] > 1.0
        assert figures["wrong results"] == 0
    assert found["stories"]["kit.throttle"]["done"] == 30
    assert found["stories"]["kit.throttle"]["retries, most"] == 0
    assert found["stories"]["retry(countdown)"]["retries, most"] > 0
    assert {"name", "unit", "ours", "peer", "peer_name", "ratio", "rounds", "goal", "met"} <= set(found["rows"][0])
    assert "30 tasks sent at once, 20/s" in capsys.readouterr().out
    assert "|  | kit.throttle | retry(countdown) |" in page.read_text()
