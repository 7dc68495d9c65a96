"""The reference of the command line says what the commands' own help says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from workerkit.cli import main, verb

ROOT = Path(__file__).parents[2]


def rendered() -> str:
    spec = importlib.util.spec_from_file_location("docs_cli", ROOT / "scripts" / "docs_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: str = module.page()
    return page


def test_the_reference_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    assert page == rendered(), "a verb or option has changed: run python scripts/docs_cli.py"


def test_the_reference_has_every_verb_and_option() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    for name, command in every(main.main, click.Context(main.main)):
        assert f"# `{name}" in page
        section = page.split(f"# `{name}", 1)[1].split("\n#", 1)[0]
        for option in command.params:
            if isinstance(option, click.Option) and not {"--kit", "--json"} & {*option.opts}:
                assert f"| `{', '.join(option.opts)}" in section, (name, option.name)


def every(group: click.Group, context: click.Context, above: str = "") -> list[tuple[str, click.Command]]:
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{above}{name}", command))
        if isinstance(command, click.Group):
            found += every(command, context, f"{above}{name} ")
    return found


def test_every_verb_that_answers_takes_json_and_names_its_exit_codes() -> None:
    for name, command in every(main.main, click.Context(main.main)):
        if name in ("server", "top"):  # which run until they are ended
            continue
        assert "xit" in (command.epilog or "") + (command.help or ""), name
        if not isinstance(command, click.Group):
            assert any("--json" in option.opts for option in command.params), name
    assert issubclass(verb.Query, verb.Verb)
