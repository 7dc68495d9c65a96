"""The benches run, and write what docs/benchmarks.md says; no timing is judged here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workerkit.testing.servers import start_server

ROOT = Path(__file__).parents[2]
BENCHES = ROOT / "scripts" / "benches"
sys.path.append(str(BENCHES))  # not in front: the bench `limits` would stand before the library of that name

_growth, _hits, _pairs, _place, _report, _rows, _run, _stampede, _subjects, cache_bench = map(
    importlib.import_module,
    ("_growth", "_hits", "_pairs", "_place", "_report", "_rows", "_run", "_stampede", "_subjects", "cache"),
)
_limits_bound, _limits_local, _limits_memory, _limits_rows, _limits_subjects = map(
    importlib.import_module,
    ("_limits_bound", "_limits_local", "_limits_memory", "_limits_rows", "_limits_subjects"),
)


def loaded(path):
    """The module of a file, under a name that nobody else has."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


limits_bench = loaded(BENCHES / "limits.py")
admissions = loaded(ROOT / "scripts" / "plots" / "admissions.py")

PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
SLOW = ("cache.hit.sync.keys", "cache.hit.async.callers")
FAST = [case for case in cache_bench.CASES if case.name.startswith("cache.hit") and not case.name.startswith(SLOW)]
FAST += [
    case
    for case in limits_bench.CASES
    if case.name.startswith(("limits.decision", "limits.refusal.window", "limits.multi", "limits.concurrency.4"))
]


def row(**changed):
    figures = {"name": "cache.x", "unit": "us", "ours": 3.0, "peer": 6.0, "peer_name": "peer", "ratio": 0.5}
    return _rows.Row(**{**figures, "min": 0.4, "max": 0.7, "rounds": 3, **changed})


@pytest.fixture(scope="module")
def redis_server(require):
    """One for all benches, and by TCP: not every peer knows unix sockets."""
    require("valkey")
    with start_server("valkey", tcp=True) as server:
        yield server


@pytest.fixture
def run(redis_server, redis_url):
    return _rows.Run(redis_server, quick=True, rounds=2, slice=0.0005)


@pytest.mark.parametrize("case", FAST, ids=lambda case: f"{case.name}-{case.peer}")
def test_a_case_gives_rows_of_the_documented_shape(case, run, tmp_path):
    try:
        rows = list(case.rows(run))
    except _rows.Skip as reason:
        pytest.skip(str(reason))
    assert {each.pinned for each in rows} == {False, hasattr(os, "sched_setaffinity")}
    file = tmp_path / "rows.json"
    _report.write_json(file, rows, _place.machine(run.server))
    written = json.loads(file.read_text())
    assert set(written) == {"machine", "rows"}
    assert {"cpu", "cores", "python", "server", "packages"} <= set(written["machine"])
    for each in written["rows"]:
        assert {"name", "unit", "ours", "peer", "peer_name", "ratio", "rounds", "goal", "met"} <= set(each)
        assert each["name"].startswith(case.name)
        assert min(each["ours"], each["peer"], each["ours_cpu"]) > 0
        assert each["min"] <= each["ratio"] <= each["max"]
        assert each["rounds"] == 2


def test_sizes_grow_and_all_are_hits(run, monkeypatch):
    monkeypatch.setattr(_growth, "SIZES", (10, 30, 100))
    monkeypatch.setattr(_growth, "REAL", 20)
    monkeypatch.setattr(_growth, "BATCH", 25)
    names = [each.name for each in _growth._sizes(run) if not each.pinned]
    assert names == [f"cache.hit.sync.keys.{size}" for size in (10, 30, 100)]
    held = run.server.cli("DBSIZE")
    assert held >= 100


def test_every_row_of_the_design_is_a_case():
    names = {case.name for case in cache_bench.CASES}
    for wanted in ("hit.sync", "hit.async", "hit.l1", "hit.tags", "stampede", "submit"):
        assert f"cache.{wanted}" in names
    names = {case.name for case in limits_bench.CASES}
    for algorithm in ("window", "gcra", "fixed"):
        for kind in ("decision", "decision.aio", "refusal", "memory"):
            assert f"limits.{kind}.{algorithm}" in names
    assert {"limits.multi", "limits.local", "limits.concurrency.64", "limits.concurrency.aio.64"} <= names


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        ({}, None),
        ({"ratio": 0.5}, True),
        ({"ratio": 0.49}, False),
        ({"ratio": 0.5, "ours": 2.9}, False),
        ({"computations": 1}, True),
        ({"computations": 0}, False),
    ],
)
def test_a_goal_is_met_when_all_of_it_is(goal, met):
    assert row(goal=goal, extra={"computations": 1}).met is met


def test_a_wrong_answer_is_not_timed(run):
    ours, wrong = _subjects.workerkit(run.url), contextlib.nullcontext(lambda user_id: None)
    with pytest.raises(ValueError, match="a hit answered None"):
        next(_hits.sync_rows(run, "cache.x", "peer", ours, wrong))


