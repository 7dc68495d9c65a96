"""Blocks of tokens under a simulated clock: handed out once, dead in time, sized to the demand."""

from __future__ import annotations

import os
import random
import sys
import threading
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workerkit.errors import DefinitionError
from workerkit.limits import block
from workerkit.limits.block import Blocks
from workerkit.limits.decision import Decision


def yes(remaining=100):
    return Decision(True, remaining, 0.0, 1.0, "")


def no(remaining, bound_by="100/s"):
    return Decision(False, remaining, 0.25, 1.0, bound_by)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def emptied(blocks, part="k"):
    """How many tokens were left."""
    return next(n for n in count() if blocks.take(part) is None)


def test_a_block_is_handed_out_once_and_its_first_token_is_the_askers(clock):
    blocks = Blocks(5, 0.5, 100, clock=clock)
    assert blocks.take("k") is None
    assert blocks.size("k") == 5
    decision = yes()
    blocks.put("k", 5, decision, clock.now)
    assert blocks.take("other") is None
    assert [blocks.take("k") is decision for _ in range(4)] == [True] * 4
    assert blocks.take("k") is None
    assert blocks.size("k") == 5


def test_a_block_dies_one_life_after_its_request_was_sent(clock):
    blocks = Blocks(5, 0.5, 100, clock=clock)
    sent = clock.now
    clock.now += 0.25
    blocks.put("k", 5, yes(), sent)
    clock.now = sent + 0.499
    assert blocks.take("k") is not None
    clock.now = sent + 0.5
    assert blocks.take("k") is None
    late = clock.now
    clock.now += 0.5
    blocks.put("k", 5, yes(), late)
    assert blocks.take("k") is None


def test_answers_that_come_at_the_same_time_all_count(clock):
    blocks = Blocks(5, 0.5, 100, clock=clock)
    for _ in range(3):
        blocks.put("k", 5, yes(), clock.now)
    blocks.put("k", 5, no(0), clock.now)
    assert emptied(blocks) == 12
    for _ in range(100):
        blocks.put("k", 2, yes(), clock.now)
        assert emptied(blocks) == 1
    assert len(blocks._blocks["k"]) == 1, "used up blocks are kept"


def test_a_refusal_gives_nothing_and_the_next_request_asks_for_what_is_left(clock):
    for blocks in (Blocks(50, 0.5, 100, clock=clock), Blocks("auto", 0.5, 100, clock=clock)):
        blocks.put("k", 50, no(30), clock.now)
        assert blocks.take("k") is None
        assert blocks.size("k") == 30
        blocks.put("k", 30, no(0), clock.now)
        assert blocks.size("k") == 1
        blocks.put("k", 30, no(90, "pause"), clock.now)
        assert blocks.size("k") == 1, "asking for fewer would go on for ever"
    fixed = Blocks(50, 0.5, 100, clock=clock)
    fixed.put("k", 50, no(30), clock.now)
    fixed.put("k", 30, yes(), clock.now)
    assert fixed.size("k") == 50


def test_threads_get_each_token_once(clock):
    blocks, got = Blocks(40_000, 0.5, 40_000, clock=clock), []
    blocks.put("k", 40_000, yes(), clock.now)

    def work():
        n = 0
        while blocks.take("k") is not None:
            n += 1
        got.append(n)

    in_threads(work)
    assert sum(got) == 39_999


def test_threads_lose_no_block(clock):
    blocks = Blocks(2, 0.5, 100, clock=clock)

    def work():
        for _ in range(250):
            blocks.put("k", 2, yes(), clock.now)

    in_threads(work)
    assert emptied(blocks) == 1000


def in_threads(work):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)


def test_auto_doubles_while_blocks_are_used_up_and_falls_to_what_was_used(clock):
    blocks, sizes = Blocks("auto", 1.0, 100, clock=clock), []
    for _ in range(9):
        sizes.append(blocks.size("k"))
        blocks.put("k", sizes[-1], yes(), clock.now)
        emptied(blocks)
        clock.now += 1e-4
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 100, 100]
    blocks.put("k", 100, yes(), clock.now)
    assert all(blocks.take("k") for _ in range(24))
    clock.now += 1.0
    assert blocks.take("k") is None
    assert blocks.size("k") == 25 - 5, "what was used, and room for chance"
    clock.now += 100.0
    assert blocks.size("k") == 1


def test_a_block_that_comes_dead_makes_the_next_one_small(clock):
    blocks = Blocks("auto", 0.1, 100, clock=clock)
    blocks.put("k", 64, yes(), clock.now - 0.2)
    assert blocks.size("k") == 1


