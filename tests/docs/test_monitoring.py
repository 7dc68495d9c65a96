"""The dashboard and the alerts: they ask for metrics and labels that there are, and Prometheus' own tool takes them.

And the reference of metrics: it lists those that are exposed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from workerkit.cli.exposition import METRICS, PREFIX
from workerkit.telemetry.instruments import INSTRUMENTS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
CASES = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]
EXPOSED = {
    **{PREFIX + name: {"namespace", *metric.labels} for name, metric in METRICS.items()},
    **{each.exposed: {*each.labels} for each in INSTRUMENTS},
}
ADDED = {"instance", "job"}  # by Prometheus
QUERY = re.compile(r"\b(workerkit_[a-z_]+)(?:\{([^}]*)\})?")


def queries() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard and the rules, and where it stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "expression"), list(queries()))
def test_each_expression_names_metrics_and_labels_that_are_exposed(where: str, expression: str) -> None:
    found = QUERY.findall(expression)
    assert found, f"{where} asks for nothing of workerkit's"
    known: set[str] = set()
    for name, selector in found:
        assert name in EXPOSED, f"{where}: {name} is exposed by nobody"
        labels = set(re.findall(r"([a-z]+)=~?\"", selector))
        assert labels <= EXPOSED[name] | ADDED, f"{where}: {name} has no label {labels - EXPOSED[name]}"
        known |= EXPOSED[name] | ADDED
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.split(", ?", group)) <= known, f"{where}: by ({group})"


def test_legends_and_texts_name_labels_that_the_expressions_keep() -> None:
    def check(where: str, text: str, expression: str) -> None:
        kept = set(re.split(r", ?", ", ".join(re.findall(r"by \(([^)]*)\)", expression))))
        labels = set().union(*(EXPOSED[name] for name, _ in QUERY.findall(expression)))
        there = kept if "by (" in expression else labels
        assert set(re.findall(r"\{\{ ?(?:\$labels\.)?([a-z]+) ?\}\}", text)) <= there, f"{where}: {text}"

    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            check(panel["title"], target["legendFormat"], target["expr"])
    for rule in RULES:
        for text in rule["annotations"].values():
            check(rule["alert"], text, rule["expr"])


def test_the_dashboard_shows_every_metric_of_use_and_no_panel_covers_another() -> None:
    asked = {name for _, expression in queries() for name, _ in QUERY.findall(expression)}
    assert {
        "workerkit_fleet_cache_calls_total",
        "workerkit_fleet_jobs",
        "workerkit_fleet_limiter_decisions_total",
    } <= asked
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    fired = {re.search('alertname="([A-Za-z]+)"', str(case)) for case in CASES}
    assert {match[1] for match in fired if match} == {rule["alert"] for rule in RULES}
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in RULES)


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        reason = "needs promtool: apt-get install prometheus"
        if os.environ.get("WORKERKIT_REQUIRE_SERVERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules_and_each_fires_when_it_should_and_alone() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts.test.yml")


def test_promtool_can_read_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [expression for where, expression in queries()]
    plain = [each.replace("$__rate_interval", "5m").replace("$namespace", ".*") for each in asked]
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(plain)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "panels.yml")


def test_the_reference_lists_each_metric_with_its_labels() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(workerkit_[a-z_]+)` \| ([^|]*) \|", page, re.MULTILINE)
    found = {name: set(re.findall(r"`([a-z]+)`", labels)) for name, labels in rows}
    assert found == {
        **{PREFIX + name: {*metric.labels} for name, metric in METRICS.items()},
        **{each.exposed: {*each.labels} for each in INSTRUMENTS},
    }


def test_the_reference_says_of_each_what_the_code_says() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for name, text in [(PREFIX + name, each.help) for name, each in METRICS.items()]:
        assert re.search(rf"^\| `{name}` \| [^|]* \| {re.escape(text.rstrip('.'))} \|$", page, re.MULTILINE), name
    for each in INSTRUMENTS:
        text = re.escape(each.help.rstrip("."))
        assert re.search(rf"^\| `{each.exposed}` \| [^|]* \| {text} \|$", page, re.MULTILINE), each.exposed
