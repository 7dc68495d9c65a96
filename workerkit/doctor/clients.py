"""Whether the servers have room for the connections of all workers."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.doctor.facts import Facts, ServerFacts
from workerkit.doctor.finding import Finding, Kind

FEW = Kind("maxclients-low", "warning", "All processes together may open more connections than the server allows")
FULL = Kind("maxclients-reached", "error", "Nearly all connections that the server allows are open")
KINDS = (FEW, FULL)

FULL_AT = 0.9
_RESERVED = 32  # descriptors that Redis keeps for itself


def check(facts: Facts) -> Iterator[Finding]:
    """Judge maxclients by processes and pools."""
    for server in facts.well("cache", "guard"):
        most, open_now = server.number("maxclients"), server.number("connected_clients")
        if most is None or open_now is None:
            continue
        # Both stores on one server share one pool.
        need, counted = _need(server, facts)
        room = f"CONFIG SET maxclients {_round(2 * max(need, open_now))}"
        if open_now >= FULL_AT * most:
            text = f"{open_now} of {most} connections are open; the next ones are refused"
            yield FULL.found(server.shown, text, at=server.shown, fix=room)
        elif need > most:
            text = f"{counted}, with {open_now} open now: more than its maxclients of {most}"
            yield FEW.found(server.shown, text, at=server.shown, fix=room)


def _need(server: ServerFacts, facts: Facts) -> tuple[int, str]:
    processes, pool = max(facts.processes, server.processes, 1), facts.app.pool_max
    word = "process" if processes == 1 else "processes"
    told = f"{processes} {word} with up to {pool} connections each (workerkit_pool_max) may open {processes * pool}"
    return processes * pool, told


def _round(number: int) -> int:
    """Up to the next thousand: a number that a person would write."""
    return -(-(number + _RESERVED) // 1000) * 1000
