"""How long tasks ran, as their workers noted it, and what the doctor says of it."""

from __future__ import annotations

import pytest

from workerkit.doctor.examine import examine
from workerkit.telemetry.runs import LIFE_MS, Runs


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_long_runs_are_noted_short_ones_not_and_the_doctor_measures_by_them(broker, pool, eventually):
    app = broker.load("runs").app
    (kit,) = app.workerkits
    key = "wk:t:{runs:all}:n"
    broker.worker("runs", pool=pool)
    tasks = [app.tasks[f"runs.{name}"] for name in ("rest", "fail", "brief")]
    results = [tasks[0].delay(1.2), tasks[1].delay(1.1), tasks[2].delay()]
    for result in results:
        result.get(timeout=30, propagate=False)

    def noted():
        return kit.engine.runner.call(Runs(kit.engine.keys("t")).read())

    eventually(lambda: len(noted()) == 2)
    longest = noted()
    assert set(longest) == {"runs.rest", "runs.fail"}
    assert 1.2 <= longest["runs.rest"] < 20
    assert 0 < broker.server.cli("PTTL", key) <= LIFE_MS
    app.conf.broker_transport_options = {"visibility_timeout": 1}
    try:
        findings = {each.id: each for each in examine(kit, app, timeout=20.0).findings}
    finally:
        kit.close()
    assert "runs.rest, acknowledged late, has run for 1." in findings["visibility-run"].text
