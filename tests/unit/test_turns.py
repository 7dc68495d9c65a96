"""What a pump asks before it publishes: the list first, then the limiters of what is due, and only then for tickets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from workerkit.core.call import Call, as_is
from workerkit.core.flow import Batch
from workerkit.core.keys import Keys
from workerkit.errors import StoreUnavailable
from workerkit.limits.room import Room
from workerkit.throttle.turns import BATCH, Turn, Turns, gather
from workerkit.waitlist.line import Line
from workerkit.waitlist.waitlist import Claimed, Look, Taken, Waitlist

WAITLIST = Waitlist(Keys("t", "w"))
A, B, C = (Line("api", part, part) for part in "abc")


class Answers:
    """Answers Calls by their names; `asked` is what they were."""

    def __init__(self, look: Look, **answers: Any) -> None:
        self.asked: list[str] = []
        self.claims: list[Call[Any]] = []
        self._answers = {"waitlist.look": look, **{f"waitlist.{name}": each for name, each in answers.items()}}

    def __call__(self, call: Call[Any]) -> Any:
        self.asked.append(call.name)
        if call.name == "waitlist.claim":
            self.claims.append(call)
        answer = self._answers[call.name]
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, flow: Generator[Any, Any, Turns]) -> Turns:
        try:
            step = next(flow)
            while True:
                try:
                    answer = [self(each) for each in step.calls] if isinstance(step, Batch) else self(step)
                except StoreUnavailable as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            turns: Turns = done.value
            return turns


def no_room(line: Line, ahead: float) -> None:
    return None


def rooms(*known: Line) -> Callable[[Line, float], Call[Room] | None]:
    return lambda line, ahead: (
        Call("waitlist.room", "guard", as_is, args=(line.part, str(ahead))) if line in known else None
    )


def args_of(call: Call[Any]) -> tuple[Any, ...]:
    return call.args[:5]


def due(*lines: Line, wait: float | None = 0.5) -> Look:
    return Look(wait, [(line.name, line) for line in lines], [])


def test_an_empty_list_is_only_looked_at() -> None:
    answers = Answers(Look(None, [], []))
    assert answers.run(gather(WAITLIST, no_room, {})) == Turns([], [], None)
    assert answers.asked == ["waitlist.look"]


def test_what_is_overdue_is_taken() -> None:
    look = Look(0.5, [], [("1", "l"), ("2", "l"), ("3", "m"), ("4", "m")])
    answers = Answers(look, take=[Taken(b"one", False), None, Taken(b"", False), Taken(b"four", True)])
    assert answers.run(gather(WAITLIST, no_room, {})) == Turns(
        [Turn("1", "l", b"one"), Turn("4", "m", b"four", cancelled=True)], ["3"], 0.5
    )


def test_limiters_are_asked_for_the_lines_that_they_have() -> None:
    found = [Claimed([("1", b"one")], 2.0), Claimed([], 3.0), Claimed([("2", b"two"), ("3", b"three")], None)]
    answers = Answers(due(A, B, C), room=[Room(4, 0.0, True), Room(0, 1.5, False)], claim=found)
    turns = answers.run(gather(WAITLIST, rooms(A, C), {}))
    assert [(turn.id, turn.line) for turn in turns.turns] == [("1", A.name), ("2", C.name), ("3", C.name)]
    assert [args_of(call) for call in answers.claims] == [
        (A.name, 4, 0, 1, BATCH),
        (B.name, -1, 0, 1, BATCH),
        (C.name, 0, 1_500_000, 0, BATCH),
    ]
    assert all(
        set(WAITLIST.of_line(line.name)) <= set(call.keys) for line, call in zip((A, B, C), answers.claims, strict=True)
    )


def test_without_answers_of_limiters_all_go_at_their_own_pace() -> None:
    answers = Answers(due(A, B), room=StoreUnavailable("down"), claim=Claimed([], 1.0))
    answers.run(gather(WAITLIST, rooms(A, B), {}))
    assert [args_of(call) for call in answers.claims] == [(A.name, -1, 0, 1, BATCH), (B.name, -1, 0, 1, BATCH)]


def test_a_store_that_is_down_is_told_of() -> None:
    with pytest.raises(StoreUnavailable):
        Answers(due(A), claim=StoreUnavailable("down")).run(gather(WAITLIST, no_room, {}))


@pytest.mark.parametrize(
    ("look", "claimed", "wait"),
    [(0.5, [0.2, 3.0], 0.2), (0.5, [2.0, None], 0.5), (0.5, [None, None], 0.5), (None, [0.7, None], 0.7)],
)
def test_the_pump_looks_again_when_the_first_of_all_is_due(
    look: float | None, claimed: list[float | None], wait: float
) -> None:
    answers = Answers(due(A, B, wait=look), claim=[Claimed([], each) for each in claimed])
    assert answers.run(gather(WAITLIST, no_room, {})).wait == wait


def test_with_as_many_lines_as_it_asks_for_it_looks_again_at_once() -> None:
    lines = [Line("api", str(n), str(n)) for n in range(BATCH)]
    answers = Answers(due(*lines), claim=Claimed([], 1.0))
    assert answers.run(gather(WAITLIST, no_room, {})).wait == 0.0


def test_room_is_asked_for_as_far_ahead_as_was_learned() -> None:
    ahead: dict[str, float] = {C.name: 0.04}
    asked: list[float] = []

    def room_of(line: Line, seconds: float) -> None:
        asked.append(seconds)

    found = [Claimed([], 1.0, 0.02), Claimed([], 1.0, 0.0), Claimed([], None, 0.04)]
    Answers(due(A, B, C), claim=found).run(gather(WAITLIST, room_of, ahead))
    assert asked == [0.0, 0.0, 0.04]
    assert ahead == {A.name: 0.02, B.name: 0.0}  # nobody waits in the third any more
