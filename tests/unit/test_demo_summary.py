"""Every figure of the demo can be missed: a good run holds them all, and each defect is told by the figure for it."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from workerkit.cache.ledger import CacheStats
from workerkit.demo import summary
from workerkit.demo.findings import Findings, Outage
from workerkit.demo.referee import Verdict
from workerkit.demo.screen import line, panel
from workerkit.limits.decision import Decision
from workerkit.testing.drill import WRITES


def good() -> Findings:
    """A run in which all is well: ten lookups, an import of 300 rows with one batch done twice."""
    expected = {f"id-{number}": f"value-{number}" for number in range(10)} | {"import": 300, "audit": 1}
    return Findings(
        seed=1,
        began=0.0,
        wanted=12,
        expected=expected,
        lookups={*expected} - {"import", "audit"},
        results={key: {"status": "SUCCESS", "result": value, "retries": 0} for key, value in expected.items()},
        executions=[{"id": key, "state": "SUCCESS", "retries": 0} for key in expected],
        events=Counter({"throttle.parked": 2, "warm.tick": 3}),
        warmed="warmed=10 fresh=30 failed=0 left=0",
        calls_ms=[0.2] * 99 + [4.0],
        rows=[*range(1, 151), *range(101, 301)],
        rows_wanted=300,
        verdict=Verdict(calls=20, rejected=0, violations=0, max_in_any_second=50, max_concurrent=5),
        stats=CacheStats(hits=8, misses=2, computations=2),
        limit=Decision(True, 12, 0.0, 1.0, ""),
        job=job(attempt=2),
        children={101: 100, 102: 100, 103: 100, 201: 200, 202: 200},
        reports=[*((float(at), "acme") for at in range(10)), *((2.5, "bolt") for _ in range(10))],
        frozen=202,
        refused=dict.fromkeys(WRITES, "JobFenced"),
        audit=SimpleNamespace(attempt=2, status="SUCCESS", data=SimpleNamespace(rows=1)),
        outage=Outage(began=10.0, ended=11.0, served=11.5, parked=7),
        top="DEMO_HOME=/tmp/wk-demo-x workerkit -A workerkit.demo.app top",
        killed=[102],
        pool_max=2,
        duration=20.0,
        notes=["  1.0 s  up"],
    )


def job(attempt: int) -> SimpleNamespace:
    progress, data = SimpleNamespace(done=150, total=300), SimpleNamespace(rows=150, pid=103)
    return SimpleNamespace(attempt=attempt, status="RUNNING", progress=progress, data=data)


def changed(meta: str, task_id: str = "id-3", **fields: object) -> dict[str, dict[str, object]]:
    results = good().results
    return {meta: {**results, task_id: {**results[task_id], **fields}}}


def without(task_id: str) -> dict[str, dict[str, object]]:
    return {key: value for key, value in good().results.items() if key != task_id}


DEFECTS = [
    ("jobs_sent", {"wanted": 13}),
    ("jobs_done", {"results": without("import")}),
    ("jobs_done", changed("results", status="FAILURE")),
    ("jobs_done", changed("results", result="value-4")),
    ("jobs_done", changed("results", "import", result=299)),
    ("upstream_calls", {"verdict": Verdict(0, 0, 0, 1, 1)}),
    ("upstream_rejected", {"verdict": Verdict(20, 1, 0, 50, 5)}),
    ("max_in_any_second", {"verdict": Verdict(20, 0, 1, 51, 5)}),
    ("max_concurrent", {"verdict": Verdict(20, 0, 0, 50, 6)}),
    ("hit_rate", {"stats": CacheStats(hits=79, misses=21)}),
    ("redis_p50_ms", {"calls_ms": [4.0] * 49 + [5.0] * 51}),
    ("redis_p99_ms", {"calls_ms": [0.2] * 98 + [5.0] * 2}),
    ("redis_p99_ms", {"calls_ms": []}),
    ("import_rows", {"rows": list(range(1, 300))}),
    ("import_lost", {"rows": [*range(1, 300), 301]}),
    ("import_repeated", {"rows": [*range(1, 301), *range(1, 202)]}),
    ("import_attempts", {"job": job(attempt=1)}),
    ("import_attempts", {"job": None}),
    ("kills", {"killed": []}),
    ("kills", {"killed": [102, 103]}),
    ("zombie_refused", {"refused": {**dict.fromkeys(WRITES, "JobFenced"), "add": ""}}),
    ("zombie_refused", {"refused": {}}),
    ("zombie_counted", {"audit": SimpleNamespace(data=SimpleNamespace(rows=2))}),
    ("zombie_counted", {"audit": None}),
    ("unfair_share", {"reports": [*((1.0, "acme") for _ in range(9)), *((2.0, "bolt") for _ in range(10))]}),
    ("unfair_share", {"reports": [(2.0, "acme"), *((1.0, "bolt") for _ in range(9))]}),
    ("unfair_share", {"reports": []}),
    ("crashes", {"outage": Outage()}),
    ("crashes", {"outage": Outage(began=10.0, parked=7)}),
    ("parked_at_crash", {"outage": Outage(10.0, 11.0, 11.5, parked=0)}),
    ("serving_again_s", {"outage": Outage(10.0, 11.0, 16.1, parked=7)}),
    ("serving_again_s", {"outage": Outage(10.0, 11.0, None, parked=7)}),
    ("retries_burned", changed("results", retries=1)),
    ("retries_burned", {"executions": [{"id": "id-1", "state": "SUCCESS", "retries": 1}]}),
    ("retries_burned", {"executions": [{"id": "id-1", "state": "RETRY", "retries": 0}]}),
    ("pool_max_seen", {"pool_max": 51}),
    ("pool_max_seen", {"pool_max": 0}),
    ("left_behind", {"left_behind": ["worker"]}),
    ("duration_s", {"duration": 60.2}),
]


def test_a_good_run_holds_every_figure():
    report = summary.report(good())
    assert report["missed"] == []
    assert report["ok"] is True
    assert (report["jobs_done"], report["hit_rate"], report["redis_p99_ms"]) == (12, 0.8, 0.2)
    assert (report["import_rows"], report["import_lost"], report["import_repeated"]) == (300, 0, 50)
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(("figure", "defect"), DEFECTS)
def test_each_defect_is_told(figure, defect):
    report = summary.report(replace(good(), **defect))
    assert figure in report["missed"]
    assert report["ok"] is False


def test_every_bounded_figure_has_a_defect_above():
    assert {figure.name for figure in summary.figures(good()) if figure.bound} == {name for name, _ in DEFECTS}


def test_percentiles_are_nearest_rank():
    found = replace(good(), calls_ms=[float(number) for number in range(100, 0, -1)])
    assert (found.percentile_ms(50), found.percentile_ms(99), found.percentile_ms(100)) == (50.0, 99.0, 100.0)


def test_the_table_names_what_was_missed():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary.table(replace(good(), killed=[])))
    told = [row for row in console.export_text().splitlines() if row.startswith("kills")]
    assert len(told) == 1
    assert "MISSED" in told[0]


@pytest.mark.parametrize("found", [Findings(1, 0.0, 11, rows_wanted=300), good()], ids=["nothing yet", "running"])
@pytest.mark.parametrize("width", [80, 200])
def test_the_screen_fits(found, width):
    found.notes += [f"{number:5.1f} s  {'something happened ' * 8}" for number in range(9)]
    console = Console(width=width, height=24, record=True, file=io.StringIO())
    console.print(panel(found))
    lines = console.export_text().splitlines()
    assert len(lines) <= 23, "a live screen needs a line for the cursor"
    assert {len(each) for each in lines} == {width}
    assert len(line(found)) < 160


def test_the_screen_shows_how_things_stand():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(panel(good()))
    text = console.export_text()
    for said in (
        "80.0% hits",
        "150 of 300",
        "attempt 2",
        "38 of 50 used",
        "102 killed",
        "103 import",
        "20 calls",
        "acme 10 of 90 · bolt 10 of 10",
        "202 woke up · 9 of its 9 writes refused",
        "back after 1.0 s",
        good().top,
    ):
        assert said in text


def test_the_screen_shows_what_is_under_way():
    console = Console(width=80, record=True, file=io.StringIO())
    audit = SimpleNamespace(attempt=1, status="RUNNING")
    console.print(panel(replace(good(), refused={}, audit=audit, outage=Outage(began=time.monotonic() - 3, parked=7))))
    text = console.export_text()
    for said in ("202 frozen · attempt 1 RUNNING", "201  202 frozen", "down for 3.", "7 tasks parked in it"):
        assert said in text


def test_a_command_that_is_longer_than_the_screen_is_folded_and_not_cut():
    top = f"DEMO_HOME=/tmp/wk-demo-x {'/a-folder' * 9}/workerkit -A workerkit.demo.app top"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(panel(replace(good(), top=top)))
    text = console.export_text()
    assert top.replace(" ", "") in "".join(line.strip("│ ") for line in text.splitlines()).replace(" ", "")
    assert len(text.splitlines()) <= 23


@pytest.mark.parametrize("figure", ["redis_p50_ms", "redis_p99_ms", "serving_again_s"])
def test_what_is_timed_is_judged_more_mildly_where_others_compute(figure):
    slow = replace(good(), calls_ms=[12.0] * 98 + [40.0] * 2, outage=Outage(10.0, 11.0, 24.0, parked=7))
    assert figure in summary.report(slow)["missed"]
    assert summary.report(replace(slow, busy=True))["missed"] == []
