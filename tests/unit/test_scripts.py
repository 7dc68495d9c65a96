"""The commands in scripts/, run for real on a copy of the project.

Where an install is not the point, a small fake stands for Python: it makes "environments" of one file, and writes down
each time a venv or pip was asked of it.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    *("basename", "bash", "cat", "chmod", "cksum", "cp", "dirname", "find", "grep", "ls"),
    *("mkdir", "mktemp", "readlink", "rm", "sed", "sh", "tail", "touch", "tr"),
)
FAKE = """#!/bin/sh
case "$*" in
    *version_info*) echo "${VERSION:-3.11}" ;;
    *ensurepip*) exit 0 ;;
    "-I -m venv"*) echo venv >>"$CALLS"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
    *"-m pip"*)
        echo pip >>"$CALLS"
        [ ! -p "${GATE:-}" ] || { cat "$GATE"; rm "$GATE"; }
        [ -z "${PIP_FAILS:-}" ] || { echo "$PIP_FAILS"; exit 1; }
        for tool in workerkit ruff mypy lint-imports; do
            printf '#!/bin/sh\\necho "%s: $*"\\n[ "%s" != "$FAILING" ]\\n' $tool $tool >"${0%/*}/$tool"
            chmod +x "${0%/*}/$tool"
        done ;;
    "-m pytest"*)
        for argument; do case $argument in --junitxml=*) report=${argument#*=} ;; esac; done
        echo '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="2"/></testsuites>' >"$report" ;;
    *) exec "$PYTHON_FOR_REAL" "$@" ;;
esac
"""


@dataclass
class Project:
    """A copy of the project's scripts beside a PATH that holds the usual tools and the Pythons a test puts there."""

    root: Path
    bin: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def python(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": str(self.bin),
            "HOME": str(self.root.parent),
            "CALLS": str(self.root.parent / "calls"),
            "FAILING": "none",
            "PYTHON_FOR_REAL": sys.executable,
            **more,
        }

    def start(self, *command: str, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=cwd or self.root,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *command: str, cwd: Path | None = None, **more: str) -> tuple[int, str, str]:
        process = self.start(*command, cwd=cwd, **more)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    @property
    def calls(self) -> list[str]:
        return (self.root.parent / "calls").read_text().split()


@pytest.fixture
def project(tmp_path):
    root, tools = tmp_path / "a project", tmp_path / "bin"
    root.mkdir()
    tools.mkdir()
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is missing"))
    made = Project(root, tools)
    yield made
    made.stop()


@pytest.fixture
def faked(project):
    project.python("python3", FAKE)
    return project


