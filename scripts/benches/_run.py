"""Runs benches: `_run.py [NAME...] [OPTIONS]`. `scripts/bench` sets up the environment and calls it."""

from __future__ import annotations

import argparse
import importlib
import itertools
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STORIES = {path.stem: path for path in sorted((HERE.parent / "plots").glob("[!_]*.py"))}
USAGE = "scripts/bench [NAME...] [--quick] [--json FILE] [--plot FILE.png] [--markdown PAGE.md]"


def main(words: Sequence[str]) -> int:
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    path = STORIES.get(names[0]) if names else None
    if path is None and names and (HERE / f"{names[0]}.py").exists() and not _has_cases(names[0]):
        path = HERE / f"{names[0]}.py"
    if path is not None:  # a bench of its own kind, with its own arguments
        sys.argv = [str(path), *words[1:]]
        runpy.run_path(str(path), run_name="__main__")
        return 0
    return _measure(_parsed(words))


def _has_cases(name: str) -> bool:
    return hasattr(importlib.import_module(name), "CASES")


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", usage=USAGE)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a bench, or the beginning of its rows' names")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, fewer callers and keys")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the ratios: .png or .svg")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="also put the table into a page with a place for it"
    )
    return parser.parse_args(words)


def _measure(wanted: argparse.Namespace) -> int:
    import _report
    from _place import machine
    from _rows import Row, Run

    from workerkit.testing.servers import start_server

    every: list[Row] = []
    about: dict[str, Any] = {}
    failed = 0
    for bench, prefixes in _benches(wanted.names).items():
        cases = [case for case in importlib.import_module(bench).CASES if case.name.startswith(tuple(prefixes))]
        if not cases:
            raise SystemExit(f"scripts/bench: error: no row of {bench} begins with {' or '.join(prefixes)}")
        with start_server("valkey", tcp=True) as server:  # by TCP, as most are
            run = Run(server, quick=True, rounds=7, slice=0.008) if wanted.quick else Run(server)
            rows, failures = measured(cases, run)
            about = machine(server)
        failed += failures
        every += rows
        _report.show(f"scripts/bench {bench}", rows, about)
        if wanted.markdown:
            _report.replace_block(wanted.markdown, bench, _report.markdown(rows, about))
    if wanted.json:
        _report.write_json(wanted.json, every, about)
    if wanted.plot and every:
        _report.plot(wanted.plot, every)
    return 1 if failed else 0


def measured(cases: Sequence[Any], run: Any) -> tuple[list[Any], int]:
    """The rows of the cases, and how many cases failed; what is skipped or failed is told at once."""
    from _rows import Skip

    rows: list[Any] = []
    failed = 0
    for case in cases:
        began = time.monotonic()
        run.server.cli("FLUSHALL")
        try:
            rows += case.rows(run)
        except Skip as reason:
            print(f"{case.name} ({case.peer}) skipped: {reason}", flush=True)
        except Exception as error:  # noqa: BLE001 - the other rows are measured all the same
            failed += 1
            print(f"{case.name} ({case.peer}) FAILED: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{case.name} ({case.peer}): {time.monotonic() - began:.1f} s", flush=True)
    return rows, failed


def _benches(names: Sequence[str]) -> dict[str, list[str]]:
    """Benches by name, each with the beginnings of the rows that are wanted; without names, all of them."""
    there = [path.stem for path in sorted(HERE.glob("[!_]*.py"))]
    found: dict[str, list[str]] = {}
    for name in names or [bench for bench in there if _has_cases(bench)]:
        bench = name.partition(".")[0]
        if bench not in there and bench not in STORIES:
            raise SystemExit(f"scripts/bench: error: no bench named '{bench}': run it without arguments for the names")
        if bench not in there or not _has_cases(bench):
            raise SystemExit(f"scripts/bench: error: {bench} has arguments of its own: run it alone")
        found.setdefault(bench, []).append(name)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
