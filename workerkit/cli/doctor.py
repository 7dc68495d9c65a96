"""`workerkit -A shop doctor`: what is wrong with a deployment, each with the line that mends it."""

from __future__ import annotations

import time
from collections import Counter
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

from workerkit.cli.verb import Answer, Query, Refusal, kits, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerkit.doctor.examine import Report

EXITS = (
    "Exits with 0 when no error was found, 1 when one was, 2 when used wrongly or when a server could not be looked at."
)
_INDENT = " " * 8
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@click.command(cls=Query, epilog=EXITS)
@click.option("--ignore", metavar="ID", multiple=True, help="Leave out what has this id; may be given several times.")
@click.option("--processes", type=click.IntRange(min=0), default=0, help="Worker processes that are going to run.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.05), default=0.8, show_default=True, help="Seconds for the servers."
)
@click.pass_context
def doctor(ctx: click.Context, ignore: Sequence[str], processes: int, timeout: float) -> Answer:
    """Check servers and settings, and print for each finding the line that mends it. Changes nothing."""
    from workerkit.doctor.examine import KINDS, examine

    unknown = sorted(set(ignore) - {kind.id for kind in KINDS})
    if unknown:
        known = ", ".join(kind.id for kind in KINDS)
        raise Refusal(f"--ignore {unknown[0]!r:.60}: there is no such finding; there are {known}")
    began = time.monotonic()
    reports = [examine(kit, ctx.obj.app, timeout=timeout, processes=processes, ignore=ignore) for kit in kits(ctx)]
    took = time.monotonic() - began
    return Answer(_data(reports, took), lambda: show(reports, took), _status(reports))


def _status(reports: Sequence[Report]) -> int:
    if any(report.unreachable for report in reports):
        return 2
    return int(any(finding.severity == "error" for report in reports for finding in report.findings))


def _data(reports: Sequence[Report], took: float) -> dict[str, Any]:
    servers = [server for report in reports for server in report.facts.servers]
    return {
        "findings": [finding.as_dict() for finding in _all(reports)],
        "servers": [
            {"server": server.shown, "roles": list(server.roles), "version": _version(server.info)}
            for server in servers
        ],
        "seconds": round(took, 3),
    }


def _all(reports: Sequence[Report]) -> list[Any]:
    """Each once: several kits may have the same servers and the same app."""
    return list(dict.fromkeys(finding for report in reports for finding in report.findings))


def _version(info: Any) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else ""


def show(reports: Sequence[Report], took: float) -> None:
    """Print the findings, the worst first, and what was looked at."""
    from rich.console import Console
    from rich.text import Text

    from workerkit.doctor.finding import SEVERITIES

    console = Console(highlight=False)
    findings = sorted(_all(reports), key=lambda finding: SEVERITIES.index(finding.severity))
    for finding in findings:
        head = Text(f"{finding.severity:<8}", style=_STYLES[finding.severity])
        console.print(head.append(finding.id, style="bold").append(f"  {plain(finding.where)}", style="default"))
        console.print(Text(_indented(plain(finding.text), console.width)), soft_wrap=True)
        console.print(Text(_indented(f"fix, {plain(finding.at)}:", console.width), style="dim"), soft_wrap=True)
        # Not wrapped: it is there to be copied.
        console.print(Text(_INDENT + plain(finding.fix), style="green"), soft_wrap=True)
        console.print()
    console.print(Text(_summary(reports, Counter(finding.severity for finding in findings), took)))


def _indented(text: str, width: int) -> str:
    """Within `width`, but for words that are longer: paths and URLs stay whole."""
    return fill(
        text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _summary(reports: Sequence[Report], counts: Counter[str], took: float) -> str:
    servers = {server.shown: _version(server.info) for report in reports for server in report.facts.servers}
    looked = ", ".join(f"{where} ({version or 'not seen'})" for where, version in servers.items())
    told = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items())
    return f"{told or 'nothing found'}; looked at the app and {looked} in {took:.2f} s"
