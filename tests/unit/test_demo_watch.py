"""The demo's watch never sees a result without what led to it, and only takes a run for complete when it is."""

from __future__ import annotations

import json

import pytest

from workerkit.cache.ledger import CacheStats
from workerkit.demo import app as project
from workerkit.demo.evidence import Evidence
from workerkit.demo.findings import Findings, Outage
from workerkit.demo.watch import Watch
from workerkit.errors import StoreUnavailable


@pytest.fixture
def watch(tmp_path, monkeypatch) -> Watch:
    """A watch of a run of two jobs, cut off from Redis."""
    monkeypatch.setattr(Watch, "_ask_kit", lambda self: None)
    monkeypatch.setattr(Watch, "_count_connections", lambda self: None)
    return Watch(Findings(1, 0.0, 2, expected={"a": "x", "b": "y"}), tmp_path, tmp_path / "socket", workers=[1])


def test_what_a_job_wrote_down_before_its_end_is_seen_with_its_end(watch, tmp_path, monkeypatch):
    def finish(self: Watch) -> None:
        Evidence(str(tmp_path / "evidence.jsonl")).add("row", row=4000)
        call = {"t": 1.0, "end": 1.1, "path": "/lookup/a", "status": 200}
        (tmp_path / "api.jsonl").write_text(json.dumps(call) + "\n")
        self.findings.results["a"] = {"status": "SUCCESS"}

    monkeypatch.setattr(Watch, "_collect_results", finish)
    watch.look()
    assert watch.findings.rows == [4000]
    assert watch.findings.verdict.calls == 1


def executed(task_id: str, state: str) -> dict[str, str]:
    return {"id": task_id, "state": state, "task": project.lookup.name}


@pytest.mark.parametrize(
    ("executions", "stats", "complete"),
    [
        ([executed("a", "SUCCESS"), executed("b", "SUCCESS")], CacheStats(hits=1, misses=1), True),
        ([executed("a", "SUCCESS"), executed("b", "IGNORED")], CacheStats(hits=1, misses=1), False),
        ([executed("a", "SUCCESS"), executed("b", "SUCCESS")], CacheStats(misses=1), False),
        ([executed("a", "IGNORED"), executed("a", "SUCCESS"), executed("b", "SUCCESS")], CacheStats(misses=2), True),
        ([], CacheStats(), False),
    ],
)
def test_a_run_is_complete_when_lines_and_counts_are_there(watch, executions, stats, complete):
    watch.findings.executions, watch.findings.stats = executions, stats
    assert watch.complete() is complete


def test_only_a_child_of_the_worker_may_be_killed(watch, monkeypatch):
    groups = {1: 1, 5: 1, 6: 6}

    def group(pid: int) -> int:
        if pid not in groups:
            raise ProcessLookupError
        return groups[pid]

    monkeypatch.setattr("os.getpgid", group)
    assert [watch.is_child(pid) for pid in (1, 5, 6, 7)] == [False, True, False, False]


def test_reports_are_told_from_other_calls_of_the_api(watch, tmp_path):
    paths = ["/lookup/acme-001", "/lookup/person-01", "/lookup/page-7", "/lookup/bolt-020", "/healthz", "/lookup/acme"]
    lines = [json.dumps({"t": at, "end": at + 0.1, "path": path, "status": 200}) for at, path in enumerate(paths)]
    (tmp_path / "api.jsonl").write_text("".join(f"{line}\n" for line in lines))
    watch._collect_results = lambda: None
    watch.look()
    assert watch.findings.reports == [(0, "acme"), (3, "bolt")]


def test_a_redis_that_is_down_does_not_end_the_watch(watch, monkeypatch):
    def down(self: Watch) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(Watch, "_collect_results", lambda self: None)
    monkeypatch.setattr(Watch, "_ask_kit", down)
    watch.look()


def test_serving_again_is_the_first_timed_call_after_the_return(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(Watch, "_collect_results", lambda self: None)
    outage = watch.findings.outage = Outage(began=10.0, ended=11.0)
    evidence = Evidence(str(tmp_path / "evidence.jsonl"))
    for at, ms in ((9.0, [0.1]), (10.9, [0.1]), (11.2, []), (11.4, [0.2, 0.3]), (11.5, [0.2])):
        evidence.add("calls", at=at, ms=ms)
    watch.look()
    assert outage.served == 11.4
    assert len(watch.findings.calls_ms) == 5
