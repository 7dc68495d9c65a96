"""Canvas of throttled tasks: each of them is parked at least once, and nobody who waits can tell."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from workerkit.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

# Each module imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")

CLOSED = 60.0  # seconds: nobody is let in before he has been parked
HEADERS = 40
# How many of each canvas are to be parked before its gate is opened for the first time.
FIRST = {
    "group": 6, "chord": HEADERS, "chain": 1, "linked": 1, "nested": 3, "replaced": 1, "replaced in a chord": 2,
    "again": 1, "fails": 1, "fails in a chord": 2,
}  # fmt: skip


class Canvases:
    """All of them at once, on one worker."""

    def __init__(self, broker: Any, eventually: Callable[..., None]) -> None:
        self.broker = broker
        self.app = app = broker.load("parking")
        broker.worker("parking", "-Q", "celery,other", "--without-mingle", "--without-gossip")
        self.results = {key: self.send(key, canvas) for key, canvas in self.canvases(app.step, app.total).items()}
        eventually(lambda: self.waiting() == FIRST)
        self.open(*self.results.keys() - {"starmap"})
        until = time.monotonic() + 40
        pause = threading.Event()
        while not all(result.ready() for result in self.results.values()) and time.monotonic() < until:
            self.open(*self.waiting())
            pause.wait(0.05)

    def canvases(self, step: Any, total: Any) -> dict[str, Any]:
        """By the key under which they wait."""
        replaced, told, joined = self.app.replaced, self.app.told, self.app.joined.s()
        failing = self.app.fails.s("fails").on_error(told.si(key="fails"))
        return {
            "group": group(step.s(n, "group") for n in range(6)),
            "chord": chord((step.s(n, "chord") for n in range(HEADERS)), total.s("chord")),
            "chain": chain(step.s(1, "chain", 1, CLOSED), step.s("chain", 10, CLOSED), step.si(5, "chain")),
            "linked": step.s(1, "linked", 1).set(link=told.s(key="linked")),
            "nested": chord(
                [
                    chord([step.s(n, "nested") for n in (1, 2)], total.s("nested")),
                    chain(step.s(3, "nested", 10), step.s("nested")),
                ],
                total.s("nested"),
            ),
            "replaced": chain(replaced.s(1, "replaced"), step.s("replaced", 100)),
            "replaced in a chord": chord([replaced.s(n, "replaced in a chord") for n in (1, 2)], joined),
            "again": self.app.again.s("again").set(headers={"mine": "kept"}),
            "fails": failing,
            "fails in a chord": chord([self.app.fails.s("fails in a chord"), step.s(1, "fails in a chord")], joined),
            "starmap": step.starmap([(n, "starmap") for n in range(3)]),
            # Last: these wait for the gate where they are.
            "chunks": self.app.patient.chunks([(n, "chunks") for n in range(6)], 3).group(),
        }

    def send(self, key: str, canvas: Any) -> Any:
        self.app.gate.pause(key, CLOSED if key != "chunks" else 1.0)
        return canvas.apply_async()

    def waiting(self) -> dict[str, int]:
        return {line.key: line.waiting for line in self.app.kit.waitlist.lines("gate") if line.waiting}

    def open(self, *keys: str) -> None:
        for key in keys:
            self.app.gate.reset(key)
        self.app.kit.waitlist.drain("gate")

    def get(self, key: str) -> Any:
        return self.results[key].get(timeout=10)

    def notes(self, key: str) -> list[str]:
        return [text for _, text in self.broker.notes(key)]

    def parked(self, key: str) -> dict[str, int]:
        """How often each that has run was parked before, by its first word."""
        return {what: int(times) for what, times in (text.split() for text in self.notes(key))}


@pytest.fixture(scope="module")
def sent(shared_broker: Any, eventually: Callable[..., None]) -> Canvases:
    return Canvases(shared_broker, eventually)


def test_group(sent: Canvases) -> None:
    assert sent.get("group") == list(range(6))
    assert min(sent.parked("group").values()) >= 1


def test_chord(sent: Canvases) -> None:
    assert sent.get("chord") == sum(range(HEADERS))
    parked = sent.parked("chord")
    assert len(sent.notes("chord")) == len(parked) == HEADERS + 1
    assert min(times for what, times in parked.items() if what != "total") >= 1


def test_chain_each_of_whose_tasks_is_parked(sent: Canvases) -> None:
    assert sent.get("chain") == 5
    assert {what: times >= 1 for what, times in sent.parked("chain").items()} == {"1": True, "2": True, "5": True}


def test_callback_gets_the_result(sent: Canvases, eventually: Callable[..., None]) -> None:
    assert sent.get("linked") == 2
    assert sent.parked("linked")["1"] >= 1
    eventually(lambda: sent.notes("linked told") == ["(2,)"])


def test_nested_chord(sent: Canvases) -> None:
    assert sent.get("nested") == 1 + 2 + 13
    parked = sent.parked("nested")
    assert [parked[what] >= 1 for what in ("1", "2", "3")] == [True] * 3


def test_replaced_task_hands_over_its_id_and_its_place(sent: Canvases) -> None:
    assert sent.get("replaced") == 102
    assert sent.get("replaced in a chord") == 2 + 3
    assert sent.parked("replaced in a chord")["first"] >= 1
    parked = sent.parked("replaced")
    assert parked["first"] >= 1
    assert parked["1"] >= 1  # what it was replaced by is another task, and found the gate closed again


def test_retries_are_the_task_s_own(sent: Canvases) -> None:
    assert sent.get("again") == [2, "kept"]
    parked = sent.parked("again")
    assert sorted(parked) == ["0", "1", "2"]
    assert min(parked.values()) >= 1


def test_errback_is_told_and_a_chord_fails_by_its_header(sent: Canvases, eventually: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="no"):
        sent.get("fails")
    assert sent.parked("fails")["fails"] >= 1
    eventually(lambda: sent.notes("fails told") == ["()"])
    with pytest.raises(ValueError, match="no"):
        sent.get("fails in a chord")
    eventually(lambda: isinstance(sent.results["fails in a chord"].result, ChordError))


def test_calls_inside_another_task_wait_in_place_or_are_refused(sent: Canvases) -> None:
    """`chunks` and `starmap` call the task's function: they have no message that could be parked."""
    assert sent.get("chunks") == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(RateLimited):
        sent.get("starmap")
    assert sent.notes("starmap") == []


def test_nothing_is_left_on_the_waitlist(sent: Canvases, eventually: Callable[..., None]) -> None:
    for key in sent.results:
        sent.results[key].get(timeout=30, propagate=False)
    eventually(lambda: sent.app.kit.waitlist.count() == 0)
