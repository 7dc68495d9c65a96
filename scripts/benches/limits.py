"""Limits beside their peers: decisions by each algorithm, several rates at once, local leases, memory, callers."""

from __future__ import annotations

from collections.abc import Iterator

from _limits_local import local
from _limits_memory import RATES, flat, memory
from _limits_rows import Versus
from _limits_subjects import Subject, limits, ours, script, slots, throttled
from _rows import Case

ESTIMATE = ", an estimate"  # neither library has more of the promise: it may admit more, or less, than the rate says
PEERS: dict[str, tuple[Subject, ...]] = {
    "window": (
        limits("moving-window"),
        limits("sliding-window-counter", note=ESTIMATE),
        throttled("sliding_window", note=ESTIMATE),
    ),
    "gcra": (throttled("gcra"), throttled("token_bucket"), throttled("leaking_bucket")),
    "fixed": (limits("fixed-window"), throttled("fixed_window")),
}
# The time to live of its keys is its clock, so a copy that lives longer is another thing.
UNCOPIED = ("limits sliding-window-counter, an estimate",)
AMPLE = ("100000/second",)  # more than any of them can decide, so that every decision is an admission
THREE = ("100000/second", "100000000/minute", "1000000000/hour")
VAST = ("1000000000/second",)
SCANT = ("100/hour",)  # used up before the clock runs
CALLERS = (1, 4, 16, 64)
CAP = 1_000  # concurrency


def _decisions() -> Iterator[Case]:
    for algorithm, peers in PEERS.items():
        options, name = {"algorithm": algorithm}, f"limits.decision.{algorithm}"
        lua = Versus(name, ours(**options), script(**options), AMPLE, pinned_goal={"ratio": 0.65})
        aio = f"limits.decision.aio.{algorithm}"
        yield from (lua.sync(), lua._replace(name=aio, pinned_goal={}).aio())
        for peer in peers:
            goal = {"ratio": 0.7} if peer.same else {}
            beside = lua._replace(peer=peer, goal=goal, pinned_goal=goal)
            yield from (beside.sync(), beside._replace(name=aio).aio())


def _refusals() -> Iterator[Case]:
    for algorithm, peers in PEERS.items():
        for peer in (script(algorithm=algorithm), *peers):
            mine = ours(algorithm=algorithm)
            yield Versus(f"limits.refusal.{algorithm}", mine, peer, SCANT, admitted=False).sync()


def _multi() -> Iterator[Case]:
    """`limits` has no cap and asks rate by rate; without leaving the slot it is one decision, with it a whole hold."""
    peer, goal = limits("moving-window"), {"ratio": 0.35}
    decision = Versus("limits.multi", ours(concurrency=CAP), peer, THREE, goal, goal)
    slot = decision._replace(name="limits.multi.slot", ours=slots(concurrency=CAP))
    for versus in (decision, slot):
        yield versus.sync()
        yield versus._replace(name=versus.name.replace("multi", "multi.aio")).aio()
    yield decision._replace(peer=script(concurrency=CAP), goal={}, pinned_goal={"ratio": 0.65}).sync()


def _local() -> Iterator[Case]:
    options = {"lease_tokens": "auto"}
    goal = {"ratio": 1 / 30, "over": 0}
    yield local(Versus("limits.local", ours(**options), limits("moving-window"), VAST, goal, goal), **options)


def _memory() -> Iterator[Case]:
    for algorithm, peers in PEERS.items():
        mine, name = ours(algorithm=algorithm), f"limits.memory.{algorithm}"
        for peer in peers:
            if peer.name not in UNCOPIED:
                yield memory(Versus(name, mine, peer, RATES, {"ours": 512}))
        yield flat(Versus(f"{name}.flat", mine, mine, RATES, pinned_goal={"ratio": 1.2}))


def _callers() -> Iterator[Case]:
    mine, peer = ours(algorithm="window"), limits("moving-window")
    for callers in CALLERS:
        versus = Versus(f"limits.concurrency.{callers}", mine, peer, AMPLE, callers=callers)
        yield versus.sync()
        yield versus._replace(name=f"limits.concurrency.aio.{callers}").aio()


CASES = (*_decisions(), *_refusals(), *_multi(), *_local(), *_callers(), *_memory())
