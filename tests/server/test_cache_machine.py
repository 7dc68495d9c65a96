"""Everything that can happen to entries, in any order, on a real server: against a model that knows what must come."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.cache_world import ADDED, CUT, FRESH, HOUR, KEYS, LEASE, ON_ERROR, PAUSE, STALE, Plan, World
from tests.rig import until

HEAVY = os.environ.get("WORKERKIT_HEAVY") == "1"


@dataclass(frozen=True)
class Kept:
    """An entry of the model: value number `n`, kept at `at` under `tags`."""

    n: int
    at: float
    tags: frozenset[str]


@dataclass
class Lease:
    kind: str
    until: float
    stands: bool = True  # for a computation under way: no tag was invalidated either


@dataclass
class Call:
    """A call under way on a thread of its own."""

    kit: int
    plan: Plan
    future: Any
    void: set[int]
    old: Kept | None  # what it may fall back on
    lease: Lease | None = None
    shares: bool = True  # others of its process may join it
    followers: list[Call] = field(default_factory=list)


def shared(got: Any) -> Any:
    """What all who share a computation get."""
    return repr(got) if isinstance(got, Exception) else (got.value, got.source)


kits, keys, tags = st.integers(0, 1), st.sampled_from(sorted(KEYS)), st.sampled_from(["t1", "t2"])
endings = st.sampled_from(["ok", "ok", "ok", "fail", "skip"])


class Machine(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.client.flushall()
        self.kept: dict[str, Kept] = {}
        self.leases: dict[str, Lease] = {}
        self.held: dict[str, Call] = {}
        self.made: dict[int, tuple[str, float, frozenset[str]]] = {}  # key, when, tags
        self.void: set[int] = set()  # values from before an invalidation
        self.left_out: set[int] = set()
        self.marked: set[str] = set()  # tags that have a version

    @property
    def now(self) -> float:
        return self.world.hours

    # The model: what is there, and how old

    def usable(self, key: str) -> tuple[str, Kept | None]:
        there = self.kept.get(key)
        age = self.now - there.at if there else 0.0
        if there is None or age >= FRESH + max(STALE, ON_ERROR):
            return "gone", None
        return ("fresh" if age < FRESH else "stale" if age < FRESH + STALE else "spare"), there

    def lease(self, key: str) -> Lease | None:
        lease = self.leases.get(key)
        return lease if lease is not None and self.now < lease.until else None

    def all_tags(self, key: str) -> frozenset[str]:
        return frozenset({KEYS[key], ADDED.get(key, KEYS[key])})

    def note(self, key: str, plan: Plan) -> int:
        """Write down what a computation brought."""
        for n in plan.computed:
            self.made[n] = key, self.now, self.all_tags(key)
        return plan.computed[-1]

    def keep(self, key: str, n: int, tags: frozenset[str]) -> None:
        self.kept[key] = Kept(n, self.now, tags)

    # What is checked of every answer, whatever the model expects

    def check(self, key: str, void: set[int], got: Any) -> None:
        if isinstance(got, Exception):
            assert isinstance(got, LookupError), got
            return
        (n, of), source, age = got
        assert of == key == self.made[n][0]
        assert n not in void, f"{source} is from before an invalidation"
        passed = self.now - self.made[n][1]
        if source != "computed":
            assert n not in self.left_out
            assert abs(age / HOUR - passed) < 0.1
        low, high = {
            "hit": (0, FRESH),
            "stale": (FRESH, FRESH + STALE),
            "error": (FRESH, FRESH + ON_ERROR),
            "computed": (0, FRESH),
        }[source]
        assert low <= passed < high, (source, passed)

    # Calls, one after the other

    @rule(kit=kits, key=keys, ending=endings)
    def call(self, kit: int, key: str, ending: str) -> None:
        state, old = self.usable(key)
        if self.joins(kit, key, state, old):
            return
        plan = Plan(ending)
        void = set(self.void)
        got = self.world.planned(plan, self.world.functions[kit].memo.entry, key)
        lease = self.lease(key)
        if state == "fresh":
            self.expect(got, plan, old, "hit")
        elif state == "stale" and lease is not None:
            self.expect(got, plan, old, "stale")
        elif state == "spare" and lease is not None and lease.kind == "pause":
            self.expect(got, plan, old, "error")
        else:
            leads = lease is None or lease.kind == "pause"
            self.computed(key, plan, got, old, leads=leads, kept=leads)
        self.check(key, void, got)

    def joins(self, kit: int, key: str, state: str, old: Kept | None) -> bool:
        """Whether such a call shares the computation that is held up in this process."""
        held = self.held.get(key)
        return held is not None and held.shares and held.kit == kit and state in {"spare", "gone"} and held.old == old

    @staticmethod
    def expect(got: Any, plan: Plan, old: Kept | None, source: str) -> None:
        assert not isinstance(got, Exception), got
        assert old is not None
        assert (got.value[0], got.source, plan.computed) == (old.n, source, [])

    def computed(self, key: str, plan: Plan, got: Any, old: Kept | None, *, leads: bool, kept: bool) -> None:
        """A call had to compute. `leads`: it had the lease; `kept`: and no invalidation took its result away."""
        n = self.note(key, plan)
        assert len(plan.computed) == 1
        if leads:
            self.leases.pop(key, None)
        if plan.ending != "fail":
            assert not isinstance(got, Exception), got
            assert (got.value[0], got.source) == (n, "computed")
            if plan.ending == "skip":
                self.left_out.add(n)
            elif kept:
                self.keep(key, n, self.all_tags(key))
            return
        age = self.now - old.at if old else 0.0
        if old is not None and leads and age < FRESH + ON_ERROR:
            self.leases[key] = Lease("pause", self.now + PAUSE)
        if old is None or age >= FRESH + ON_ERROR:
            assert isinstance(got, LookupError), got
        else:
            assert (got.value[0], got.source) == (old.n, "error")

    @rule(kit=kits, key=keys, ending=endings)
    def refresh(self, kit: int, key: str, ending: str) -> None:
        _, old = self.usable(key)
        plan, lease, void = Plan(ending), self.lease(key), set(self.void)
        got = self.world.planned(plan, self.world.functions[kit].memo.refresh, key)
        if lease is not None and lease.kind == "computing":
            assert (got, plan.computed) == (None, [])
            return
        n = self.note(key, plan)
        self.leases.pop(key, None)
        if ending == "fail":
            assert isinstance(got, LookupError)
            if old is not None:
                self.leases[key] = Lease("pause", self.now + (PAUSE if self.now - old.at > FRESH else 0.0))
            return
        assert got == [n, key]
        assert n not in void
        if ending == "skip":
            self.left_out.add(n)
        else:
            self.keep(key, n, self.all_tags(key))

    # Calls that overlap

    @rule(kit=kits, key=keys)
    def begin(self, kit: int, key: str) -> None:
        """A call leads, and is held up in its computation."""
        state, old = self.usable(key)
        lease = self.lease(key)
        if key in self.held or state == "fresh" or (lease and (lease.kind != "pause" or state != "gone")):
            return
        call = self.start(kit, key, Plan(gate=threading.Event()), old)
        until(lambda: call.plan.computed or call.future.done())
        assert call.plan.computed
        call.shares = state != "stale"
        call.lease = self.leases[key] = Lease("computing", self.now + LEASE)
        self.held[key] = call

    def start(self, kit: int, key: str, plan: Plan, old: Kept | None) -> Call:
        act = self.world.functions[kit].memo.entry
        return Call(kit, plan, self.world.pool.submit(self.world.planned, plan, act, key), set(self.void), old)

    @rule(key=keys)
    def join(self, key: str) -> None:
        """A call of the same process joins the one that is held up."""
        held = self.held.get(key)
        state, old = self.usable(key)
        if held is None or held.followers or not self.joins(held.kit, key, state, old):
            return
        before = self.world.sharing(held.kit)
        follower = self.start(held.kit, key, Plan(), old)
        until(lambda: self.world.sharing(held.kit) > before or follower.future.done())
        if not follower.future.done():
            held.followers.append(follower)
            return
        # Another computation of this process had the lease meanwhile: when it ended nobody could join this one either.
        assert self.lease(key) is not held.lease
        self.note(key, follower.plan)
        self.check(key, follower.void, follower.future.result())
        self.resync(key)

    @rule(key=keys, ending=endings)
    def finish(self, key: str, ending: str) -> None:
        held = self.held.pop(key, None)
        if held is not None:
            self.end(key, held, ending)

    def end(self, key: str, held: Call, ending: str) -> None:
        held.plan.ending = ending
        lease = self.lease(key)
        leads = lease is held.lease
        stands = leads and held.lease.stands
        held.plan.gate.set()
        got = held.future.result(20)
        self.computed(key, held.plan, got, held.old, leads=leads, kept=stands)
        self.check(key, held.void, got)
        for follower in held.followers:
            answer = follower.future.result(20)
            if follower.plan.computed:
                assert not stands
                self.note(key, follower.plan)
            elif stands:
                assert shared(answer) == shared(got)
            self.check(key, follower.void, answer)
            if not stands:
                self.resync(key)

    def resync(self, key: str) -> None:
        """Who went round again did so beside others: look what came of it. What he got was checked."""
        memo = self.world.functions[0].memo
        place, parts = memo.function.place((key,), {})
        found = self.world.kits[0].engine.runner.call(memo.fetcher.entries.get(place, parts))
        self.kept.pop(key, None)
        if found.envelope is not None:
            n = memo.fetcher.policy.load(found.envelope)[0]
            if n not in self.void:
                _, at, tags = self.made[n]
                self.kept[key] = Kept(n, at, tags)
        if not self.world.client.exists(place.lease):
            self.leases.pop(key, None)

    def teardown(self) -> None:
        for held in self.held.values():
            held.plan.gate.set()
        for key, held in self.held.items():
            self.end(key, held, "ok")

    # What happens to them

    @rule(kit=kits, key=keys)
    def set(self, kit: int, key: str) -> None:
        self.world.next += 1
        n = self.world.next
        self.world.functions[kit].memo.set([n, key], key)
        self.made[n] = key, self.now, frozenset({KEYS[key]})
        self.keep(key, n, frozenset({KEYS[key]}))
        self.leases.pop(key, None)
        self.doom(key, lambda made: False)

    @rule(kit=kits, key=keys)
    def invalidate(self, kit: int, key: str) -> None:
        self.world.functions[kit].memo.invalidate(key)
        self.kept.pop(key, None)
        self.leases.pop(key, None)
        self.doom(key, lambda tags: True)

    @rule(kit=kits, tag=tags)
    def invalidate_tag(self, kit: int, tag: str) -> None:
        self.world.kits[kit].cache.invalidate(tag=tag)
        for key in KEYS:
            if key in self.kept and tag in self.kept[key].tags:
                del self.kept[key]
            if tag in self.all_tags(key):
                if key in self.held:
                    self.held[key].lease.stands = False
                self.doom(key, lambda tags: tag in tags)

    def doom(self, key: str, covers: Any) -> None:
        """No later call gets what was made, or is being made, before this moment."""
        self.void |= {n for n, (of, _, tags) in self.made.items() if of == key and covers(tags)}
        if key in self.held:
            self.void |= set(self.held[key].plan.computed)

    @rule(hours=st.sampled_from([3.1, 37.3, 150.7]))
    def advance(self, hours: float) -> None:
        self.world.client.eval(CUT, 0, int(hours * HOUR * 1000))
        self.world.hours += hours

    @rule(key=keys)
    def crash(self, key: str) -> None:
        """A leader dies: its lease stays behind."""
        if self.lease(key) is None and key not in self.held:
            place, _ = self.world.functions[0].memo.function.place((key,), {})
            self.world.client.set(place.lease, "c-of-the-dead", px=int(LEASE * HOUR * 1000))
            self.leases[key] = Lease("computing", self.now + LEASE)

    @precondition(lambda self: len(self.made) > 5)
    @rule()
    def flush(self) -> None:
        self.world.client.flushall()
        self.kept.clear()
        self.leases.clear()

    @invariant()
    def first_versions_of_tags(self) -> None:
        """That it was another's use and no invalidation cannot be seen: a computation that adds this tag is in vain."""
        tags = self.world.kits[0].engine.tags
        marked = {tag for tag in set(KEYS.values()) if self.world.client.exists(tags.key(tags.part(tag)))}
        for key, held in self.held.items():
            if ADDED.get(key) in marked - self.marked:
                held.lease.stands = False
        self.marked = marked


@pytest.mark.timeless
def test_no_order_of_events_breaks_a_promise(redis_url):
    world = World(redis_url)
    machine = type("Tried", (Machine,), {"world": world})
    steps = settings(
        max_examples=2000 if HEAVY else 100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=steps)
    finally:
        world.close()
