#!/usr/bin/env python3
"""Writes docs/reference/command-line.md: every verb and option, as the commands' own help has them."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from workerkit.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "command-line.md"
_VALUES = {"integer": "N", "integer range": "N", "float": "N", "float range": "N", "file": "FILE", "path": "PATH"}
_HEAD = """\
# The command line

`workerkit -A shop VERB` and `celery -A shop workerkit VERB` are the same; `-A` takes what Celery's does: `shop`, or
`shop.tasks:app`. `demo` and `server` need no app, `bench` none with `--url`. [Operate from the command
line](../how-to/command-line.md) shows what they print.

| option | of | |
|---|---|---|
| `--json` | all verbs that print a table | one JSON document on stdout, nothing else; of nothing `[]` or `{}` |
| `--kit NAMESPACE` | all verbs of an app | of its several kits this one; `wk#2` is the second of namespace `wk` |
| `--help` | all | |

## Exit codes

| code | when |
|---|---|
| 0 | done; nothing was found wrong |
| 1 | the answer is bad news: refused, failed, or what was named is not there |
| 2 | wrong use, no app or kit, or Redis cannot be reached; one line on stderr says what to do |
| 130 | Ctrl+C |
| 141 | the reader of a pipe has left, as `head` does |

Text of users (keys, owners, messages) is printed without control characters. There are colors only on a terminal, and
none with `NO_COLOR`. What the app's own code prints goes to stderr. With `celery -A`, what it prints while it is
imported goes where Celery lets it, and an app that cannot be imported is told in Celery's words.
"""


def page() -> str:
    """The whole page."""
    root = click.Context(main, info_name="workerkit")
    return "\n".join([_HEAD, *(_section(root, name, 2) for name in main.list_commands(root))])


def _section(parent: click.Context, name: str, level: int) -> str:
    command = parent.command.get_command(parent, name) if isinstance(parent.command, click.Group) else None
    if command is None:
        raise LookupError(name)
    context = click.Context(command, info_name=name, parent=parent)
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    title = " ".join([context.command_path.removeprefix("workerkit "), *arguments])
    lines = [f"{'#' * level} `{title}`", "", inspect.cleandoc(command.help or ""), ""]
    options = [each for each in command.params if isinstance(each, click.Option) and not _is_common(each)]
    if options:
        lines += ["| option | |", "|---|---|", *map(_row, options), ""]
    if isinstance(command, click.Group):
        lines += [_section(context, each, level + 1) for each in command.list_commands(context)]
    return "\n".join(lines)


def _is_common(option: click.Option) -> bool:
    return "--kit" in option.opts or ("--json" in option.opts and option.is_flag)


# By hand: what click makes of these changes with its version.
def _argument(each: click.Argument) -> str:
    name = each.metavar or (each.name or "").upper() + ("..." if each.nargs == -1 else "")
    return name if each.required or each.metavar else f"[{name}]"


def _row(each: click.Option) -> str:
    value = ""
    if isinstance(each.type, click.Choice):
        value = " " + "\\|".join(map(str, each.type.choices))
    elif not each.is_flag:
        value = f" {each.metavar or _VALUES.get(each.type.name, 'TEXT')}"
    about = (each.help or "").replace("|", "\\|").replace("  [", " [")
    default = f" [default: {each.default:g}]" if isinstance(each.default, int | float) and not each.is_flag else ""
    return f"| `{', '.join(each.opts)}{value}` | {about}{default} |"


if __name__ == "__main__":
    PAGE.write_text(page())
