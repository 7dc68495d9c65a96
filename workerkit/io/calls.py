"""The execution of Calls on a pool of connections: a straight path for what goes well, and `attempts` for the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import Any

from workerkit.core.call import Call
from workerkit.io.attempts import Wire, attempts, packed
from workerkit.io.link import Link, Lost
from workerkit.io.pool import Pool
from workerkit.io.server import Server

_Talk = Callable[[Link, Any, float], Any]


def execute(calls: tuple[Call[Any], ...], pool: Pool, now: float, deadline: float) -> list[Any]:
    """The results of `calls`, by `deadline` (monotonic seconds, as `now` is). Raises what `attempts` raises."""
    met: Any = None
    server = pool.server
    if not server.is_well(now):
        server.admit(now)
    elif len(calls) == 1 and not (server.evicts and calls[0].store == "guard"):
        met = _use(pool, _ask, packed(calls[0], server, deadline), deadline)
        if not isinstance(met, Exception):
            return [calls[0].parse(met)]
        if not isinstance(met, Lost):
            met = [met]
    return _persist(calls, pool, deadline, met)


def _persist(calls: tuple[Call[Any], ...], pool: Pool, deadline: float, met: Any) -> list[Any]:
    """Do as `attempts` says until there are results; `met` is what the straight path ended with, if it was taken."""
    protocol = attempts(calls, pool.server, deadline)
    try:
        step = next(protocol)
        while True:
            if met is None:
                if isinstance(step, Wire):
                    met = _attempt(pool, step, deadline)
                else:
                    sleep(step.seconds)
            step = protocol.throw(met) if isinstance(met, Lost) else protocol.send(met)
            met = None
    except StopIteration as done:
        results: list[Any] = done.value
        return results


def _attempt(pool: Pool, wire: Wire, deadline: float) -> Any:
    if wire.fresh:
        pool.drop_free()
    return _use(pool, partial(_exchange, pool.server), wire, deadline)


def _use(pool: Pool, talk: _Talk, what: Any, deadline: float) -> Any:
    """What is answered to `what` on one connection, or the Lost that it ended with."""
    try:
        link = pool.take(deadline)
        try:
            answer = talk(link, what, deadline)
        except BaseException:
            # Whatever escaped, a reply may be outstanding: this connection must never serve another Call.
            pool.drop(link)
            raise
    except Lost as lost:
        return lost
    pool.give(link)
    return answer


def _ask(link: Link, command: bytes, deadline: float) -> Any:
    return link.ask(command, deadline)


def _exchange(server: Server, link: Link, wire: Wire, deadline: float) -> list[Any]:
    commands = wire.commands(server, deadline)
    if not server.clock_is_old(monotonic()):
        return link.exchange(commands, deadline)
    time_reply, *answers = link.exchange([("TIME",), *commands], deadline)
    server.learn_time(time_reply, monotonic())
    return answers
