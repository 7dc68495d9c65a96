"""Whose turn has come: what a pump asks the waitlist and the limiters before it publishes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from workerkit.core.call import Call
from workerkit.core.flow import Batch, Flow
from workerkit.errors import StoreError
from workerkit.limits.room import Room
from workerkit.waitlist.line import Line
from workerkit.waitlist.waitlist import Claimed, Waitlist

BATCH = 100


class Turn(NamedTuple):
    """A ticket to be published, of the line of this name."""

    id: str
    line: str
    ticket: bytes
    cancelled: bool = False


class Turns(NamedTuple):
    """What is to be published now, the ids that went to quarantine, and seconds until there is more to do (None:
    nothing is parked)."""

    turns: list[Turn]
    given_up: list[str]
    wait: float | None


RoomOf = Callable[[Line, float], Call[Room] | None]


def gather(waitlist: Waitlist, room_of: RoomOf, ahead: dict[str, float]) -> Flow[Turns]:
    """Take the tickets whose turn has come.

    `room_of` asks how much room a line's limiter will have so many seconds from now (None: it is not known here); how
    many is learned in `ahead`, by the line's name. What was taken and is then not published, for whatever reason, is
    taken again by another pump.
    """
    look = yield from waitlist.look(BATCH)
    found, given_up = [], []
    for id_, line in look.overdue:
        taken = yield from waitlist.take(id_, line)
        if taken is not None and taken.ticket:
            found.append(Turn(id_, line, taken.ticket, taken.cancelled))
        elif taken is not None:
            given_up.append(id_)
    waits = [look.wait]
    claims = yield from _claims(waitlist, look.lines, room_of, ahead)
    if claims:
        names = [name for name, _ in look.lines]
        for name, claimed in zip(names, (yield from Batch(*claims)), strict=True):
            found += [Turn(id_, name, ticket) for id_, ticket in claimed.tickets]
            waits.append(claimed.wait)
            if claimed.wait is None:
                ahead.pop(name, None)
            else:
                ahead[name] = claimed.ahead
    wait = min((each for each in waits if each is not None), default=None)
    return Turns(found, given_up, 0.0 if len(look.lines) == BATCH else wait)


def _claims(
    waitlist: Waitlist, lines: list[tuple[str, Line]], room_of: RoomOf, ahead: dict[str, float]
) -> Flow[list[Call[Claimed]]]:
    leads = [ahead.get(name, 0.0) for name, _ in lines]
    asked = [room_of(line, lead) for (_, line), lead in zip(lines, leads, strict=True)]
    rooms: Iterator[Room | None] = iter((yield from _rooms([call for call in asked if call is not None])))
    claims = []
    for (name, _), lead, call in zip(lines, leads, asked, strict=True):
        room = next(rooms) if call is not None else None
        if room is None:
            claims.append(waitlist.claim(name, BATCH))
        else:
            claims.append(waitlist.claim(name, BATCH, room.requests, room.wait, paced=room.paced, ahead=lead))
    return claims


def _rooms(calls: list[Call[Room]]) -> Flow[list[Room | None]]:
    try:
        return (yield from Batch(*calls)) if calls else []
    except StoreError:
        return [None] * len(calls)  # then they go at their own pace: the limiter decides at each execution
