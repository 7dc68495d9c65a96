"""The waitlist's scripts on a real server: generations, publications, turns, and tickets that only an entry removes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.waitlist_rig import LINE, OTHER, S, World, names, ticket, world_on
from workerkit.waitlist.line import Line
from workerkit.waitlist.ticket import Ticket
from workerkit.waitlist.waitlist import PUBLICATIONS, Entered, Entry, Parked, Taken


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    with world_on(redis_url) as world:
        yield world


def published(world: World, made: Ticket, publication: str = "p1") -> Ticket:
    """The message of a ticket that is parked and then published."""
    world.park(made, wait=0.0)
    (found,) = world.claim(room=9)
    return found.published_as(publication)


# Generations and publications


def test_a_task_goes_through_its_generations(world: World) -> None:
    first = ticket()
    assert world.enter(first) == Entered(Entry.GO_ON, 0.0)
    assert world.park(first, wait=2.0) == Parked(2.0, 0)
    assert world.look() == (2.0, [], [])
    assert world.claim() == []
    world.wait(2.0)
    assert world.look().lines == [(LINE.name, LINE)]
    (back,) = world.claim()
    assert back == first.next(LINE.name)
    assert world.count() == 1
    assert world.enter(back.published_as("p1")) == Entered(Entry.GO_ON, 0.0)
    assert world.count() == 0
    assert world.claim() == []
    assert world.look() == (None, [], [])


def test_an_older_generation_is_dropped(world: World) -> None:
    first = ticket()
    world.park(first)
    assert world.enter(first).entry is Entry.DROP  # redelivered: its worker died between parking and acknowledging
    assert world.count() == 1  # and its drop took no ticket along
    second = first.next(LINE.name).published_as("p1")
    assert world.enter(second).entry is Entry.GO_ON
    world.park(second)
    assert world.enter(second).entry is Entry.DROP
    assert world.count() == 1


def test_of_two_publications_one_goes_on_and_its_redelivery_too(world: World) -> None:
    world.park(ticket())
    back = ticket().next(LINE.name)
    assert world.enter(back.published_as("p1")).entry is Entry.GO_ON
    assert world.enter(back.published_as("p2")).entry is Entry.DROP
    assert world.enter(back.published_as("p1")).entry is Entry.GO_ON


def test_a_record_outlives_what_it_must_drop(world: World) -> None:
    message = published(world, ticket())
    world.enter(message)
    (record,) = (key for key in world.stored() if ":record:" in key)
    assert world.client.pttl(record) > 24 * 3600 * 1000
    world.client.delete(record)  # later nobody remembers: rather executed twice than not at all
    assert world.enter(message).entry is Entry.GO_ON


def test_parking_twice_is_parking_once(world: World) -> None:
    assert world.park(ticket()) == world.park(ticket()) == Parked(1.0, 0)
    assert world.park(ticket("other")) == Parked(1.1, 1)  # the repetition took no turn
    assert world.park(ticket()) == Parked(1.0, 0)
    assert world.count() == 2
    world.wait(1.0)
    assert names(world.claim(room=9)) == ["id", "other"]


def test_a_park_whose_answer_came_late_puts_nothing_back(world: World) -> None:
    message = published(world, ticket())
    world.enter(message)
    before = world.dump()
    world.park(ticket())  # the first generation's, of which a worker that was stalled does not know what came
    assert world.dump() == before


def test_a_retry_is_another_execution(world: World) -> None:
    world.park(ticket(), wait=0.0)
    assert world.enter(ticket(retries=1), OTHER).entry is Entry.GO_ON
    world.claim(room=1)
    assert world.enter(ticket(retries=1)).entry is Entry.GO_ON
    assert world.count() == 1


def test_a_full_list_takes_nobody_and_tells_so(world: World) -> None:
    for n in range(3):
        world.park(ticket(str(n)), most=3)
    before = world.dump()
    assert world.park(ticket("late"), most=3).full
    assert world.dump() == before
    assert not world.park(ticket("1"), most=3).full  # parked already
    assert not world.park(ticket("late"), most=4).full


# Coming while others wait


def learned(world: World, *waiting: str, wait: float) -> None:
    """These wait, and a message of their line has come back at once."""
    before = published(world, ticket("before"))
    for name in waiting:
        world.park(ticket(name), wait=wait)
    world.enter(before)


def test_who_comes_while_others_wait_joins_them(world: World) -> None:
    assert world.enter(ticket("late")).entry is Entry.GO_ON
    learned(world, "0", wait=2.0)
    assert world.enter(ticket("late")) == Entered(Entry.JOIN, 2.0)
    assert world.enter(ticket("late"), OTHER).entry is Entry.GO_ON
    world.wait(2.0)
    assert world.enter(ticket("late")) == Entered(Entry.JOIN, 0.0)
    world.claim(room=1)
    assert world.enter(ticket("late")).entry is Entry.GO_ON  # nobody waits any more


def test_who_comes_asks_for_himself_until_it_is_known_that_messages_come_back_quickly(world: World) -> None:
    message = published(world, ticket("slow"))
    world.park(ticket(), wait=2.0)
    assert world.enter(ticket("late")).entry is Entry.ASK
    world.wait(0.101)
    world.enter(message)
    world.claim(room=0, wait=2.0)
    assert world.enter(ticket("late")).entry is Entry.ASK
    world.park(ticket("waiting"), wait=2.0)
    (next_,) = world.claim(room=1)
    world.enter(next_.published_as("p"))  # a lag falls slowly
    assert world.enter(ticket("late")).entry is Entry.JOIN


def test_how_long_messages_take_is_not_known_any_more_in_another_backlog(world: World) -> None:
    learned(world, wait=0.0)
    assert world.enter(ticket("late")).entry is Entry.GO_ON
    world.park(ticket("next"), wait=0.0)
    assert world.enter(ticket("late")).entry is Entry.ASK  # his queue may have grown long since
    (found,) = world.claim(room=1)
    world.park(ticket("waiting"), wait=2.0)
    world.enter(found.published_as("p"))
    assert world.enter(ticket("late")).entry is Entry.JOIN
    world.wait(2.0)
    world.claim(room=1)
    world.park(ticket("more"), wait=2.0)
    assert world.enter(ticket("late")).entry is Entry.JOIN  # one is on its way: it is the same backlog


def test_who_comes_asks_for_himself_where_no_pump_runs(world: World) -> None:
    learned(world, "0", wait=2.0)
    world.wait(2.1)
    assert world.enter(ticket("late")).entry is Entry.JOIN
    world.wait(0.001)
    assert world.enter(ticket("late")) == Entered(Entry.ASK, 0.0)
    world.claim(room=0, wait=1.0)
    assert world.enter(ticket("late")).entry is Entry.JOIN


def test_who_comes_asks_for_himself_where_messages_lie_in_a_queue(world: World) -> None:
    learned(world, "0", "1", "2", wait=0.0)
    (first,) = world.claim(room=1, paced=False)
    world.wait(0.1)
    world.claim(room=1, paced=False)
    assert world.enter(ticket("late")).entry is Entry.JOIN
    world.wait(0.001)
    world.claim(room=1, paced=False)
    assert world.enter(ticket("late")).entry is Entry.ASK
    world.enter(first.published_as("p"))
    assert world.enter(ticket("late")).entry is Entry.ASK  # he has taken long
    (second,) = world.claim(room=1, paced=False)
    world.enter(second.published_as("p"))
    assert world.enter(ticket("late")).entry is Entry.JOIN


# Turns


def test_without_a_limiter_turns_are_spread_at_its_pace_line_by_line(world: World) -> None:
    for n in range(4):
        assert world.park(ticket(f"a{n}"), every=0.25) == Parked(1.0 + n * 0.25, n)
    world.park(ticket("b"), line=OTHER)
    assert world.claim() == []
    found = []
    for step in range(8):
        world.now = world.now + S if not step else world.now + S // 4
        found += [(step, name) for name in names(world.claim())]
        if not step:
            assert names(world.claim(OTHER)) == ["b"]
    assert found == [(0, "a0"), (1, "a1"), (2, "a2"), (3, "a3")]


def test_after_a_silence_at_most_a_second_is_made_up_for(world: World) -> None:
    for n in range(50):
        world.park(ticket(str(n)), wait=0.0)
    world.wait(100.0)
    assert len(world.claim()) == 11
    assert world.claim() == []
    world.wait(0.1)
    assert len(world.claim()) == 1


def test_as_many_go_as_the_limit_has_room_for_without_those_on_their_way(world: World) -> None:
    for n in range(9):
        world.park(ticket(str(n)), wait=0.0)
    first = world.claim(room=4, paced=False)
    assert names(first) == ["0", "1", "2", "3"]
    assert world.claim(room=4, paced=False) == []
    world.enter(first[0].published_as("p"))  # it will be charged now, so there is room for 3
    assert world.claim(room=3, paced=False) == []
    world.enter(first[1].published_as("p"))
    assert names(world.claim(room=3, paced=False)) == ["4"]
    world.wait(5.001)  # what has been on its way for so long is not counted on
    assert names(world.claim(room=3, paced=False)) == ["5", "6", "7"]


def test_a_crowd_does_not_go_at_once(world: World) -> None:
    for n in range(50):
        world.park(ticket(str(n)), wait=0.0, every=0.01)
    first = world.claim(room=50, paced=False)
    assert len(first) == 32
    assert world.claim(room=50, paced=False) == []
    for each in first[:5]:
        world.enter(each.published_as("p"))
    assert len(world.claim(room=45, paced=False)) == 5


def test_while_messages_lie_in_a_queue_and_the_limit_is_unused_the_pace_goes_on(world: World) -> None:
    """Else the limit would not be used while they lie there."""
    for n in range(9):
        world.park(ticket(str(n)), wait=0.0)
    assert len(world.claim(room=2)) == 2
    world.wait(0.5)
    assert world.claim(room=2) == []  # they are not late yet
    world.wait(0.001)
    assert len(world.claim(room=2)) == 2  # at most a tenth of a second is made up for
    assert world.claim(room=2) == []
    world.wait(0.1)
    assert len(world.claim(room=2)) == 1
    world.wait(0.1)
    assert world.claim(room=0, wait=0.0) == []  # others use it
    assert world.claim(room=2) == []
    world.wait(0.2)
    assert world.claim(room=2) == []  # it has not been unused for long enough
    world.wait(0.001)
    assert world.claim(room=2, paced=False) == []
    assert len(world.claim(room=2)) == 2


@pytest.mark.parametrize("paced", [True, False])
def test_without_room_nobody_goes(world: World, paced: bool) -> None:
    for n in range(9):
        world.park(ticket(str(n)), wait=0.0)
    for _ in range(4):
        assert world.claim(room=0, wait=1.0, paced=paced) == []
        world.wait(0.9)


@pytest.mark.parametrize(("lag", "ahead"), [(0.0, 0.0), (0.03, 0.03), (3.0, 0.05)])
def test_room_is_to_be_counted_as_far_ahead_as_messages_take_and_no_more(
    world: World, lag: float, ahead: float
) -> None:
    message = published(world, ticket("lagging"))
    world.wait(lag)
    world.enter(message)
    world.park(ticket(), wait=0.0)
    assert world.claimed(LINE, 100, 0, 1.0, paced=True).ahead == pytest.approx(ahead)
    assert world.claimed(LINE, 100, 0, 1.0, paced=False).ahead == 0  # when a slot comes free nobody can know


def test_room_ahead_of_now_lets_them_go_as_much_earlier(world: World) -> None:
    world.park(ticket(), wait=0.0)
    assert world.claimed(LINE, 100, 0, 1.0, ahead=0.03).wait == pytest.approx(0.97)
    assert names(world.claim(room=1, ahead=0.03)) == ["id"]


def test_claims_are_in_order_and_bounded(world: World) -> None:
    for n in range(5):
        world.park(ticket(str(n)), wait=0.0)
    assert names(world.claim(room=9, most=2)) == ["0", "1"]
    assert names(world.claim(room=9, most=9)) == ["2", "3", "4"]


def test_the_highest_priority_goes_first(world: World) -> None:
    for name, priority in {"a": 0, "b": 9, "c": 3, "d": 9, "e": 0}.items():
        world.park(ticket(name), wait=0.0, priority=priority)
    assert names(world.claim(room=9)) == ["b", "d", "c", "a", "e"]


def test_who_is_denied_again_keeps_his_place(world: World) -> None:
    for n in range(3):
        world.park(ticket(str(n)), wait=0.0)
    (first,) = world.claim(room=1)
    back = first.published_as("p")
    world.enter(back)
    assert world.park(back, wait=0.0) == Parked(0.0, 0)
    assert names(world.claim(room=9)) == ["0", "1", "2"]


def test_in_another_line_he_gets_another_place(world: World) -> None:
    for n in range(4):
        world.park(ticket(str(n)), wait=0.0)
    last = world.claim(room=4)[-1].published_as("p")
    world.enter(last)
    world.park(ticket("there"), line=OTHER, wait=0.0)
    world.park(last, line=OTHER, wait=0.0)
    for n in range(4):
        world.park(ticket(f"new{n}"), line=OTHER, wait=0.0)
    assert names(world.claim(OTHER, room=9))[:2] == ["there", "3"]


# Looking


def test_two_pumps_are_not_told_of_one_line_at_once(world: World) -> None:
    world.park(ticket(), wait=0.0)
    assert [name for name, _ in world.look().lines] == [LINE.name]
    assert world.look() == (0.1, [], [])
    world.wait(0.1)  # the first has died, say
    assert [name for name, _ in world.look().lines] == [LINE.name]


def test_lines_are_looked_at_in_turns_of_so_many(world: World) -> None:
    lines = [Line("api", str(n), str(n)) for n in range(5)]
    for each in lines:
        world.park(ticket(each.part), line=each, wait=0.0)
    found = [name for _ in range(3) for name, _ in world.look(2).lines]
    assert sorted(found) == [each.name for each in lines]


def test_a_line_is_looked_at_again_however_long_its_limit_says(world: World) -> None:
    """The limit may be raised, or reset."""
    world.park(ticket(), wait=3600.0)
    assert world.look().wait == 5.0
    world.wait(5.0)
    assert len(world.look().lines) == 1
    claimed = world.claimed(LINE, 100, 0, 3595.0, paced=True)
    assert (claimed.tickets, claimed.wait) == ([], 5.0)
    assert world.look().wait == 5.0


def test_a_line_is_looked_at_as_soon_as_anybody_in_it_may_go(world: World) -> None:
    world.park(ticket("late"), wait=3600.0)
    world.park(ticket("soon"), wait=2.0)
    assert world.look().wait == 2.0
    world.park(ticket("later"), wait=3.0)
    assert world.look().wait == 2.0
    world.park(ticket("now"), wait=0.0)
    assert [name for name, _ in world.look().lines] == [LINE.name]


def test_what_another_version_wrote_is_read_as_a_line_without_limiter(world: World) -> None:
    world.park(ticket(), wait=0.0)
    world.client.hset(world.waitlist.lines, LINE.name, '{"limiter": "api", "new": 1}')
    assert world.look().lines == [(LINE.name, Line("", "", LINE.name))]
    assert names(world.claim()) == ["id"]


# Publishing again


def test_a_published_ticket_is_published_again_later_each_time_and_then_no_more(world: World) -> None:
    world.park(ticket(), wait=0.0)
    (message,) = world.claim(room=1)
    waits = []
    for _ in range(PUBLICATIONS - 1):
        waits.append(world.due_in(ticket()))
        assert world.take(ticket()) is None
        world.wait(waits[-1] - 0.000001)
        assert world.look().overdue == []
        assert world.take(ticket()) is None
        world.wait(0.000001)
        assert world.look().overdue == [(ticket().id, LINE.name)]
        assert world.take(ticket()) == Taken(message.dump(), False)
        assert world.take(ticket()) is None  # another pump was told of it too
    assert waits == [min(10.0 * 2**n, 3600.0) for n in range(PUBLICATIONS - 1)]
    world.wait(3600.0)
    assert world.take(ticket()) == Taken(b"", False)
    assert world.reasons() == {ticket().id: "published 10 times, and no worker has begun it"}
    assert (world.look(), world.count()) == ((None, [], []), 1)
    assert world.enter(message.published_as("p1")).entry is Entry.GO_ON  # it lay in a queue all the time
    assert (world.reasons(), world.count()) == ({}, 0)


def test_a_queue_that_lags_is_given_the_time_it_takes(world: World) -> None:
    message = published(world, ticket("lagging"))
    world.wait(300.0)
    world.enter(message)
    world.park(ticket(), wait=0.0)
    world.claim(room=1)
    assert world.due_in(ticket()) == 600.0


def test_a_lag_falls_slowly(world: World) -> None:
    for n, lag in enumerate([300.0, 0.0, 0.0, 400.0]):
        message = published(world, ticket(str(n)))
        world.wait(lag)
        world.enter(message)
        if n == 2:
            world.park(ticket("probe"), wait=0.0)
            world.claim(room=1)
            assert world.due_in(ticket("probe")) == pytest.approx(600 * 0.98**2, abs=0.001)
    world.park(ticket("last"), wait=0.0)
    world.claim(room=1)
    assert world.due_in(ticket("last")) == 800.0


def test_a_ticket_is_taken_before_its_turn_only_on_demand(world: World) -> None:
    world.park(ticket(), wait=60.0)
    assert world.take(ticket()) is None
    taken = world.take(ticket(), whatever=True)
    assert taken == Taken(ticket().next(LINE.name).dump(), False)
    assert world.due_in(ticket()) == 10.0
    assert world.claim(room=9) == []


# Expired, revoked, cancelled


def test_an_expired_task_is_published_at_once(world: World) -> None:
    expires = "2023-11-14T22:13:50+00:00"  # 30 s after the start
    made = ticket(expires=expires)
    world.park(made, wait=3600.0)
    world.wait(29.999999)
    assert (world.look().overdue, world.take(made)) == ([], None)
    world.wait(0.000001)
    assert world.look().overdue == [(made.id, LINE.name)]
    assert world.take(made) == Taken(made.next(LINE.name).dump(), False)
    assert world.take(made) is None
    assert world.due_in(made) == 10.0  # in case the message is lost
    assert world.drop(made.next(LINE.name))  # Celery has ended it
    assert world.count() == 0
    assert not world.drop(made.next(LINE.name))


def test_a_cancelled_task_is_published_with_the_news(world: World) -> None:
    world.park(ticket(), wait=3600.0)
    world.park(ticket("other"), wait=3600.0)
    assert world.cancel("id", "unknown") == 1
    assert world.look().overdue == [(ticket().id, LINE.name)]
    assert world.take(ticket()) == Taken(ticket().next(LINE.name).dump(), True)
    message = ticket().next(LINE.name).published_as("p1", cancelled=True)
    assert world.enter(message).entry is Entry.CANCELLED
    assert world.enter(message).entry is Entry.CANCELLED  # redelivered: its worker died
    assert world.count() == 1
    assert world.cancel("id") == 0


def test_a_task_that_is_on_its_way_can_be_cancelled_still(world: World) -> None:
    message = published(world, ticket())
    assert world.cancel("id") == 1
    assert world.take(ticket()) == Taken(message.published_as("").dump(), True)
    assert world.enter(message).entry is Entry.CANCELLED


def test_a_dropped_ticket_lets_no_other_publication_in(world: World) -> None:
    """Celery has told whoever waits that it is revoked."""
    message = published(world, ticket())
    world.cancel("id")
    world.take(ticket())
    assert world.drop(message.published_as("p2"))
    assert world.enter(message).entry is Entry.DROP
    assert world.count() == 0


def test_a_retry_of_a_cancelled_task_is_not_cancelled(world: World) -> None:
    message = published(world, ticket())
    world.cancel("id")
    world.enter(message)
    again = ticket(retries=1)
    assert world.enter(again).entry is Entry.GO_ON
    assert world.enter(published(world, again)).entry is Entry.GO_ON


# Quarantine


def test_what_cannot_be_published_is_kept_and_published_no_more(world: World) -> None:
    made = ticket(expires="2023-11-14T22:13:50+00:00")
    message = published(world, made)
    assert world.quarantine(made, "no queue")
    assert not world.quarantine(made, "no queue")
    world.wait(86_400.0)
    assert (world.look(), world.count()) == ((None, [], []), 1)
    assert world.take(made) is None
    assert world.take(made, whatever=True) is None
    assert world.reasons() == {made.id: "no queue"}
    assert world.restore(made, ticket("unknown")) == 1
    assert world.restore(made) == 0
    assert world.look().overdue == [(made.id, LINE.name)]
    assert world.take(made) == Taken(message.published_as("").dump(), False)
    assert world.enter(message.published_as("p2")).entry is Entry.GO_ON
    assert (world.count(), world.reasons()) == (0, {})


def test_a_restored_ticket_has_all_its_publications_again(world: World) -> None:
    world.park(ticket(), wait=0.0)
    world.claim(room=1)
    for _ in range(PUBLICATIONS):
        world.wait(3600.0)
        world.take(ticket())
    assert world.restore(ticket()) == 1
    for _ in range(PUBLICATIONS):
        taken = world.take(ticket())
        assert taken is not None
        assert taken.ticket
        world.wait(3600.0)
    assert world.take(ticket()) == Taken(b"", False)


def test_a_cancelled_task_in_quarantine_is_forgotten(world: World) -> None:
    message = published(world, ticket())
    world.quarantine(ticket())
    assert world.cancel("id") == 1
    assert (world.count(), world.reasons()) == (0, {})
    assert world.cancel("id") == 0
    for _ in range(2):  # its message lay in a queue all the time
        assert world.enter(message).entry is Entry.CANCELLED
    assert world.enter(message.published_as("p2")).entry is Entry.DROP


def test_nothing_that_is_not_parked_goes_into_quarantine(world: World) -> None:
    assert not world.quarantine(ticket())
    assert world.stored() == []


def test_an_expiry_in_quarantine_is_no_news(world: World) -> None:
    """No pump is to be told of it again and again."""
    made = ticket(expires="2023-11-17T22:13:20+00:00")
    world.park(made, wait=0.0)
    world.claim(room=1)
    for _ in range(PUBLICATIONS):
        world.wait(3600.0)
        world.take(made)
    assert world.reasons()
    world.wait(3 * 86_400.0)
    assert world.look() == (None, [], [])


# Moving


def test_a_moved_ticket_goes_first_among_those_of_its_priority(world: World) -> None:
    for n in range(6):
        world.park(ticket(str(n)), wait=0.0, priority=5 if n < 3 else 0)
    assert world.move(ticket("5"), 5)
    assert world.move(ticket("0"), 0)
    assert names(world.claim(room=2)) == ["5", "1"]
    assert world.move(ticket("4"), 9)
    assert world.move(ticket("2"), 9)
    assert names(world.claim(room=9)) == ["2", "4", "0", "3"]


def test_a_moved_ticket_stays_there_when_it_is_denied_again(world: World) -> None:
    for n in range(3):
        world.park(ticket(str(n)), wait=0.0)
    world.move(ticket("2"), 7)
    (found,) = world.claim(room=1)
    message = found.published_as("p")
    world.enter(message)
    world.park(message, wait=0.0)
    assert names(world.claim(room=9)) == ["2", "0", "1"]


def test_only_who_waits_can_be_moved(world: World) -> None:
    assert not world.move(ticket(), 5)
    message = published(world, ticket())
    assert not world.move(ticket(), 5)
    world.quarantine(ticket())
    assert not world.move(ticket(), 5)
    world.enter(message)
    assert not world.move(ticket(), 5)


def test_who_joins_a_line_does_not_change_what_it_waits_for(world: World) -> None:
    refused, joining = (Line("api", "key", "key", (1,), bound) for bound in ("5000/h", ""))
    world.park(ticket("1"), line=refused, wait=0.0, every=0.7)
    joined = world.park(ticket("2"), line=joining, wait=0.0, every=0.0)
    assert joined.ahead == 1
    assert joined.wait == pytest.approx(0.7)  # as far apart as those who were refused
    ((_, line),) = world.look().lines
    assert line.bound_by == "5000/h"


def test_an_old_message_that_no_worker_knows_leaves_nothing_overdue_for_ever(world: World) -> None:
    """It says the line that its task waited in then; by now the task waits in another one."""
    message = published(world, ticket())
    world.enter(message)
    world.park(message, line=OTHER, wait=0.0)
    assert world.quarantine(message, "unknown task t", LINE)
    world.claim(OTHER, room=1)
    world.wait(10.0)
    for id_, line in world.look().overdue:
        assert world.call(world.waitlist.take(id_, line)) is None
    assert world.look().overdue == []
    assert world.reasons() == {message.id: "unknown task t"}
    assert world.restore(message) == 1
    assert world.take(message, OTHER) == Taken(message.next(OTHER.name).dump(), False)
