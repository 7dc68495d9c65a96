"""Between entering and being let go on, or parked again, a delivery is no reason to forget its ticket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.waitlist_rig import LINE, World, ticket, world_on
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import Entry

LONG = 31.0  # seconds


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    with world_on(redis_url) as world:
        yield world


def enter(world: World, message: Ticket) -> Entry:
    return world.call(world.waitlist.enter(message, LINE.name, keep=True)).entry


def begin(world: World, message: Ticket) -> bool:
    return world.call(world.waitlist.begin(message))


@pytest.fixture
def entered(world: World) -> Ticket:
    """The message of a task that was parked, and has come back and entered."""
    world.park(ticket(), wait=0.0)
    (found,) = world.claim(room=9)
    message = found.published_as("p1")
    assert enter(world, message) is Entry.GO_ON
    return message


def test_it_is_published_again_when_the_broker_has_lost_its_redelivery(world: World, entered: Ticket) -> None:
    world.wait(LONG)
    (overdue,) = world.look().overdue
    assert overdue == (entered.id, LINE.name)
    taken = world.take(entered)
    assert taken is not None
    again = Ticket.load(taken.ticket).published_as("p2")
    assert enter(world, entered) is Entry.GO_ON  # whichever comes first: here the broker had it after all
    assert enter(world, again) is Entry.DROP
    assert begin(world, entered)
    assert world.count() == 0


def test_let_go_on_it_is_off_the_list_and_its_redelivery_goes_on(world: World, entered: Ticket) -> None:
    assert world.count() == 1
    assert begin(world, entered)
    assert begin(world, entered)  # perhaps the first answer was lost
    assert world.count() == 0
    world.wait(LONG)
    assert world.look() == (None, [], [])
    assert enter(world, entered) is Entry.GO_ON
    assert begin(world, entered)


def test_who_slept_through_its_publication_may_not_go_on_beside_it(world: World, entered: Ticket) -> None:
    world.wait(LONG)
    world.take(entered)
    assert not begin(world, entered)
    assert world.count() == 1
    again = entered.published_as("p2")
    assert enter(world, again) is Entry.GO_ON
    assert not begin(world, entered)
    assert begin(world, again)


def test_parked_again_it_is_not_published_before_its_turn(world: World, entered: Ticket) -> None:
    world.park(entered, wait=3600.0)
    world.wait(LONG)
    assert world.look().overdue == []
    assert world.count() == 1
    assert not begin(world, entered)


def test_it_may_be_parked_again_on_a_full_list(world: World, entered: Ticket) -> None:
    assert not world.park(entered, most=1).full
    assert world.park(ticket("other"), most=1).full


@pytest.mark.parametrize("published", [False, True])
def test_a_cancellation_meanwhile_is_not_forgotten(world: World, entered: Ticket, published: bool) -> None:
    assert world.cancel(entered.task_id) == 1
    if published:  # to be ended; but this one is quicker
        assert world.take(entered) is not None
    world.park(entered, wait=3600.0)
    assert world.look().overdue == [(entered.id, LINE.name)]
    taken = world.take(entered)
    assert taken is not None
    assert taken.cancelled
    assert enter(world, Ticket.load(taken.ticket).published_as("p2")) is Entry.CANCELLED
    assert world.count() == 0