def test_the_ratio_is_of_pairs():
    took = _pairs.Took
    pairs = [(took(1.0, 1.0), took(2.0, 4.0)), (took(9.0, 1.0), took(10.0, 1.0)), (took(3.0, 1.0), took(4.0, 1.0))]
    found = _pairs.summary(pairs, scale=10)
    assert (found["ratio"], found["min"], found["max"], found["rounds"]) == (0.75, 0.5, 0.9, 3)
    assert (found["ours"], found["peer"]) == (30.0, 40.0)


def test_the_sides_take_turns():
    order = []
    _pairs.pairs(lambda calls: order.append("ours"), lambda calls: order.append("peer"), rounds=4, seconds=0)
    assert order[-8:] == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]


@pytest.mark.skipif(len(CORES) < 2, reason="pinning needs Linux and two cores")
def test_pinned_is_one_core_and_undone(run):
    with _place.placed(run.server.pid, pinned=True):
        mine, its = os.sched_getaffinity(0), os.sched_getaffinity(run.server.pid)
    assert mine == its
    assert len(mine) == 1
    assert os.sched_getaffinity(0) == os.sched_getaffinity(run.server.pid) == CORES


def test_a_stampede_counts_what_happened(run):
    seen = []

    class Crew:
        def do(self, function, *args):
            seen.append(args)
            return [
                _stampede.Seen([(0.0, 1.2), (1.5, 1.6)], [(0.0, 1.0)]),
                _stampede.Seen([(0.1, 1.05)], [(0.5, 1.5)]),
            ]

    came = _stampede.stampede(Crew(), "subject", run.url, "key", 1000)
    assert came.computations == 2
    assert came.added == pytest.approx([0.2, 0.1, 0.05])
    assert seen[0][:4] == ("subject", run.url, "key", 1000 // _stampede.PROCESSES)


def versus(**changed):
    fields = {
        "name": "limits.x",
        "ours": _limits_subjects.ours(),
        "peer": _limits_subjects.ours(),
        "rates": ("9/hour",),
    }
    return _limits_rows.Versus(**{**fields, **changed})


@pytest.mark.parametrize("aio", [False, True])
@pytest.mark.parametrize(("rate", "admitted"), [("9/hour", True), ("100000/second", False)])
def test_a_decision_that_is_not_what_the_row_is_about_is_not_timed(rate, admitted, aio, run, monkeypatch):
    monkeypatch.setattr(_limits_rows, "MOST", 100)
    asked = versus(rates=(rate,), admitted=admitted)
    with pytest.raises(ValueError, match="decisions were admissions, not"):
        list((asked.aio() if aio else asked.sync()).rows(run))


def test_the_library_is_found_though_the_bench_has_its_name(monkeypatch):
    pytest.importorskip("limits")
    monkeypatch.setitem(sys.modules, "limits", limits_bench)
    monkeypatch.syspath_prepend(BENCHES)
    assert _limits_subjects.library().strategies.STRATEGIES
    assert sys.modules["limits"] is limits_bench
    assert str(BENCHES) in sys.path


@pytest.mark.parametrize("seed", range(20))
def test_most_within_counts_what_certainly_lies_in_one_period(seed):
    dice = random.Random(seed)
    spans = [(begin, begin + dice.choice([0, 0.1, 0.5, 1])) for begin in (dice.randrange(60) / 10 for _ in range(40))]
    brute = max(sum(began <= begin and end < began + 1 for begin, end in spans) for began, _ in spans)
    assert _limits_bound.most_within(spans, 1) == brute
    assert _limits_bound.most_within([], 1) == 0


@pytest.mark.parametrize(("admitted", "over"), [(2000, 0), (2001, 1)])
def test_local_leases_are_held_against_the_bound(admitted, over, run, monkeypatch):
    class Crew:
        def do(self, function, *args):
            return [[(n / 10_000, n / 10_000) for n in range(admitted)]]

    monkeypatch.setattr(_limits_local, "Crew", lambda size: contextlib.nullcontext(Crew()))
    rows = list(_limits_local.local(versus(rates=("100000/second",), goal={"over": 0})).rows(run))
    assert {each.extra["over"] for each in rows} == {over}
    assert rows[0].met is (over == 0)


def test_a_hammering_process_tells_of_its_admissions(run):
    until = time.monotonic() + 0.05
    spans = _limits_local.hammer(run.url, {"lease_tokens": "auto"}, 0.0, until)
    assert spans
    assert all(begin <= end for begin, end in spans)
    assert max(begin for begin, _ in spans) < until


def test_memory_is_of_so_many_keys_that_were_charged_alike(run, monkeypatch):
    monkeypatch.setattr(_limits_memory, "SIZES", (10, 25, 30))
    monkeypatch.setattr(_limits_memory, "FEW", 10)
    monkeypatch.setattr(_limits_memory, "BATCH", 7)
    monkeypatch.setattr(_limits_memory, "PERIOD", 0.01)
    rows = list(_limits_memory.memory(versus(rates=("100000/minute",), goal={"ours": 512})).rows(run))
    assert [each.name for each in rows if not each.pinned] == [
        f"limits.x.{size}{kind}" for size in (10, 30) for kind in ("", ".time")
    ]
    assert all(100 < each.ours < 2000 for each in rows if each.unit == "B")
    assert len(run.server.cli("KEYS", "*:w")) == 30
    names = [each.name for each in _limits_memory.flat(versus(rates=("100000/minute",))).rows(run) if not each.pinned]
    assert names == ["limits.x.30"]


def test_what_would_not_fit_is_skipped(run, monkeypatch):
    monkeypatch.setattr(_limits_memory, "ROOM", 1000)
    monkeypatch.setattr(_limits_memory, "PERIOD", 0.01)
    with pytest.raises(_rows.Skip, match="keys would take more than"):
        list(_limits_memory.memory(versus(rates=("100000/second",))).rows(run))


def test_the_plot_of_admissions_counts_the_latest_period(tmp_path):
    times, counts = admissions.latest([0.25, 0.5, 1.5])
    assert (times, counts) == ([0.0, 0.25, 0.5, 1.25, 1.5, 1.5, 2.5], [0, 1, 2, 1, 0, 1, 0])
    story = admissions.Story("window", 3, [(0.25, 0.25), (0.5, 0.5), (1.5, 1.5)], [0.4, 0.6, 0.8])
    assert list(story.figures().values()) == [3, 3, 2, 3]
    assert admissions.markdown([story], admissions.whole).endswith("| window | 3 | 3 | 2 | 3 |")
    pytest.importorskip("matplotlib")
    admissions.draw(tmp_path / "plot.svg", [story])
    assert "window" in (tmp_path / "plot.svg").read_text()


def test_a_failing_case_is_told_and_the_others_go_on(run, capsys):
    def failing(run):
        yield row()
        raise ValueError("what went wrong")

    def skipped(run):
        raise _rows.Skip("nothing to compare with")

    cases = [
        _rows.Case("a", "x", failing),
        _rows.Case("b", "y", skipped),
        _rows.Case("c", "z", lambda run: iter([row()])),
    ]
    rows, failed = _run.measured(cases, run)
    assert (len(rows), failed) == (2, 1)
    said = capsys.readouterr().out
    assert "a (x) FAILED: ValueError: what went wrong" in said
    assert "b (y) skipped: nothing to compare with" in said


@pytest.mark.server
@pytest.mark.parametrize(("error", "code"), [(ValueError("wrong"), 1), (_rows.Skip("absent"), 0)])
def test_the_exit_code_tells_of_a_failed_row(error, code, require, monkeypatch, tmp_path):
    require("valkey")

    def case(run):
        yield row()
        raise error

    cases = (_rows.Case("cache.a", "x", lambda run: iter([row(name="cache.a")])), _rows.Case("cache.b", "y", case))
    monkeypatch.setattr(cache_bench, "CASES", cases)
    file = tmp_path / "rows.json"
    assert _run.main(["cache.a", "cache.b", "--json", str(file)]) == code
    assert json.loads(file.read_text())["rows"][0]["name"] == "cache.a"


def test_a_table_goes_where_the_page_has_a_place_for_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: cache -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        _report.replace_block(page, "cache", _report.markdown([row(goal={"ratio": 0.4})], _machine()))
    text = page.read_text()
    assert text.startswith("before\n<!-- bench: cache -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert text.count("`cache.x`") == 1
    assert "**NO**" in text
    with pytest.raises(ValueError, match="bench: other"):
        _report.replace_block(page, "other", "x")


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    _report.plot(tmp_path / "rows.png", [row(), row(pinned=True, goal={"ratio": 0.6})])
    assert (tmp_path / "rows.png").stat().st_size > 1000


def test_without_a_name_the_benches_are_listed():
    done = subprocess.run([ROOT / "scripts" / "bench"], capture_output=True, text=True, check=True)
    assert {"cache", "limits", "admissions", "interrupts", "stampede"} <= set(done.stdout.split())
    assert not any(name.startswith("_") for name in done.stdout.split())


@pytest.mark.parametrize("words", [["nothing"], ["cache", "nothing"], ["cache.hit.nothing"], ["cache", "interrupts"]])
def test_a_name_that_is_none_is_refused(words):
    with pytest.raises(SystemExit, match="scripts/bench: error: "):
        _run.main(words)


def test_the_pages_name_what_is_there():
    stampedes = (ROOT / "docs" / "explanation" / "stampedes.md").read_text()
    assert "<!-- bench: cache -->" in PAGE
    assert "<!-- bench: stampede -->" in stampedes
    for page, text in ((ROOT / "docs", PAGE), (ROOT / "docs" / "explanation", stampedes)):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page / target).exists(), target
    for name in re.findall(r"scripts/bench (\w+)", PAGE + stampedes):
        assert list(ROOT.glob(f"scripts/*/{name}.py")), name


def _machine():
    return {"cpu": "c", "cores": 2, "python": "3", "server": "s", "transport": "t", "packages": {}}
