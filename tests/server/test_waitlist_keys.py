"""Every key of the waitlist: declared, in one slot, with a TTL after whatever was done, and unchanged by a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.server.waitlist_rig import LINE, OTHER, World, ticket, world_on
from workerkit.core.call import Call
from workerkit.waitlist.line import Place
from workerkit.waitlist.waitlist import PUBLICATIONS, Waitlist

MADE = ticket(expires="2023-11-14T22:14:20+00:00")
BACK = MADE.next(LINE.name).published_as("p1")


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    with world_on(redis_url) as world:
        yield world


def emptied(world: World) -> None:
    """As where all has expired."""
    world.client.flushdb()


def published_too_often(world: World) -> None:
    for _ in range(PUBLICATIONS):
        world.wait(3600.0)
        world.take(MADE)


STEPS: dict[str, Callable[[World], Any]] = {
    "park": lambda w: w.park(MADE, wait=0.0),
    "park another": lambda w: w.park(ticket("2"), group="g", weight=0.5),
    "look": World.look,
    "move": lambda w: w.move(ticket("2"), 7),
    "claim": lambda w: w.claim(room=1),
    "enter": lambda w: w.enter(BACK),
    "park again": lambda w: w.park(BACK),
    "cancel": lambda w: w.cancel("2"),
    "take": lambda w: w.take(ticket("2")),
    "cancelled": lambda w: w.enter(ticket("2").next(LINE.name).published_as("p")),
    "quarantine": lambda w: w.quarantine(MADE),
    "restore": lambda w: w.restore(MADE),
    "take again and again": published_too_often,
    "restore again": lambda w: w.restore(MADE),
    "drop": lambda w: w.drop(BACK),
    "claim the rest": World.claim,
    "elsewhere": lambda w: w.park(MADE, line=OTHER, wait=0.0),
}


def test_every_key_has_a_ttl_and_one_slot_after_every_step(world: World) -> None:
    seen: set[str] = set()
    for name, step in STEPS.items():
        assert step(world) is not False, name
        assert world.immortal() == [], name
        seen |= set(world.stored())
    assert {key.partition("}:")[0] for key in seen} == {"t:w:{waitlist:all"}
    kinds = {re.sub(r"(line|record):.*?(:\w)?$", r"\1\2", key.partition("}:")[2]) for key in seen}
    lists = {"tickets", "infos", "ids", "due", "lines", "out", "expiring", "quarantine"}
    assert kinds == lists | {"line:l", "line:w", "line:f", "line:t", "record"}


def test_keys_live_on_while_somebody_looks(world: World) -> None:
    world.park(MADE, wait=3600.0)
    hour, day = 3_600_000, 86_400_000
    for key in (world.waitlist.tickets, world.waitlist.infos, world.waitlist.ids):
        world.client.pexpire(key, hour)
    world.look()
    for key in (world.waitlist.tickets, world.waitlist.infos, world.waitlist.ids, world.waitlist.lines):
        assert world.client.pttl(key) > 29 * day
    for key in world.waitlist.of_line(LINE.name):
        world.client.pexpire(key, hour)
    world.claim(room=0, wait=3600.0)
    for key in world.waitlist.of_line(LINE.name)[:2]:
        assert world.client.pttl(key) > 29 * day


def test_nobody_waits_and_little_is_left(world: World) -> None:
    world.park(MADE, wait=0.0, group="g")
    world.claim(room=1)
    world.enter(BACK)
    world.claim(room=1)
    kinds = {key.rpartition("}:")[2] for key in world.stored()}
    assert kinds == {f"record:{MADE.id}", f"line:{LINE.name}:l", f"line:{LINE.name}:t"}
    assert max(world.client.pttl(key) for key in world.waitlist.of_line(LINE.name)) <= 3_600_000


# What is declared


def calls(waitlist: Waitlist) -> list[Call[Any]]:
    """One Call of every script, in an order in which each has something to do."""
    where = Place(group="g", every_us=100_000)
    return [
        waitlist.enter(MADE, LINE.name),
        waitlist.park(MADE, LINE, where, wait=0.0, most=10),
        waitlist.park(ticket("2"), LINE, where, wait=0.0, most=10),
        waitlist.look(10),
        waitlist.move(ticket("2").id, LINE.name, 7),
        waitlist.claim(LINE.name, 10, 1),
        waitlist.take(MADE.id, LINE.name, whatever=True),
        waitlist.quarantine(MADE.id, LINE.name, "why"),
        waitlist.restore(MADE.id),
        waitlist.enter(BACK, LINE.name),
        waitlist.park(BACK, LINE, where, wait=0.0, most=10),
        waitlist.cancel("id"),
        waitlist.quarantine(MADE.id, LINE.name, "why"),
        waitlist.cancel("id"),
        waitlist.drop(ticket("2").next(LINE.name)),
        waitlist.claim(LINE.name, 10),
    ]


def load(client: Any, waitlist: Waitlist) -> None:
    for script in {each.script for each in calls(waitlist) if each.script is not None}:
        client.script_load(script.source)


def real(client: Any, call: Call[Any], not_after: int = 2**53) -> Any:
    """As a runner would send it: with a deadline, on the server's own clock."""
    return call.parse(client.execute_command(*call.words(not_after)))


