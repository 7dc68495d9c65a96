"""The longest runs of tasks: what a visibility timeout and a time limit have to be measured by.

Short runs are not noted at all, so that they cost nothing; of the others the longest is sent, once a flush.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workerkit.core.call import Call, Word
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

_ADD = Script("workerkit.telemetry", "runs")
_NOTED = re.compile(rb"\d+ \d+ \d+")
LEAST = 1.0  # seconds
LIFE_MS = 14 * 86_400_000  # the week under way and the one before


class Runs:
    """The longest run of each task in this process, until it is sent to the fleet's."""

    __slots__ = ("_key", "_longest")

    def __init__(self, keys: Keys) -> None:
        self._key = keys.key("runs", "all", "n")
        self._longest: dict[str, int] = {}

    def note(self, task: str, seconds: float) -> None:
        """Note a run of `task`; one shorter than `LEAST` need not be."""
        self._longest[task] = max(int(seconds * 1000), self._longest.get(task, 0))

    def take(self) -> dict[str, int]:
        """What was noted since the last time: milliseconds by task."""
        taken, self._longest = self._longest, {}
        return taken

    def give_back(self, taken: Mapping[str, int]) -> None:
        """Note again what could not be sent."""
        for task, longest in taken.items():
            self.note(task, longest / 1000)

    def add(self, taken: Mapping[str, int]) -> Call[Any]:
        """Send what was taken."""
        words = [word for task, longest in taken.items() for word in (task, longest)]
        args: tuple[Word, ...] = (LIFE_MS, *words)
        return Call("telemetry.runs", "cache", int, script=_ADD, keys=(self._key,), args=args)

    def read(self) -> Call[dict[str, float]]:
        """Seconds of the longest run of each task in this week and the last one that anything was noted in."""
        return Call("telemetry.longest", "cache", _parse, args=("HGETALL", self._key))


def _parse(reply: Any) -> dict[str, float]:
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    noted = {}
    for name, text in items:
        if _NOTED.fullmatch(text):  # whatever somebody has written there, the others are read
            noted[name.decode("utf-8", "replace")] = tuple(map(int, text.split()))
    newest = max((week for week, _, _ in noted.values()), default=0)
    return {
        name: max(top, before if week == newest else 0) / 1000
        for name, (week, top, before) in noted.items()
        if week >= newest - 1
    }
