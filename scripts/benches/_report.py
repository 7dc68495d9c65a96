"""What a run found: a table on the screen, JSON, a table in a page, a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _rows import Row
from rich.console import Console
from rich.table import Table

HEAD = ("row", "peer", "cores", "ours", "peer's", "CPU", "CPU, peer's", "ratio", "min..max", "goal", "met")


def figure(value: float | None) -> str:
    """Three significant digits, never in powers of ten."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    extra = ""
    if "computations" in row.goal:
        extra = f"; computations {row.extra['computations']} : {row.extra['peer_computations']}"
    if "over" in row.extra:
        extra = f"; {row.extra['over']} over"
    if "added" in row.extra:
        extra = f"; {row.extra['added']:+.1f} {row.unit}"
    return [
        row.name,
        row.peer_name,
        "one" if row.pinned else "all",
        f"{figure(row.ours)} {row.unit}",
        f"{figure(row.peer)} {row.unit}",
        figure(row.ours_cpu),
        figure(row.peer_cpu),
        f"{row.ratio:.2f}" if row.ratio >= 0.1 else f"{row.ratio:.3f}",
        f"{row.min:.2f}..{row.max:.2f}{extra}",
        row.goal_text,
        {None: "", True: "yes", False: "NO"}[row.met],
    ]


def caption(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {machine['server']} by "
        f"{machine['transport']}; {packages}. Times are medians; ratio: ours/peer's, the median of paired rounds, "
        "below 1 means that we are faster. CPU: of the client. cores: one = client and server pinned to one core."
    )


def show(title: str, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    table = Table(title=title, caption=caption(machine))
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if 3 <= number <= 7 else "left", overflow="fold")
    for row in rows:
        style = {None: "", True: "green", False: "red"}[row.met]
        table.add_row(*cells(row), style=style)
    console = Console()
    if not console.is_terminal:
        console = Console(width=190)
    console.print(table)


def write_json(file: Path, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    file.write_text(json.dumps({"machine": machine, "rows": [row.json() for row in rows]}, indent=2) + "\n")


def markdown(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|---|" + "---:|" * 5 + "---|---|---|"]
    for row in rows:
        name, *rest, met = cells(row)
        lines.append("| " + " | ".join([f"`{name}`", *rest, f"**{met}**" if met == "NO" else met]) + " |")
    return "\n".join(lines) + f"\n\n{caption(machine)}"


def replace_block(file: Path, name: str, text: str) -> None:
    """Put `text` where the page says `<!-- bench: NAME -->` ... `<!-- end -->`. Raises ValueError where it does not."""
    page = file.read_text() if file.exists() else ""
    before, start, rest = page.partition(f"<!-- bench: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not start or not end:
        raise ValueError(f"{file} has no lines '<!-- bench: {name} -->' and '<!-- end -->' to write between")
    file.write_text(f"{before}{start}\n{text}\n\n{end}{after}")


def plot(file: Path, rows: Sequence[Row]) -> None:
    """The ratios with their ranges, and the goals as ticks, on a logarithmic axis."""
    from matplotlib.figure import Figure

    ordered = list(reversed(rows))
    drawing = Figure(figsize=(10, 1.2 + 0.26 * len(ordered)), layout="constrained")
    axes = drawing.subplots()
    for height, row in enumerate(ordered):
        color = {None: "#5b7083", True: "#2b8a3e", False: "#c92a2a"}[row.met]
        axes.barh(height, row.ratio, color=color, alpha=0.4 if row.pinned else 0.85, height=0.7)
        axes.plot([row.min, row.max], [height, height], color="black", linewidth=1)
        if "ratio" in row.goal:
            axes.plot([row.goal["ratio"]] * 2, [height - 0.45, height + 0.45], color="black", linewidth=2)
    labels = [f"{row.name} / {row.peer_name}{', one core' if row.pinned else ''}" for row in ordered]
    axes.set_yticks(range(len(ordered)), labels, fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("ours/peer's, with min and max; below 1 we are faster\nthick tick: the goal; pale: on one core")
    axes.margins(y=0.01)
    drawing.savefig(file, dpi=150)
