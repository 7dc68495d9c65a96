"""The demo, run as a user runs it: its figures hold, and however it ends, nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
# A machine that is busy with other tests makes calls wait for a CPU; that the bound is checked, the unit tests show.
LATENCY = {"redis_p50_ms", "redis_p99_ms", "serving_again_s"}


@pytest.fixture
def start(tmp_path, require) -> Callable[..., subprocess.Popen[str]]:
    """`start(*options)`: the demo, with a temporary folder of its own and an environment full of traps."""
    require("valkey")
    (tmp_path / "tmp").mkdir()
    traps = {f"{name}_URL": "redis://127.0.0.1:1/0" for name in ("CELERY_BROKER", "WORKERKIT_GUARD", "WORKERKIT_REDIS")}
    environment = {**os.environ, **traps, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}

    def run(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "workerkit.cli.main", "demo", "--seed", "1", *options]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True, **output)

    return run


def watched(line: str) -> dict[str, Any]:
    """What the command of this line shows, run as a user would."""
    command = line.partition("watch it: ")[2].strip()
    assert command.endswith(" top"), line
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(f"{command} --json", shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(process: subprocess.Popen[str], words: str) -> str:
    """Read on until the demo has said this; the line."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return line
    pytest.fail(f"it never said {words!r}, but:\n{''.join(lines)}")


def left(folder: Path) -> list[str]:
    """Files in the demo's temporary folder, and processes that were started with it."""
    found = [str(path) for path in folder.iterdir()]
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in environment.read_bytes():
                found.append((environment.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass  # it has ended, or is somebody else's
    return found


@pytest.mark.heavy
def test_a_whole_run_holds_its_figures_and_leaves_nothing(start, tmp_path):
    out, svg = tmp_path / "out.json", tmp_path / "demo.svg"
    with start("--json", str(out), "--svg", str(svg)) as process:
        text, _ = process.communicate(timeout=90)
    figures = json.loads(out.read_text())
    assert set(figures["missed"]) <= LATENCY, text
    assert process.returncode == (1 if figures["missed"] else 0)
    assert (figures["jobs_sent"], figures["jobs_done"], figures["import_rows"]) == (732, 732, 4000)
    assert figures["kills"] == 1
    assert figures["hit_rate"] >= 0.8
    assert figures["max_in_any_second"] > 30, "the limit was never near: the run shows nothing"
    assert (figures["crashes"], figures["zombie_refused"]) == (1, 9)
    assert figures["parked_at_crash"] > 0, "nothing was in Redis when it crashed: the run shows nothing"
    assert "writes&#160;refused" in svg.read_text()
    assert "back&#160;after" in svg.read_text()
    assert left(tmp_path / "tmp") == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("an embedded Valkey is up", signal.SIGTERM),
        ("SIGSTOP to child", signal.SIGINT),
        pytest.param("an embedded Valkey is up", signal.SIGINT, marks=pytest.mark.heavy),
        pytest.param("SIGKILL to the kit's Redis", signal.SIGTERM, marks=pytest.mark.heavy),
    ],
)
def test_ended_by_a_signal_it_cleans_up(start, tmp_path, number, moment):
    with start("--json", str(tmp_path / "out.json")) as process:
        said(process, moment)
        process.send_signal(number)
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number, text
    assert "everything is cleaned up" in text
    assert left(tmp_path / "tmp") == []
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("moment", ["SIGSTOP to child", pytest.param("the kit's Redis", marks=pytest.mark.heavy)])
def test_killed_it_takes_everything_along(start, tmp_path, moment):
    with start() as process:
        top = said(process, "watch it: ")
        said(process, moment)
        if "child" in moment:
            assert "workerkit.demo.app" in json.dumps(watched(top))
        assert len(left(tmp_path / "tmp")) > 2
        process.kill()
        process.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while left(tmp_path / "tmp") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(tmp_path / "tmp") == []
