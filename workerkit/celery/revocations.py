"""Revokes that a worker has heard of. Celery keeps them in the memory of its workers, where a restart forgets them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from celery.worker import state

MOST = 1000  # ids at once


class Revocations:
    """What has been revoked since the last look."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._mark: tuple[int, object] = (0, None)

    def news(self) -> Iterator[list[str]]:
        """The task ids that were not there before, some at a time."""
        revoked: Any = state.revoked
        ids: dict[str, Any] = revoked._data  # noqa: SLF001 - its own iteration sorts everything
        mark = (len(ids), next(reversed(ids), None))
        if mark == self._mark:
            return
        there = set(ids)
        fresh = iter(there - self._seen)
        while some := list(islice(fresh, MOST)):
            yield some
        self._seen, self._mark = there, mark