def test_all_scripts_are_among_them(world: World) -> None:
    tried = {call.script.name for call in calls(world.waitlist) if call.script is not None}
    assert tried == {"enter", "park", "look", "claim", "take", "mark", "drop", "quarantine", "restore", "move"}


@pytest.mark.real
def test_every_key_is_declared(world: World) -> None:
    load(world.client, world.waitlist)
    found: list[tuple[str, set[str], set[str]]] = []
    for call in calls(world.waitlist):
        with world.client.monitor() as monitor:
            real(world.client, call)
            world.client.echo("done")
            used: set[str] = set()
            while b'"ECHO"' not in (line := monitor.connection.read_response()):
                command = re.findall(rb'"((?:[^"\\]|\\.)*)"', line)
                if b" lua] " in line and command != [b"TIME"]:
                    used |= set(world.client.command_getkeys(*command))
        found.append((call.name, used, set(call.keys)))
    for name, used, declared in found:
        assert used, name
        assert used <= declared, name


# What refuses writes nothing


REFUSED: dict[str, Callable[[World], Any]] = {
    "enter: come for the first time": lambda w: w.enter(ticket("new"), OTHER),
    "enter: join": lambda w: w.enter(ticket("new")),
    "enter: spent": lambda w: w.enter(MADE),
    "park: again": lambda w: w.park(MADE),
    "park: full": lambda w: w.park(ticket("new"), most=3),
    "take: not overdue": lambda w: w.take(MADE),
    "take: unknown": lambda w: w.take(ticket("new")),
    "take: in quarantine": lambda w: w.take(ticket("kept"), whatever=True),
    "quarantine: again": lambda w: w.quarantine(ticket("kept"), "why"),
    "quarantine: unknown": lambda w: w.quarantine(ticket("new")),
    "drop: unknown": lambda w: w.drop(ticket("new")),
    "cancel: unknown": lambda w: w.cancel("new", ""),
    "restore: not there": lambda w: w.restore(MADE, ticket("new")),
    "move: on its way": lambda w: w.move(ticket("sent"), 5),
    "move: unknown": lambda w: w.move(ticket("new"), 5),
    "look: nothing to do": World.look,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_nothing_writes_nothing(world: World, name: str) -> None:
    for each in ("sent", "kept"):
        world.park(ticket(each), wait=0.0)
    world.claim(room=2)
    world.quarantine(ticket("kept"), "why")
    world.park(MADE)
    before = world.dump()
    REFUSED[name](world)
    assert world.dump() == before


def test_a_call_that_comes_too_late_writes_nothing(world: World) -> None:
    load(world.client, world.waitlist)
    for call in calls(world.waitlist):
        before = world.dump()
        with pytest.raises(redis.ResponseError, match="LATE"):
            real(world.client, call, not_after=1)
        assert world.dump() == before
        real(world.client, call)
