"""Whether a server may drop what must be kept, and what it does when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.doctor.facts import HOLDS, Facts, ServerFacts
from workerkit.doctor.finding import Finding, Kind

GUARD = Kind("guard-evicts", "error", "The server of limits, leases, parked tasks and job records evicts keys")
BROKER = Kind("broker-evicts", "error", "The server of the queues evicts keys")
RESULTS = Kind("results-evicted", "warning", "The server of the task results evicts keys")
FULL = Kind("memory-full", "error", "The memory of a server that does not evict is used up, or nearly so")
KINDS = (GUARD, BROKER, RESULTS, FULL)

_EVICTED = {
    "guard": (GUARD, "limits are passed, parked tasks are lost"),
    "broker": (BROKER, "whole queues are lost"),
    "results": (RESULTS, "who waits for a result, or a chord, waits for ever"),
}
FULL_AT = 0.9  # of maxmemory


def check(facts: Facts) -> Iterator[Finding]:
    """Judge the eviction policies by what is stored."""
    for server in facts.well():
        limit = server.number("maxmemory") or 0
        policy = server.info.get("maxmemory_policy", "noeviction")
        if not limit:
            continue  # nothing is evicted, whatever the policy
        if policy == "noeviction":
            yield from _full(server, limit)
            continue
        for role, (kind, harm) in _EVICTED.items():
            if role in server.roles:
                text = f"it holds {HOLDS[role]}, but evicts keys (maxmemory-policy {policy}): {harm}"
                fix = "CONFIG SET maxmemory-policy noeviction"
                yield kind.found(server.shown, text, at=server.shown, fix=fix)


def _full(server: ServerFacts, limit: int) -> Iterator[Finding]:
    used = server.number("used_memory") or 0
    if used >= FULL_AT * limit:
        text = f"{used / limit:.0%} of its {limit:,} bytes are used; when all are, writes fail"
        fix = f"CONFIG SET maxmemory {max(2 * limit, 2 * used)}"
        yield FULL.found(server.shown, text, at=server.shown, fix=fix)