def one_error(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 1
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("command", ["demo", "test"])
def test_an_old_python_is_named(project, command):
    project.python("python3", "#!/bin/sh\necho 3.9\n")
    error = one_error(project.run(f"scripts/{command}"))
    assert "Python 3.11 or newer is needed, but python3 is Python 3.9" in error
    assert "set PYTHON" in error


def test_no_python_at_all(project):
    assert "none was found: install python3.11" in one_error(project.run("scripts/demo"))


def test_a_chosen_python_is_not_replaced_by_another(faked):
    faked.python("mine", "#!/bin/sh\necho 3.10\n")
    assert "mine is Python 3.10" in one_error(faked.run("scripts/demo", PYTHON="mine"))


def test_a_missing_venv_module_is_named(project):
    project.python("python3", FAKE.replace("*ensurepip*) exit 0", "*ensurepip*) exit 1"))
    assert "apt-get install python3-venv" in one_error(project.run("scripts/test"))


def test_virtualenv_serves_where_venv_is_missing(project):
    project.python("python3", FAKE.replace("*ensurepip*) exit 0", "*ensurepip*) exit 1"))
    project.python("virtualenv", '#!/bin/sh\nexec "$2" -I -m venv "$3"\n')
    assert project.run("scripts/demo")[0] == 0
    assert project.calls == ["venv", "pip", "pip"]


def assert_offline(project, **environment):
    error = one_error(project.run("scripts/demo", **environment))
    assert "could not download the packages: connect to the network and run again" in error
    assert (project.root / ".venv/.workerkit").read_text() == ""
    assert (project.root / ".venv/pip.log").read_text()


def test_no_network_on_the_first_run(faked):
    cause = "after connection broken by 'NewConnectionError('[Errno 111] Connection refused')': /simple/hatchling/"
    assert_offline(faked, PIP_FAILS=f"WARNING: Retrying (Retry(total=4, connect=None)) {cause}\nERROR: none found")


@pytest.mark.heavy
def test_no_network_for_a_real_pip(project):
    project.python("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    assert_offline(project, PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_CONFIG_FILE=os.devnull)


@pytest.mark.parametrize("cause", ["ERROR: No space left on device", "ModuleNotFoundError: No module named 'one'"])
def test_another_failure_of_pip_is_quoted(faked, cause):
    error = one_error(faked.run("scripts/demo", PIP_FAILS=f"one\n  {cause}\nhint: see above"))
    assert f"could not install the packages: {cause} (pip's log: " in error


def test_a_second_run_calls_no_pip(faked):
    code, out, err = faked.run("scripts/demo", "--json", "a b")
    assert (code, err) == (0, "")
    assert out.endswith("workerkit: demo --json a b\n")
    assert faked.calls == ["venv", "pip", "pip"]
    (faked.bin / "python3").unlink()
    assert faked.run("scripts/demo") == (0, "workerkit: demo\n", "")
    assert faked.calls == ["venv", "pip", "pip"]


def test_runs_from_anywhere(faked, tmp_path):
    link = faked.bin / "shown"
    link.symlink_to("../a project/scripts/demo")
    assert faked.run("shown", cwd=Path("/"))[0] == 0
    assert faked.run("../a project/scripts/demo", cwd=faked.bin)[1] == "workerkit: demo\n"
    assert faked.run("sh", "demo", cwd=faked.root / "scripts")[1] == "workerkit: demo\n"
    assert faked.run("shown", cwd=tmp_path, WORKERKIT_VENV="else where")[0] == 0
    assert (tmp_path / "else where/.workerkit").read_text().endswith("embedded\n")


def test_a_changed_pin_updates_and_keeps_what_was_there(faked):
    faked.run("scripts/test")
    with (faked.root / "constraints.txt").open("a") as pins:
        pins.write("one==1\n")
    faked.run("scripts/demo")
    assert faked.calls == ["venv", *["pip"] * 4]
    assert (
        (faked.root / ".venv/.workerkit")
        .read_text()
        .endswith("\nembedded http prometheus opentelemetry testing docs test\n")
    )


def test_another_python_makes_it_anew(faked):
    faked.run("scripts/demo")
    faked.python("newer", FAKE.replace("${VERSION:-3.11}", "3.12"))
    faked.run("scripts/demo", PYTHON="newer")
    assert faked.calls == ["venv", "pip", "pip"] * 2
    assert faked.run("scripts/demo")[1] == "workerkit: demo\n"


def test_a_failed_update_leaves_the_old_environment_known(faked):
    faked.run("scripts/demo")
    pins = faked.root / "constraints.txt"
    before = pins.read_text()
    pins.write_text(before + "one==1\n")
    assert faked.run("scripts/demo", PIP_FAILS="(from versions: none)")[0] == 1
    pins.write_text(before)
    assert faked.run("scripts/demo")[1] == "workerkit: demo\n"


@pytest.mark.parametrize("update", [False, True])
def test_a_killed_install_is_made_anew(faked, tmp_path, update):
    if update:
        faked.run("scripts/demo")
        (faked.root / "constraints.txt").write_text("one==1\n")
    os.mkfifo(tmp_path / "gate")
    killed = faked.start("scripts/demo", GATE=str(tmp_path / "gate"))
    assert any("installing" in line for line in killed.stdout)
    os.killpg(killed.pid, signal.SIGKILL)
    assert faked.run("scripts/demo")[0] == 0
    assert faked.calls.count("venv") == 2


def test_two_runs_at_once_install_once(faked, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    first = faked.start("scripts/demo", GATE=str(gate))
    assert any("installing" in line for line in first.stdout)
    second = faked.start("scripts/demo")
    assert "waiting for another run" in second.stdout.readline()
    gate.write_text("")
    assert [first.wait(timeout=60), second.wait(timeout=60)] == [0, 0]
    assert faked.calls == ["venv", "pip", "pip"]


def test_a_folder_of_someone_else_is_left_alone(faked, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "photo").write_text("dear")
    error = one_error(faked.run("scripts/demo", WORKERKIT_VENV=str(theirs)))
    assert "was not made by these scripts" in error
    assert (theirs / "photo").read_text() == "dear"


def test_an_unwritable_place_is_named(faked):
    error = one_error(faked.run("scripts/demo", WORKERKIT_VENV=os.devnull + "/venv"))
    assert "set WORKERKIT_VENV to a folder you may write to" in error


def test_every_check_runs_and_the_counts_come_last(faked):
    code, out, _ = faked.run("scripts/test", FAILING="mypy")
    lines = out.splitlines()
    assert code == 1
    assert lines[-1] == "5 passed, 2 failed, 2 skipped"
    table = {line.split("  ")[0]: line.split()[-3] for line in lines[-6:-1]}
    assert table == dict.fromkeys(["ruff check", "ruff format", "import-linter", "pytest"], "ok") | {
        "mypy --strict": "failed"
    }
    assert faked.run("scripts/test")[0] == 0


def test_the_matrix_takes_the_place_of_the_checks(faked):
    code, out, err = faked.run("scripts/test", "--matrix", "3.9")
    assert code == 2
    assert "no cell 3.9: there are oldest, " in err
    assert "ruff" not in out


def test_bench_lists_and_refuses(faked):
    benches, plots = faked.root / "scripts/benches", faked.root / "scripts/plots"
    for folder in (benches, plots):
        shutil.rmtree(folder, ignore_errors=True)
    assert faked.run("scripts/bench") == (0, "bench: no benches yet\n", "")
    benches.mkdir()
    plots.mkdir()
    for each in (benches / "hits.py", plots / "curve.py"):
        each.touch()
    (benches / "_run.py").write_text("import sys\nprint('bench', *sys.argv[1:])\n")
    assert faked.run("scripts/bench") == (0, "hits\ncurve\n", "")
    assert "no bench named 'hit'" in one_error(faked.run("scripts/bench", "hit"))
    for name in ("hits", "hits.rows", "curve"):
        assert faked.run("scripts/bench", name, "--json")[1].endswith(f"bench {name} --json\n")


GOOD = {
    "jobs_sent": 601,
    "jobs_done": 601,
    "upstream_calls": 88,
    "upstream_rejected": 0,
    "max_in_any_second": 50,
    "max_concurrent": 5,
    "hit_rate": 0.8,
    "redis_p50_ms": 0.2,
    "redis_p99_ms": 4.9,
    "import_rows": 1000,
    "import_lost": 0,
    "zombie_refused": 9,
    "zombie_counted": 0,
    "unfair_share": 0.4,
    "crashes": 1,
    "parked_at_crash": 30,
    "serving_again_s": 0.4,
    "retries_burned": 0,
    "pool_max_seen": 50,
    "duration_s": 31.2,
}
BAD = {
    "jobs_sent": [599, "601"],
    "jobs_done": [600, None, 601.5, "601"],
    "upstream_calls": [0],
    "upstream_rejected": [1, False],
    "max_in_any_second": [51, 0],
    "max_concurrent": [6],
    "hit_rate": [0.79, 1.01, float("nan")],
    "redis_p50_ms": [5, 0],
    "redis_p99_ms": [5.0],
    "import_rows": [0],
    "import_lost": [1],
    "retries_burned": [1],
    "zombie_refused": [8],
    "zombie_counted": [1],
    "unfair_share": [0.86],
    "crashes": [0],
    "parked_at_crash": [0],
    "serving_again_s": [5.1, -1],
    "pool_max_seen": [51],
    "duration_s": [60.1],
}


check_here = runpy.run_path(str(ROOT / "scripts/check_demo.py"))["main"]  # without a process for each figure


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/check_demo.py", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_good_figures_pass(tmp_path):
    (tmp_path / "out.json").write_text(json.dumps(GOOD))
    done = check(tmp_path / "out.json")
    assert done.returncode == 0
    assert all(any(line.startswith(name) and line.endswith("ok") for line in done.stdout.splitlines()) for name in GOOD)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_figure_fails(tmp_path, capsys, name, value):
    (tmp_path / "out.json").write_text(json.dumps({**GOOD, name: value}))
    assert check_here(str(tmp_path / "out.json")) == 1
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith(name) and line.endswith("MISSED") for line in said)


def test_what_is_timed_is_judged_more_mildly_on_a_machine_that_was_busy(tmp_path):
    slow = {**GOOD, "redis_p50_ms": 9.0, "redis_p99_ms": 40.0, "serving_again_s": 12.0}
    for busy, status in ((False, 1), (1, 1), (True, 0)):
        (tmp_path / "out.json").write_text(json.dumps({**slow, "busy": busy}))
        assert check_here(str(tmp_path / "out.json")) == status


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_figure_fails(tmp_path, name):
    (tmp_path / "out.json").write_text(json.dumps({key: value for key, value in GOOD.items() if key != name}))
    assert check_here(str(tmp_path / "out.json")) == 1


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_figures_that_cannot_be_read(tmp_path, text):
    (tmp_path / "out.json").write_text(text)
    done = check(tmp_path / "out.json")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
