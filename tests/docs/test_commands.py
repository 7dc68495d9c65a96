"""What the documentation names is there: commands and their options, and the tests that are to show a promise."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from workerkit.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:celery |workerkit )[^`\n]+)`")
# What follows a "|", "&", "#" or ">" is the shell's, and dots stand for any command.
_COMMAND = re.compile(r"^(?:celery -A \S+ )?workerkit ((?:-A \S+ )?[a-z][^|&#>\n.]*)", re.MULTILINE)


def commands(page: Path) -> list[str]:
    text = page.read_text()
    return _COMMAND.findall("\n".join([*_SHELL.findall(text), *_INLINE.findall(text)]))


def resolve(words: list[str]) -> click.Command:
    """The command that these words name. Raises LookupError for a name or an option that it does not have."""
    command: click.Command = main
    context = click.Context(main)
    for at, word in enumerate(words):
        if word.startswith("-"):
            break
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, word)
        if found is None:
            raise LookupError(f"{' '.join(words[:at]) or 'workerkit'} has no command {word}")
        command, context = found, click.Context(found, parent=context)
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    for option in [word.partition("=")[0] for word in words if word.startswith("-")]:
        if option not in known:
            raise LookupError(f"{command.name} has no option {option}")
    return command


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_of_the_page_are_there(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "-A":
            words = words[2:]
        resolve(words)


@pytest.mark.parametrize("wrong", ["warn ls", "warm lss", "warm run --nowhere"])
def test_a_command_that_is_not_there_is_found(wrong: str) -> None:
    with pytest.raises(LookupError):
        resolve(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_show_a_promise_are_there(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert named <= there
