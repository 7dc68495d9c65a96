"""The tests on the oldest and newest versions that are supported; `scripts/test --matrix [CELL...]` runs it.

Not every combination: a cell stands for what somebody may have installed, and together they hold each Python, each
server, and Celery and redis-py at both ends of their ranges. Each set of versions gets an environment of its own.
The oldest versions are the lower bounds in pyproject.toml, the newest those of constraints.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
ALL = ("tests/unit", "tests/server", "tests/worker")
SERVER = ("tests/server",)
EVERYTHING = frozenset({"*"})
EXTRAS = ("embedded", "http", "prometheus", "opentelemetry", "testing")
# These read code and run none of it, and some ask for newer packages than the floors.
READERS = re.compile(r"celery-types|import-linter|mypy|pyright|ruff|types-.*")
# What a package at its floor asks for exactly follows it.
FOLLOWERS = {"kombu": ("vine",), "pydantic": ("pydantic-core",)}
REPORT = """
import json, platform, sys
from importlib.metadata import version
from workerkit.testing.servers import missing
versions = [platform.python_version(), *map(version, ("celery", "redis"))]
print(json.dumps({"versions": versions, "missing": missing(sys.argv[1])}))
"""


@dataclass(frozen=True)
class Cell:
    """One row: tests on a Python, a kind of server, and `floors`, the packages at their oldest version."""

    name: str
    why: str
    python: str
    server: str
    tests: tuple[str, ...] = ALL
    floors: frozenset[str] = frozenset()

    @property
    def venv(self) -> str:
        """The folder of its environment; cells of the same versions share one."""
        return "-".join((self.python, *sorted(self.floors))).replace("*", "oldest")


CELLS = (
    Cell("oldest", "the lower bounds of all requirements at once", "3.11", "redis-6.2", floors=EVERYTHING),
    Cell("3.11", "the newest of everything", "3.11", "valkey"),
    Cell("3.12", "the newest of everything", "3.12", "valkey"),
    Cell("3.13", "the newest of everything", "3.13", "valkey"),
    Cell("old-celery", "who keeps an old Celery", "3.12", "redis-7", floors=frozenset({"celery", "kombu"})),
    Cell("old-redis-py", "who keeps an old redis-py", "3.13", "redis-7", floors=frozenset({"redis", "hiredis"})),
    Cell("redis-6.2", "an old server", "3.12", "redis-6.2", SERVER),
    Cell("redis-7", "another server", "3.12", "redis-7", SERVER),
)


@dataclass(frozen=True)
class Row:
    """What became of a cell: `outcome` is passed, failed or skipped, `note` says why it was skipped."""

    cell: Cell
    outcome: str
    versions: Sequence[str] = ()
    counts: tuple[int, int, int] = (0, 0, 0)  # passed, failed, skipped
    seconds: float = 0.0
    note: str = ""


class Broken(Exception):
    """A cell could not be set up; the message is what pip, venv or Python said."""


def canonical(requirement: str) -> str:
    """The name of the package in a requirement or a pin, as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement.strip())[0]).lower()


def floors(requirements: Sequence[str]) -> dict[str, str]:
    """The lower bound of each requirement, by canonical name."""
    found = {}
    for each in requirements:
        bound = re.search(r">=\s*([\w.]+)", each)
        if not bound:
            raise SystemExit(f"pyproject.toml: {each!r} has no lower bound, so it has no oldest version to be tested")
        found[canonical(each)] = bound[1]
    return found


def pins(cell: Cell, project: Mapping[str, object], constraints: str) -> list[str]:
    """The constraints of a cell: those of constraints.txt, with some or all requirements at their lower bound."""
    lowest = floors(project["dependencies"])  # type: ignore[arg-type]  # a list of strings, by its standard
    chosen = lowest if cell.floors == EVERYTHING else {name: lowest[name] for name in cell.floors}
    freed = set(chosen).union(*(FOLLOWERS.get(name, ()) for name in chosen))
    kept = [line for line in constraints.splitlines() if not line.startswith("#") and canonical(line) not in freed]
    return kept + [f"{name}=={version}" for name, version in sorted(chosen.items())]


def tools(project: Mapping[str, object]) -> list[str]:
    """What the tests need beside workerkit's own extras."""
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]  # as its standard has it
    return [each for each in extras["test"] if not READERS.fullmatch(canonical(each))]


def interpreters(version: str) -> Iterator[Path]:
    """Programs that may be this Python: those on the PATH, then pyenv's."""
    name = f"python{version}"
    yield from (Path(folder, name) for folder in os.get_exec_path())
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}*/bin/{name}"), reverse=True)


