"""The counts of one limiter, by the caller's keys in the process and by what may be shown of them in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workerkit.core.call import Call
from workerkit.core.keys import Keys
from workerkit.limits.tally import Counts, Tally


class Counting(Tally):
    """A Tally whose keys are told by `shown` when they leave the process: as digests, unless they may be named."""

    __slots__ = ("_shown",)

    def __init__(self, keys: Keys, name: str, shown: Callable[[str], str]) -> None:
        super().__init__(keys, name)
        self._shown = shown

    def add(self, counts: Counts) -> Call[Any]:
        named = [each._replace(key=self._shown(each.key)) for each in counts.keys]
        return super().add(counts._replace(keys=named))
