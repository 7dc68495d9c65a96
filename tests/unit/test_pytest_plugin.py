"""The pytest plugin, as a user's project has it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
import time
from workerkit import WorkerKit

kit = WorkerKit(url="unix:///nowhere/at/all.sock", hooks=[])
calls = []

@kit.memoize("1h")
def fetch(name):
    calls.append(name)
    return name.upper()
"""
CONFTEST = """
import pytest
from project import kit

@pytest.fixture(autouse=True)
def _memory(workerkit_memory):
    workerkit_memory(kit)
"""
TESTS = """
import project
import pytest

@pytest.mark.parametrize("turn", [1, 2])
def test_computes_once_in_each_test(turn):
    assert [project.fetch("a"), project.fetch("a")] == ["A", "A"]
    assert len(project.calls) == turn

def test_computes_again_after_an_hour(frozen_clock):
    project.fetch("b")
    frozen_clock.advance("2h")
    project.fetch("b")
    assert project.calls.count("b") == 2
"""
SERVER_TESTS = """
import pytest
from workerkit import WorkerKit

@pytest.mark.parametrize("turn", [1, 2])
def test_a_private_server_is_empty(workerkit_server, turn):
    with WorkerKit(url=workerkit_server.url, hooks=[]) as kit:
        assert kit.client().dbsize() == 0
        kit.cache.set("a", 1, ttl="1h")
        assert kit.client().dbsize() > 0
"""


def run(folder: Path, *options: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "workerkit.testing.plugin",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    # The entry point may be there, too; it names the same module.
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{folder}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


def test_a_projects_tests_run_without_redis(tmp_path):
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_project.py").write_text(TESTS)
    assert "3 passed" in run(tmp_path)


@pytest.mark.server
def test_a_private_server_is_emptied_for_each_test(tmp_path, require):
    require("valkey")
    (tmp_path / "test_server.py").write_text(SERVER_TESTS)
    assert "2 passed" in run(tmp_path)


def test_pytest_starts_without_anything_heavy():
    code = (
        "import sys, workerkit.testing.plugin\n"
        "print([name for name in ('redis', 'celery', 'kombu', 'pydantic', 'asyncio', 'lupa') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    bare = "import sys, pytest\nprint('asyncio' in sys.modules)"
    has = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ("['asyncio']" if has.stdout.strip() == "True" else "[]")


def test_it_is_an_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"workerkit": "workerkit.testing.plugin"}
