"""The bench of warming counts what readers and warmups did; no timing is judged here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHES = ROOT / "scripts" / "benches"
sys.path.append(str(BENCHES))  # not in front: the bench `limits` would stand before the library of that name

_warm, _stories, _report = map(importlib.import_module, ("_warm", "_stories", "_report"))


def loaded(path):
    """The module of a file, under a name that nobody else has."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = loaded(ROOT / "scripts" / "plots" / "warm.py")
LOAD = _warm.Load(seed=1, seconds=10.0, keys=20, hot=2, ttl=2.0, every=1.0, rate=4, readers=2)
A, B, C = LOAD.ranking[:3]  # by popularity


def seen(way="hot", *, reads=(), calls=(), runs=(), reported=(), load=LOAD):
    """A read is (moment, key); a call (moment, key, whether by a reader); a run (began, ended, keys)."""
    return _warm.Seen(
        way,
        load,
        sorted(reads),
        [_warm.Call(*call) for call in sorted(calls)],
        [_warm.Run(began, ended, frozenset(keys)) for began, ended, keys in runs],
        list(reported),
    )


def test_a_seed_is_the_same_reads():
    assert LOAD.reads(0) == LOAD.reads(0) != LOAD.reads(1)
    assert LOAD.reads(0) != LOAD._replace(seed=2).reads(0)
    assert len(LOAD.reads(0)) == 20
    assert sorted(LOAD.ranking) == list(range(20))
    assert LOAD.ranking != list(range(20))


def test_reads_are_zipfs():
    load = LOAD._replace(rate=40_000)
    often = Counter(load.reads(0))
    counts = [often[key] for key in load.ranking]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.05)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)


def test_a_hit_is_a_read_that_computed_nothing():
    it = seen(reads=[(n, A) for n in range(8)], calls=[(0, A, True), (3, B, False), (5, A, True)])
    assert (it.paid, it.hit_rate) == (2, 75.0)
    part = it.within(1, 6)
    assert (len(part.reads), len(part.calls), part.paid, part.hit_rate) == (5, 2, 1, 80.0)
    assert seen().hit_rate == 0.0
    assert LOAD.settled == 3.0
    assert (len(it.late.reads), len(it.late.calls)) == (5, 2)


def test_a_moment_belongs_to_one_part():
    it = seen(reads=[(n, A) for n in range(6)], calls=[(n, A, True) for n in range(6)])
    parts = [it.within(n, n + 2) for n in (0, 2, 4)]
    assert [len(part.reads) for part in parts] == [len(part.calls) for part in parts] == [2, 2, 2]


def test_popular_keys_are_so_in_truth():
    it = seen(reads=[(1, A), (2, C)], calls=[(1, A, True), (2, C, True)])
    assert [len(it.popular(most).reads) for most in (1, 2, 3)] == [1, 1, 2]
    assert [it.popular(most).paid for most in (1, 2, 3)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("call", "broken"),
    [
        ((0.5, A, True), 0),  # no run has finished
        ((1.1, A, True), 0),
        ((1.6, A, True), 1),
        ((1.6, A, False), 0),
        ((1.6, B, True), 0),
        ((2.2, A, True), 1),
        ((2.2, B, True), 0),  # newly in the plan of the run under way
        ((2.6, B, True), 1),
        ((3.2, A, True), 0),  # no longer in it
        ((3.6, A, True), 0),
        ((3.6, B, True), 1),
    ],
)
def test_what_is_kept_warm_has_been_in_each_plan_since_the_last_finished_run(call, broken):
    runs = [(1.0, 1.5, [A]), (2.0, 2.5, [A, B]), (3.0, 3.5, [B])]
    assert seen(calls=[call], runs=runs).broken == broken


def test_what_is_known_is_compared_with_the_truth(monkeypatch):
    monkeypatch.setattr(_warm, "REPORTED", 2)
    it = seen(reads=[(1, A), (2, A), (3, B), (4, C)], reported=[A, C])
    assert it.overlap([A, B]) == 50.0
    assert it.most_read == [A, C]  # B was read as often: either will do
    assert seen(reads=it.reads, reported=[A, 99]).most_read[0] == A
    assert seen(reads=it.reads, reported=[A, 99]).overlap(it.most_read) == 50.0


def told():
    """Four ways, of which the oracle has no misses after the first cycle but one."""
    reads = [(n / 10, A if n % 2 else C) for n in range(100)]
    ways = {
        "none": [(4.0 + n / 10, A, True) for n in range(20)],
        "everything": [(4.0 + n / 10, n % 20, False) for n in range(40)],
        "hot": [(4, C, True), (5, C, True), *((6 + n / 10, A, False) for n in range(8))],
        "oracle": [(4, C, True), *((6 + n / 10, A, False) for n in range(9))],
    }
    runs = {"hot": [(0.0, 0.5, [A]), (1.0, 1.7, [A])]}
    known = {"hot": [A, C]}
    return {
        way: seen(way, reads=reads, calls=calls, runs=runs.get(way, ()), reported=known.get(way, ()))
        for way, calls in ways.items()
    }