@pytest.mark.parametrize("demand", [1, 2, 3, 5, 10, 30, 100, 1000])
@pytest.mark.parametrize("steady", [True, False])
def test_with_steady_demand_little_dies_unused(clock, demand, steady):
    """Calls at even intervals, or at random times of one rate; `demand` a life."""
    chance, blocks = random.Random(demand), Blocks("auto", 1.0, 10_000, clock=clock)
    asked = requests = 0
    calls = max(3000, 30 * demand)
    began = clock.now
    for _ in range(calls):
        clock.now += 1 / demand if steady else chance.expovariate(demand)
        if blocks.take("k") is None:
            size = blocks.size("k")
            blocks.put("k", size, yes(), clock.now)
            requests, asked = requests + 1, asked + size
    wasted = 1 - (calls / asked)
    lives = clock.now - began
    print(f"{demand} a life: {wasted:.1%} of {asked} wasted, {requests / lives:.2f} requests a life")
    assert wasted <= 0.1
    assert requests / lives <= 3.2


def test_a_flood_of_keys_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(block, "MOST_PARTS", 3)
    blocks = Blocks(2, 1.0, 100, clock=clock)
    for part in "abcad":
        blocks.put(part, 2, yes(), clock.now)
    assert [part for part in "abcd" if blocks.take(part)] == ["a", "c", "d"], "b has asked longest ago"


def test_a_forked_child_has_none_of_its_parents_tokens(clock):
    blocks = Blocks(5, 0.5, 100, clock=clock)
    blocks.put("k", 5, yes(), clock.now)
    if (child := os.fork()) == 0:
        os._exit(emptied(blocks))
    assert os.waitpid(child, 0)[1] == 0
    assert emptied(blocks) == 4


@pytest.mark.parametrize("tokens", [0, -1, 101, 2.0, True, "most", None])
def test_sizes_that_will_not_do(tokens):
    with pytest.raises(DefinitionError, match=r"lease_tokens=.* from 1 to 100 here, or \"auto\""):
        Blocks(tokens, 0.5, 100)


# Never over


class Fleet:
    """Processes that lease from a server with an exact window, in ticks; remembers when each token was used."""

    def __init__(self, amount, period, life, *, extra, tokens, processes=3):
        self.amount, self.period, self.life = amount, period, life
        self.extra = extra  # by how much the server counts longer
        self.now, self.charges, self.used = 0, [], []
        self.processes = [Blocks(tokens, life, amount, clock=lambda: self.now) for _ in range(processes)]

    def serve(self, n):
        used = sum(cost for at, cost in self.charges if at + self.period + self.extra > self.now)
        if used + n > self.amount:
            return no(self.amount - used)
        self.charges.append((self.now, n))
        return yes(self.amount - used - n)

    def call(self, process, sending, answering):
        blocks = self.processes[process]
        if blocks.take("k") is not None:
            self.used.append(self.now)
            return
        size, sent = blocks.size("k"), self.now
        self.now += sending
        decision, decided = self.serve(size), self.now
        self.now += answering
        blocks.put("k", size, decision, sent)
        if decision.allowed:
            self.used.append(decided)

    def most_in_any_period(self):
        return max((sum(start <= at < start + self.period for at in self.used) for start in self.used), default=0)


CALLS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 150)),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 12),
        st.integers(1, 30),
    ),
    max_size=60,
)
# A block charged early is used up at its end, when its charge has nearly left a window that is not longer by a life.
SAVED_UP = [(0, 0, 0, 0, 1), (9, 0, 0, 0, 19), (91, 1, 0, 0, 1), (0, 1, 0, 0, 19)]


def run(trace, *, extra, tokens):
    fleet = Fleet(20, 100, 10, extra=extra, tokens=tokens)
    for gap, process, sending, answering, calls in trace:
        fleet.now += gap
        for _ in range(calls):
            fleet.call(process, sending, answering)
    return fleet.most_in_any_period()


@settings(max_examples=200)
@example(SAVED_UP, 20)
@given(CALLS, st.sampled_from([1, 3, 7, 20, "auto"]))
def test_tokens_are_never_used_faster_than_the_limit(trace, tokens):
    assert run(trace, extra=10, tokens=tokens) <= 20


def test_without_the_longer_period_saved_tokens_would_pass_the_limit():
    assert run(SAVED_UP, extra=0, tokens=20) == 39
