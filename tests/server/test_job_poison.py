"""A job whose attempts are killed one after the other is given up, unless it gets further each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from tests.server.job_rig import World
from tests.server.limits_model import runner_on
from workerkit.core.keys import Keys
from workerkit.errors import DefinitionError, JobFenced, JobFinished, JobPoisoned
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt
from workerkit.jobs.policy import About, Terms
from workerkit.jobs.record import Shape, view

HOUR = 3_600_000
WHERE = policy.place(Keys("wk", "j"), "import")


class Import(BaseModel):
    rows: int = 0


SHAPE = Shape(Import)


class Story:
    """One job; an attempt that says nothing any more was killed."""

    def __init__(self, world: World, crashes: int) -> None:
        self.world = world
        self.life = Terms(HOUR, 24 * HOUR, HOUR, 5.0, crashes)
        self.begun = 0

    def begin(self, token: str = "") -> Attempt[Import]:
        self.begun += 1
        call = policy.begin(WHERE, token or f"{self.begun:022}", SHAPE, self.life, About(), again=True)
        return Attempt(WHERE, SHAPE, self.life, self.world.run(call))

    @property
    def status(self) -> str:
        found = self.world.run(policy.read(WHERE, SHAPE, view))
        assert found is not None
        return str(found.status)


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    with runner_on(redis_url) as runner:
        yield World(runner)


def test_given_up_after_so_many(world: World) -> None:
    story = Story(world, 3)
    for _ in range(3):
        last = story.begin()
    for _ in range(2):  # whoever delivers it again hears the same
        with pytest.raises(JobPoisoned, match="import") as told:
            story.begin("a" * 22)
        assert told.value.status == "POISONED"
        assert isinstance(told.value, JobFinished)
    found = world.run(policy.read(WHERE, SHAPE, view))
    assert found is not None
    assert (found.status, found.error, found.attempt) == (
        "POISONED",
        ("JobPoisoned", "3 attempts ended without a word"),
        3,
    )
    assert found.ended is not None
    with pytest.raises(JobFenced):  # one that was only asleep
        world.flow(last.update({"rows": 1}))


def test_who_gets_further_is_not_given_up(world: World) -> None:
    story = Story(world, 2)
    for n in range(9):
        attempt = story.begin()
        world.flow(attempt.progress(n, None, None))
    story.begin()
    with pytest.raises(JobPoisoned):
        story.begin()


def test_data_alone_is_no_step(world: World) -> None:
    story = Story(world, 2)
    for n in range(2):
        world.flow(story.begin().update({"rows": n}))
    with pytest.raises(JobPoisoned):
        story.begin()


def test_errors_of_its_own_are_no_crashes(world: World) -> None:
    story = Story(world, 2)
    for _ in range(5):
        world.flow(story.begin().end("RETRY", ValueError("again")))
    story.begin()
    assert story.status == "RUNNING"


def test_any_number_when_it_is_told_so(world: World) -> None:
    story = Story(world, 0)
    for _ in range(20):
        story.begin()
    assert story.status == "RUNNING"


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3"])
def test_wrong_numbers(wrong: object) -> None:
    with pytest.raises(DefinitionError, match="max_crashes"):
        policy.terms("1d", "30d", None, None, wrong)  # type: ignore[arg-type]  # wrong on purpose
