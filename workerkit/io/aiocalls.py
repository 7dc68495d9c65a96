"""As `calls`, for coroutines."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any

from workerkit.core.call import Call
from workerkit.io.aiolink import AioLink
from workerkit.io.aiopool import AioPool
from workerkit.io.attempts import Wire, attempts, packed
from workerkit.io.link import Lost
from workerkit.io.server import Server

_Talk = Callable[[AioLink, Any, float], Coroutine[Any, Any, Any]]


async def execute(calls: tuple[Call[Any], ...], pool: AioPool, now: float, deadline: float) -> list[Any]:
    """The results of `calls`, by `deadline` (monotonic seconds, as `now` is). Raises what `attempts` raises."""
    met: Any = None
    server = pool.server
    if not server.is_well(now):
        server.admit(now)
    elif len(calls) == 1 and not (server.evicts and calls[0].store == "guard"):
        met = await _use(pool, _ask, packed(calls[0], server, deadline), deadline)
        if not isinstance(met, Exception):
            return [calls[0].parse(met)]
        if not isinstance(met, Lost):
            met = [met]
    return await _persist(calls, pool, deadline, met)


async def _persist(calls: tuple[Call[Any], ...], pool: AioPool, deadline: float, met: Any) -> list[Any]:
    """Do as `attempts` says until there are results; `met` is what the straight path ended with, if it was taken."""
    protocol = attempts(calls, pool.server, deadline)
    try:
        step = next(protocol)
        while True:
            if met is None:
                if isinstance(step, Wire):
                    met = await _attempt(pool, step, deadline)
                else:
                    await sleep(step.seconds)
            step = protocol.throw(met) if isinstance(met, Lost) else protocol.send(met)
            met = None
    except StopIteration as done:
        results: list[Any] = done.value
        return results


async def _attempt(pool: AioPool, wire: Wire, deadline: float) -> Any:
    if wire.fresh:
        pool.drop_free()
    return await _use(pool, partial(_exchange, pool.server), wire, deadline)


async def _use(pool: AioPool, talk: _Talk, what: Any, deadline: float) -> Any:
    """What is answered to `what` on one connection, or the Lost that it ended with."""
    try:
        link = await pool.take(deadline)
        try:
            answer = await talk(link, what, deadline)
        except BaseException:
            # Whatever escaped, a reply may be outstanding: this connection must never serve another Call.
            pool.drop(link)
            raise
    except Lost as lost:
        return lost
    pool.give(link)
    return answer


async def _ask(link: AioLink, command: bytes, deadline: float) -> Any:
    return await link.ask(command, deadline)


async def _exchange(server: Server, link: AioLink, wire: Wire, deadline: float) -> list[Any]:
    commands = wire.commands(server, deadline)
    if not server.clock_is_old(monotonic()):
        return await link.exchange(commands, deadline)
    time_reply, *answers = await link.exchange([("TIME",), *commands], deadline)
    server.learn_time(time_reply, monotonic())
    return answers