def test_the_table_has_the_ways_beside_each_other():
    table = _stories.table(bench.lines(list(told().values())), _report.figure)
    assert table[0] == ["", *_warm.WAYS]
    by_name = {name: cells for name, *cells in table[1:]}
    assert by_name["upstream calls"] == ["20", "40", "10", "10"]
    assert by_name["computed by readers"] == ["20", "0", "2", "1"]
    assert by_name["by the warming"] == ["0", "40", "8", "9"]
    assert by_name["of the 2 hottest, by readers"] == ["20", "0", "0", "0"]
    assert by_name["of those kept warm, by readers"] == ["", "", "0", ""]
    assert by_name["longest run, s"] == ["", "", "0.7", ""]


def test_a_curve_has_a_line_for_each_life():
    table = _stories.table(bench.moments(list(told().values()), "upstream calls a second"), _report.figure)
    assert table == [
        ["", *_warm.WAYS],
        ["2 s", "0", "0", "0", "0"],
        ["4 s", "0", "0", "0", "0"],
        ["6 s", "10", "10", "1", "0.5"],
        ["8 s", "0", "10", "4", "4.5"],
        ["10 s", "0", "0", "0", "0"],
    ]


def test_rows_are_beside_the_oracle_and_everything():
    misses, calls = (row.json() for row in bench.rows(told()))
    assert (misses["name"], misses["peer_name"]) == ("warm.zipf.misses", "oracle")
    assert misses["points"] == pytest.approx(100 / 70)
    assert (misses["broken"], misses["unknown"], misses["calls_apart"], misses["met"]) == (0, 0.0, 0.0, True)
    assert (calls["name"], calls["peer_name"], calls["ratio"], calls["met"]) == (
        "warm.zipf.calls",
        "everything",
        0.25,
        True,
    )


def test_goals_are_missed_one_by_one():
    good = told()
    hot = good["hot"]
    for changed in (
        hot._replace(calls=[*hot.calls, *[_warm.Call(8.0, C, True)] * 2]),  # points, and more calls
        hot._replace(calls=[_warm.Call(4.0, A, True), *hot.calls[1:]]),  # a key that is kept warm
        hot._replace(reported=[A, B]),
        hot._replace(calls=hot.calls[:-1]),
    ):
        assert next(bench.rows({**good, "hot": changed})).met is False
    more = hot._replace(calls=[*hot.calls, *[_warm.Call(8.0, C, False)] * 11])
    assert list(bench.rows({**good, "hot": more}))[1].met is False
    worse = hot._replace(calls=[_warm.Call(4.0, A, True), *hot.calls[1:]])
    assert list(bench.rows({**good, "hot": worse}))[1].met is False


def test_the_oracle_spends_as_many_calls(monkeypatch, capsys):
    asked = []

    def watch(way, load):
        asked.append(load.hot)
        calls = [(5.0, key, False) for key in load.ranking[: load.hot]] + [(5.0, C, True)] * 4
        return seen(way, calls=calls, load=load)

    monkeypatch.setattr(bench, "watch", watch)
    ours = seen(calls=[(5.0, A, False)] * 11)
    found = bench.even(ours, LOAD._replace(hot=4))
    assert asked == [4, 7]
    assert len(found.calls) == 11
    assert found.load.hot == 4
    assert "oracle: +3 calls to ours; again, with 7 keys" in capsys.readouterr().out
    asked.clear()
    bench.even(seen(calls=[(5.0, A, False)] * 500), LOAD._replace(hot=4))
    assert len(asked) == bench.TRIES


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    bench.draw(tmp_path / "plot.svg", list(told().values()))
    drawn = (tmp_path / "plot.svg").read_text()
    assert "hot: 97.1% hits, 10 upstream calls, 2 of them by readers" in drawn
    assert all(name in drawn for name in bench.CURVES)


@pytest.mark.heavy
@pytest.mark.server
def test_a_quick_run(require, monkeypatch, tmp_path, capsys):
    require("valkey")
    monkeypatch.setenv("WORKERKIT_TIMEOUT", "10")  # a machine that stalls for a second is no fault
    file, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text("<!-- bench: warm -->\n<!-- end -->\n")
    monkeypatch.setattr(bench, "TRIES", 1)
    words = ["--seconds", "8", "--rate", "400", "--seed", "7", "--json", str(file), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["warm", *words])
    assert bench.main() == 0
    found = json.loads(file.read_text())
    assert set(found) == {"machine", "load", "rows", "stories", "curves"}
    assert [row["name"] for row in found["rows"]] == ["warm.zipf.misses", "warm.zipf.calls"]
    assert list(found["stories"]) == list(_warm.WAYS)
    assert [len(curve) for by_way in found["curves"].values() for curve in by_way.values()] == [4] * 12
    for way, figures in found["stories"].items():
        assert figures["reads"] > 0
        assert figures["computed by readers"] > 0
        assert (figures["by the warming"] > 0) == (way != "none")
        assert figures["upstream calls"] == figures["computed by readers"] + figures["by the warming"]
    said = capsys.readouterr().out
    assert "seed 7" in said
    assert "upstream calls a second" in said
    assert "|  | none | everything | hot | oracle |" in page.read_text()
