"""Reading a snapshot in at most five round trips, whatever the fleet does; nothing is written.

A first pipeline says what there is (functions, keys, jobs), a second one how each of those stands.
"""

from __future__ import annotations

import time
from typing import Any

from workerkit.api.kit import WorkerKit
from workerkit.cache.ledger import Index, Ledger, merged
from workerkit.core.call import PING, Call, as_is
from workerkit.core.flow import Batch, Flow
from workerkit.errors import GuardEvicts, StoreError, StoreRefused
from workerkit.jobs.index import Index as JobIndex
from workerkit.top import jobs
from workerkit.top.asking import Answers, ask
from workerkit.top.limits import Limits, parked
from workerkit.top.snapshot import Snapshot, Store, Warm
from workerkit.top.stores import ask_with_info, ill, well

Found = dict[str, Any]  # fields of a Snapshot


def snapshot(kit: WorkerKit) -> Snapshot:
    """How the kit's fleet stands now. Raises StoreError when none of its servers can be read."""
    return kit.engine.runner.run(looking(kit))


def looking(kit: WorkerKit) -> Flow[Snapshot]:
    """`snapshot` as a Flow."""
    began, servers = time.monotonic(), kit.engine.servers
    roles = ("cache",) if servers["guard"] is not servers["cache"] else ("cache", "guard")
    found: Found = {"functions": None, "limits": None, "parked": None, "jobs": None, "warmups": None}
    stores: list[Store] = []
    failed: StoreError | None = None
    try:
        stores.append((yield from _cache(kit, roles, found)))
    except StoreError as error:
        if roles != ("cache",):
            raise
        failed = error
        stores.append(ill(roles, servers["cache"], error))
    try:
        if roles == ("cache",):
            stores.append((yield from _guard_apart(kit, found)))
        else:
            yield from _guard(kit, found, (yield from ask(_first(kit))))
    except StoreError as error:
        if failed is not None:
            raise failed from None
        if roles != ("cache",) and not isinstance(error, GuardEvicts | StoreRefused):
            raise  # the one server has gone meanwhile: half a snapshot would be taken for news
        stores.append(ill(("guard",), servers["guard"], error))
    clock = servers["cache" if failed is None else "guard"].clock
    took = time.monotonic() - began
    return Snapshot(clock.now_us() / 1e6, took, kit.settings.namespace, tuple(stores), **found)


def _cache(kit: WorkerKit, roles: tuple[str, ...], found: Found) -> Flow[Store]:
    keys, sent = kit.engine.keys("c"), time.monotonic()
    _, names = yield from Batch(PING, Index(keys).read())
    ping = time.monotonic() - sent
    ledgers, told = yield from ask_with_info("cache", {name: Ledger(keys, name).read() for name, _ in names})
    found["functions"] = merged((shown, ledgers[name]) for name, shown in names)
    return well(roles, kit.engine.servers["cache"], ping, told)


def _guard_apart(kit: WorkerKit, found: Found) -> Flow[Store]:
    sent = time.monotonic()
    yield from Call("top.ping", "guard", as_is, args=("PING",))
    ping = time.monotonic() - sent
    first, told = yield from ask_with_info("guard", _first(kit))
    yield from _guard(kit, found, first)
    return well(("guard",), kit.engine.servers["guard"], ping, told)


def _first(kit: WorkerKit) -> dict[Any, Call[Any]]:
    warmups: dict[Any, Call[Any]] = {}
    for each in kit.warmups:
        warmups["warm", each.name], warmups["held", each.name] = each.looks()
    return {**Limits(kit).first(), **jobs.first(JobIndex(kit.engine.keys("j"))), **warmups}


def _guard(kit: WorkerKit, found: Found, first: Answers) -> Flow[None]:
    limits = Limits(kit)
    places = limits.places(first)
    second = yield from ask({**limits.second(places), **jobs.second(JobIndex(kit.engine.keys("j")), first)})
    warmups = [(each, first["warm", each.name], first["held", each.name]) for each in kit.warmups]
    found |= {
        "limits": limits.limits(first, places, second),
        "parked": parked(first),
        "jobs": jobs.board(first, second),
        "warmups": tuple(
            Warm(each.function, each.standing(state, held), 0.0 if held or state.paused else each.late(state))
            for each, state, held in warmups
        ),
    }
