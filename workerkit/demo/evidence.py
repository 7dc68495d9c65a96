"""What the demo's processes write down while they work, for the summary to judge: JSON lines in one file.

It is kept apart from Redis on purpose: what the kit says of itself is held against what nobody but the tasks wrote.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Evidence:
    """Appends to the file; without a path it keeps nothing.

    Each line is one unbuffered write at the file's end: many processes share the file, and of a process that is killed
    a line is there whole or not at all.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file = -1

    def add(self, kind: str, **fields: Any) -> None:
        """One line, on disk (as far as a kill is concerned) when this returns."""
        if self._path is None:
            return
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._file, json.dumps({"kind": kind, **fields}).encode() + b"\n")


class Tail:
    """Reads a file of lines that others append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def lines(self) -> Iterator[str]:
        """The whole lines that have come since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        yield from whole.decode().splitlines()
