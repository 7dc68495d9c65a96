"""A test is run again only where its process was stalled, and that is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest, stalls


class Scripted:
    """Stalls of these seconds, one a run."""

    def __init__(self, *seconds: float) -> None:
        self.longest = 0.0
        self._seconds = list(seconds)

    def since(self) -> float:
        return self._seconds.pop(0)


class Item:
    """A test that passes or fails in each of its runs as it is told, and what was reported of it."""

    nodeid, location = "test", ("file", 1, "test")

    def __init__(self, outcomes: list[bool], *seconds: float) -> None:
        self.told: list[str] = []
        self.config = SimpleNamespace(stash={conftest._stalls: Scripted(*seconds), conftest._again: self.told})
        self.ihook = self
        self.outcomes = iter(outcomes)
        self.reported: list[bool] = []

    def __getattr__(self, hook: str) -> Any:
        return lambda **_: None

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reported.append(not report.failed)

    def run(self, *_: Any, **__: Any) -> list[Any]:
        return [SimpleNamespace(failed=False), SimpleNamespace(failed=not next(self.outcomes))]


@pytest.mark.parametrize(
    ("outcomes", "seconds", "passed", "again"),
    [
        ([True], [], True, 0),  # nobody asks whether it was stalled
        ([False], [stalls.STALL / 2], False, 0),
        ([False, True], [2.0], True, 1),
        ([False, False], [2.0, 0.0], False, 1),
        ([False] * conftest.RUNS, [2.0] * conftest.RUNS, False, conftest.RUNS - 1),
    ],
)
def test_it_runs_again_while_it_fails_and_was_stalled(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[bool], seconds: list[float], passed: bool, again: int
) -> None:
    item: Any = Item(outcomes, *seconds)
    monkeypatch.setattr(conftest, "runtestprotocol", item.run)
    assert conftest.pytest_runtest_protocol(item, None)
    assert item.reported == [True, passed]  # of the last run alone
    assert len(item.told) == again
    assert list(item.outcomes) == []


def test_the_longest_stall_is_known_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Over(BaseException):
        pass

    now, sleeps = [0.0], iter([0.0, 2.0, 0.5])

    def sleep(seconds: float) -> None:
        now[0] += seconds + next(sleeps, 0.0)
        if now[0] > 100.0:
            raise Over

    monkeypatch.setattr("signal.pthread_sigmask", lambda *_: None)  # this thread goes on
    watching = stalls.Stalls(lambda: now[0], sleep)
    with pytest.raises(Over):
        watching.run()
    now[0] = 0.0
    assert watching.since() == pytest.approx(2.0)
    assert watching.since() == 0.0