def find_python(version: str) -> Path | None:
    """A Python of this version that can make virtual environments."""
    asked = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != ({version.replace('.', ', ')}))"
    for program in interpreters(version):
        # One from an environment would do, but an end of that environment would be the end of ours.
        if os.access(program, os.X_OK) and not (program.parents[1] / "pyvenv.cfg").exists():
            done = subprocess.run([program, "-I", "-c", asked], capture_output=True, check=False)
            if done.returncode == 0:
                return program
    return None


def run(*command: str | Path) -> str:
    """What the command prints; Broken, with the end of it, when it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        lines = done.stdout.splitlines()
        raise Broken("\n".join([line for line in lines if line.startswith("ERROR")] or lines[-5:]))
    return done.stdout


def install(cell: Cell, python: Path, folder: Path) -> Path:
    """The Python of the cell's environment, which is made anew when anything that it depends on has changed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    constraints = (ROOT / "constraints.txt").read_text()
    wanted = json.dumps([str(ROOT), str(python), tools(project), project, pins(cell, project, constraints)])
    venv, stamp = folder / cell.venv, folder / cell.venv / "matrix.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return venv / "bin/python"
    print(f"making an environment for {cell.name} in {venv}", flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    run(python, "-I", "-m", "venv", venv)
    pinned = venv / "constraints.txt"
    pinned.write_text("\n".join(pins(cell, project, constraints)) + "\n")
    workerkit = f"{ROOT}[{','.join(EXTRAS)}]"
    pip = (venv / "bin/python", "-I", "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check")
    run(*pip, "-c", pinned, "-e", workerkit, *tools(project))
    stamp.write_text(wanted)
    return venv / "bin/python"


def counted(junit: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped; all 0 when pytest did not get as far as writing them."""
    try:
        suite = ET.parse(junit).getroot().find("testsuite")
    except (OSError, ET.ParseError):
        suite = None
    if suite is None:
        return 0, 0, 0
    total, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    return total - failures - errors - skipped, failures + errors, skipped


def test(cell: Cell, python: Path, folder: Path) -> tuple[bool, tuple[int, int, int]]:
    """Run the cell's tests: whether they passed, and how many."""
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "WORKERKIT_TEST_SERVER": cell.server,
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    with tempfile.TemporaryDirectory() as work:
        junit = Path(work, "junit.xml")
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", *cell.tests]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        return done.returncode == 0, counted(junit)


def look(cell: Cell, python: Path) -> tuple[list[str], str]:
    """The versions of Python, Celery and redis-py in an environment, and why the cell's server cannot be started."""
    found = json.loads(run(python, "-c", REPORT, cell.server))
    return found["versions"], found["missing"]


def try_cell(cell: Cell, folder: Path) -> Row:
    """Run one cell, or say what the machine lacks for it."""
    began = time.monotonic()
    print(f"\n== {cell.name}: {cell.why}", flush=True)
    program = find_python(cell.python)
    if not program:
        return Row(cell, "skipped", note=f"no Python {cell.python} with venv on the PATH or under pyenv")
    try:
        python = install(cell, program, folder)
        versions, missing = look(cell, python)
    except Broken as error:
        return Row(cell, "failed", seconds=time.monotonic() - began, note=str(error))
    if missing:
        return Row(cell, "skipped", versions, note=missing)
    passed, counts = test(cell, python, folder)
    return Row(cell, "passed" if passed else "failed", versions, counts, time.monotonic() - began)


def table(rows: Sequence[Row]) -> str:
    """The rows as plain text, with a note under those that have one."""
    layout = "{:13} {:8} {:8} {:8} {:10} {:7} {:>7} {:>7} {:>8} {:>7}"
    lines = [layout.format("cell", "python", "celery", "redis-py", "server", "", "passed", "failed", "skipped", "s")]
    for row in rows:
        versions = [*row.versions, "-", "-"] if row.versions else [row.cell.python, "-", "-"]
        lines.append(layout.format(
            row.cell.name, *versions[:3], row.cell.server, row.outcome, *row.counts, f"{row.seconds:.0f}"
        ).rstrip())  # fmt: skip
        lines += [f"    {line}" for line in row.note.splitlines()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells named, or all; 1 when one failed, or was skipped where WORKERKIT_REQUIRE_SERVERS=1."""
    parser = argparse.ArgumentParser(prog="scripts/test --matrix", description="The tests on old and new versions.")
    parser.add_argument("--folder", type=Path, required=True, help="where the environments are kept")
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"of {', '.join(cell.name for cell in CELLS)}")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.cells).difference(cell.name for cell in CELLS):
        parser.error(f"no cell {', '.join(sorted(unknown))}: there are {', '.join(cell.name for cell in CELLS)}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    rows = [try_cell(cell, chosen.folder) for cell in CELLS if cell.name in chosen.cells or not chosen.cells]
    print(f"\n{table(rows)}")
    bad = {"failed", "skipped"} if os.environ.get("WORKERKIT_REQUIRE_SERVERS") == "1" else {"failed"}
    return int(any(row.outcome in bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
