"""Watching one kit: the newest snapshot, the rates, the news, and since when none could be read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from workerkit.errors import StoreError
from workerkit.top.change import Change, Window
from workerkit.top.news import News, down, news, up
from workerkit.top.snapshot import Snapshot

KEPT = 200  # news
TOGETHER = 60.0  # seconds within which what goes on is one piece of news


class Watch:
    """What is known of one kit; the caller reads snapshots and says when, in monotonic seconds."""

    def __init__(self) -> None:
        self._window = Window()
        self.snapshot: Snapshot | None = None
        self.change = Change(0.0, {}, {}, {})
        self.news: deque[News] = deque(maxlen=KEPT)
        self.error = ""
        """Why nothing can be read now, "" while it can."""
        self._read = 0.0
        self._down = 0.0

    def took(self, snapshot: Snapshot, now: float) -> None:
        """A snapshot was read."""
        self._tell(news(self.snapshot, snapshot))
        if self.error:
            self.news.append(up(snapshot.at, now - self._down))
        self.error, self._read = "", now
        self.snapshot, self.change = snapshot, self._window.add(snapshot)

    def failed(self, error: StoreError, now: float, wall: float) -> None:
        """None could be read; `wall` is seconds since 1970."""
        if not self.error:
            self._down = now
            self.news.append(down(wall, str(error)))
        if error.call or not self.error:  # without a call it says only that nothing was tried since
            self.error = str(error)

    def age(self, now: float) -> float:
        """Seconds since the snapshot was read; 0.0 without one."""
        return now - self._read if self.snapshot is not None else 0.0

    def down_for(self, now: float) -> float:
        """Seconds since nothing can be read; 0.0 while it can."""
        return now - self._down if self.error else 0.0

    def _tell(self, found: Iterable[News]) -> None:
        for each in found:
            before = next((i for i in range(len(self.news)) if each.times and _goes_on(self.news[i], each)), None)
            if before is not None:
                each = each._replace(times=each.times + self.news[before].times)  # noqa: PLW2901 - the same, and more
                del self.news[before]
            self.news.append(each)


def _goes_on(before: News, now: News) -> bool:
    return (before.name, before.text) == (now.name, now.text) and now.at - before.at < TOGETHER
