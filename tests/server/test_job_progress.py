"""How fast a job is, and when it will be done: learned from what it says, and not guessed where it says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tests.server.job_rig import World
from tests.server.limits_model import runner_on
from workerkit.core.keys import Keys
from workerkit.jobs import policy
from workerkit.jobs.attempt import Attempt
from workerkit.jobs.policy import About, Terms
from workerkit.jobs.record import JobView, Shape, view

HOUR = 3_600_000
LIFE = Terms(HOUR, 24 * HOUR, HOUR, 5.0)
WHERE = policy.place(Keys("wk", "j"), "import")


class Import(BaseModel):
    rows: int = 0


SHAPE = Shape(Import)


class Story:
    """One job, whose attempts begin and go on while the test sets the clock."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.begun = 0
        self.begin()

    def begin(self) -> None:
        self.begun += 1
        record = self.world.run(policy.begin(WHERE, f"{self.begun:022}", SHAPE, LIFE, About(), again=True))
        self.attempt = Attempt(WHERE, SHAPE, LIFE, record)

    def progress(self, done: int | None, total: int | None = None) -> None:
        self.world.flow(self.attempt.progress(done, total, None))

    @property
    def job(self) -> JobView[Any]:
        found = self.world.run(policy.read(WHERE, SHAPE, view))
        assert found is not None
        return found


@pytest.fixture
def story(redis_url: str) -> Iterator[Story]:
    with runner_on(redis_url) as runner:
        yield Story(World(runner))


def test_a_steady_job(story: Story) -> None:
    story.progress(0, 1000)
    for done in range(20, 201, 20):
        story.world.wait(2.0)
        story.progress(done)
    assert story.job.progress == (200, 1000, None, pytest.approx(10.0), pytest.approx(80.0))
    story.world.wait(5.0)
    assert story.job.progress.eta == pytest.approx(75.0)


def test_nothing_is_known_before_anything_is_done(story: Story) -> None:
    story.progress(0, 100)
    assert story.job.progress[3:] == (None, None)
    story.world.wait(3.0)
    assert story.job.progress[3:] == (None, None)
    story.progress(0)
    assert story.job.progress[3:] == (None, None)


def test_without_a_total_there_is_no_end(story: Story) -> None:
    story.world.wait(2.0)
    story.progress(10)
    assert story.job.progress[3:] == (5.0, None)


def test_what_comes_at_once_is_no_rate(story: Story) -> None:
    story.progress(0, 100)
    for done in range(1, 50):
        story.world.wait(0.001)
        story.progress(done)
    assert story.job.progress.rate is None
    story.world.wait(0.951)
    story.progress(50)
    assert story.job.progress.rate == pytest.approx(50.0)


def test_an_old_pace_is_forgotten(story: Story) -> None:
    story.progress(0, 100_000)
    for done in range(1000, 11_000, 1000):
        story.world.wait(1.0)
        story.progress(done)
    for done in range(11_000, 11_180, 1):
        story.world.wait(1.0)
        story.progress(done)
    assert story.job.progress.rate == pytest.approx(1.0, abs=5.0)


def test_a_job_that_has_fallen_silent_has_no_end(story: Story) -> None:
    story.progress(0, 100)
    story.world.wait(1.0)
    story.progress(10)
    story.world.wait(10.6)
    assert story.job.progress[3:] == (pytest.approx(10.0), None)


def test_a_new_attempt_is_measured_anew(story: Story) -> None:
    story.progress(0, 100)
    story.world.wait(1.0)
    story.progress(50)
    story.world.wait(600.0)
    story.begin()
    assert story.job.progress[:4] == (50, 100, None, None)
    story.world.wait(2.0)
    story.progress(60)
    assert story.job.progress == (60, 100, None, pytest.approx(5.0), pytest.approx(8.0))


def test_who_begins_again_from_nothing_is_measured_anew(story: Story) -> None:
    story.world.wait(1.0)
    story.progress(50, 100)
    story.world.wait(1.0)
    story.progress(0)
    assert story.job.progress.rate is None
    story.world.wait(1.0)
    story.progress(4)
    assert story.job.progress.rate == pytest.approx(4.0)


def test_an_ended_job_has_no_end_to_come(story: Story) -> None:
    story.world.wait(1.0)
    story.progress(50, 100)
    story.world.flow(story.attempt.end("FAILURE", ValueError("no")))
    assert story.job.progress == (50, 100, None, pytest.approx(50.0), None)


@pytest.mark.parametrize(("silent", "stuck"), [(14.9, False), (15.1, True), (600.0, True)])
def test_three_heartbeats_missed_are_stuck(story: Story, silent: float, stuck: bool) -> None:
    story.world.wait(silent)
    assert story.job.stuck is stuck
    story.world.flow(story.attempt.heartbeat())
    assert story.job.stuck is False
    story.world.flow(story.attempt.finish())
    story.world.wait(silent)
    assert story.job.stuck is False
