"""Asks a Redis server what there is to know of it, in a few round trips before a deadline.

Not by way of the kit's pools: these refuse a server that is too old, or full, and cannot say what else it tells. Errors
are values here, for what a server does not allow must not hide the rest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from workerkit.core.call import Word
from workerkit.doctor.facts import ServerFacts
from workerkit.doctor.places import Place
from workerkit.errors import DefinitionError
from workerkit.io.address import Address
from workerkit.io.link import Link, Lost

SAMPLES = 3  # of its clock
NAME = "workerkit-doctor"  # not that of a worker's connections, which are counted
_CONFIG = ("maxclients", "save", "appendfsync", "dir")
_DENIED = ("NOPERM", "no permissions", "unknown command", "not allowed", "disabled")


def look(place: Place, deadline: float) -> ServerFacts:
    """What `place` tells before `deadline` (monotonic seconds); one that cannot be asked has `trouble`."""
    address, link = place.address, Link(place.address)
    try:
        replies = link.open(_questions(address), deadline)
        samples = [_sample(link, deadline) for _ in range(SAMPLES)]
    except (Lost, DefinitionError) as error:
        return _facts(place, trouble=str(error))
    finally:
        link.close()
    return _told(place, replies, samples)


def _questions(address: Address) -> list[tuple[Word, ...]]:
    # AUTH by itself and no HELLO, so that a server of any age answers; one word where there is no user, for the same.
    login: tuple[Word, ...] = ("PING",)
    if address.password:
        login = ("AUTH", *([address.username] if address.username else []), address.password)
    database: tuple[Word, ...] = ("SELECT", address.db) if address.db else ("PING",)
    config: list[tuple[Word, ...]] = [("CONFIG", "GET", name) for name in _CONFIG]
    clients: tuple[Word, ...] = ("CLIENT", "LIST")
    return [login, database, ("CLIENT", "SETNAME", NAME), ("INFO",), clients, *config]


def _sample(link: Link, deadline: float) -> tuple[float, float] | None:
    """How far the server's clock is ahead of ours, and half of the round trip; None when it does not tell."""
    wall, began = time.time(), time.monotonic()
    (reply,) = link.exchange([("TIME",)], deadline)
    trip = time.monotonic() - began
    if isinstance(reply, Exception):
        return None
    return int(reply[0]) + int(reply[1]) / 1e6 - (wall + trip / 2), trip / 2


def _told(place: Place, replies: list[Any], samples: list[Any]) -> ServerFacts:
    login, database, _, info, clients, *config = replies
    for reply in (login, database):
        # PING may be denied to a user who may do all else.
        if isinstance(reply, Exception) and not _denied(reply):
            return _facts(place, trouble=_said(reply), refused=True)
    if isinstance(info, Exception) and not _denied(info):
        return _facts(place, trouble=_said(info), refused=True)  # NOAUTH, LOADING
    found = {name: reply for name, reply in zip(_CONFIG, config, strict=True) if not isinstance(reply, Exception)}
    unread = {"info": isinstance(info, Exception), "client|list": isinstance(clients, Exception)}
    unread |= {"config|get": len(found) < len(_CONFIG), "time": None in samples}
    known = [sample for sample in samples if sample is not None]
    skew, error = min(known, key=lambda sample: sample[1], default=(None, 0.0))
    return _facts(
        place,
        info={} if unread["info"] else _lines(_text(info)),
        config={name: _text(reply[1]) for name, reply in found.items() if len(reply) == 2},
        unread=tuple(name for name, lacking in unread.items() if lacking),
        processes=0 if unread["client|list"] else _processes(_text(clients)),
        skew=skew,
        skew_error=error,
    )


def _facts(place: Place, **found: Any) -> ServerFacts:
    where: Mapping[str, Any] = place.address.arguments
    return ServerFacts(
        shown=place.address.shown,
        roles=place.roles,
        port=where.get("port", 0),
        path=where.get("path", ""),
        local="path" in where or where.get("host") in {"localhost", "127.0.0.1", "::1"},
        user=place.address.username or "default",
        **found,
    )


def _denied(reply: Exception) -> bool:
    return any(word in str(reply) for word in _DENIED)


def _said(reply: Exception) -> str:
    return str(reply).partition(", with args")[0]  # an old server repeats what it was sent, a password for instance


def _text(reply: Any) -> str:
    return reply if isinstance(reply, str) else bytes(reply).decode("utf-8", "replace")


def _lines(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _processes(clients: str) -> int:
    """Processes of workers, and of whoever else has a kit: their connections are named `workerkit:role:host:pid`."""
    named = [word for line in clients.splitlines() for word in line.split() if word.startswith("name=workerkit:")]
    return len({tuple(name.split(":")[2:]) for name in named})
