"""Slots of a fleet (S1 to S4 of the design): holders that are killed, stopped or cut off, waiting, slots within a task.

Moments are compared by the server's stamps, so that a stalled machine cannot break what it has nothing to do with.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from tests.server.limit_rig import (
    FORK,
    PATIENCE,
    command,
    decide,
    in_processes,
    in_threads,
    leases,
    listen,
    listen_to_calls,
    make_engine,
    most_in_any,
    server_us,
    until,
)
from workerkit.api.host import NoHost, Running
from workerkit.api.limiter import Limiter
from workerkit.errors import RateLimited

S = 1_000_000


# S1: never more holders than the cap


def hold(queue, number, url, times):
    engine = make_engine(url)
    limiter = Limiter(engine, "db", concurrency=3, lease="60s")
    seen = Counter()

    def work():
        for _ in range(times):
            with limiter.slot("k", wait=PATIENCE):
                seen[command(engine, "INCR", "holders")] += 1
                time.sleep(random.uniform(0, 0.01))
                command(engine, "DECR", "holders")

    in_threads(3, work)
    queue.put(seen)


def test_s1_there_are_never_more_holders_than_the_cap(redis_url):
    seen = sum(in_processes(3, hold, redis_url, 10), Counter())
    print(f"holders at once: {dict(sorted(seen.items()))}")
    assert max(seen) == 3
    assert sum(seen.values()) == 3 * 3 * 10


# S2 to S4: holders that are killed, stopped, cut off

LEASE = 1.0


def hold_for_ever(queue, url, ready, rates, options):
    limiter = Limiter(make_engine(url), "db", *rates, **options)
    with limiter.slot("k") as slot:
        queue.put((os.getpid(), slot.owner))
        ready.wait()
        lost = slot.lost
    queue.put(lost)


class Holder:
    """A process that holds the slot of "k"."""

    def __init__(self, url, *rates, lease=LEASE, **options):
        options["lease"] = lease
        self.queue, self.ready = FORK.Queue(), FORK.Event()
        self.process = FORK.Process(
            target=hold_for_ever, args=(self.queue, url, self.ready, rates, options), daemon=True
        )
        self.process.start()
        self.pid, self.owner = self.queue.get(timeout=PATIENCE)

    def signal(self, number):
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.process.join(PATIENCE)

    def let_go(self):
        """It goes on, and leaves; answers whether it knew that it had lost its slot."""
        self.ready.set()
        return self.queue.get(timeout=PATIENCE)


def lease_end(engine, limiter, owner):
    """When the server will count the lease as over, in its us; never after one lease from now."""
    end = int(float(command(engine, "ZSCORE", leases(limiter, "k"), owner)))
    assert end <= server_us(engine) + LEASE * S
    return end


def waited_for(limiter, began, end, answers, what):
    """The next holder's slot came exactly when it was free by the server's clock: no refusal after, no grant before."""
    granted = answers[-1]
    assert granted.decision.allowed
    assert granted.stamp >= end
    assert all(answer.stamp < end for answer in answers[:-1])
    print(f"{what}: its slot was free {(end - began) / S:.2f} s later, taken {(granted.stamp - began) / S:.2f} s later")


@pytest.mark.real
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_s2_the_slot_of_a_killed_or_stopped_holder_comes_back_with_its_lease(engine, redis_url, how):
    limiter = Limiter(engine, "db", concurrency=1)
    answers, holder = listen(limiter), Holder(redis_url, concurrency=1)
    holder.signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    began = server_us(engine)
    end = lease_end(engine, limiter, holder.owner)
    with limiter.slot("k", wait=PATIENCE) as slot:
        waited_for(limiter, began, end, answers, f"{how}, with a lease of {LEASE:.0f} s")
        assert not slot.lost
        if how == "stopped":
            # S4 and S3: it is told, and what it does at its end does not touch the slot of another.
            holder.signal(signal.SIGCONT)
            assert holder.let_go() is True
            assert command(engine, "ZRANGE", leases(limiter, "k"), 0, -1) == [slot.owner.encode()]
            assert limiter.peek("k").bound_by == "concurrency"
    assert limiter.peek("k").allowed


@pytest.mark.real
def test_s2_a_terminated_holders_slot_comes_back_at_once(engine, redis_url):
    limiter, holder = Limiter(engine, "db", concurrency=1), Holder(redis_url, concurrency=1, lease=60.0)
    assert limiter.peek("k").bound_by == "concurrency"
    assert holder.let_go() is False
    holder.process.join(PATIENCE)
    assert limiter.usage("k").holders == 0


def test_s4_a_holder_that_is_cut_off_knows_before_another_is_let_in(engine, proxied):
    proxy, behind = proxied
    cut, limiter = Limiter(behind, "db", concurrency=1, lease=LEASE), Limiter(engine, "db", concurrency=1)
    answers = listen(limiter)
    with cut.slot("k") as slot:
        # By how much the server's clock is ahead of this machine's monotonic one: at least.
        ahead = server_us(engine) - time.monotonic() * S
        proxy.black_hole()
        assert not slot.lost or time.monotonic() >= slot.ends
        with limiter.slot("k", wait=PATIENCE) as other:
            assert slot.lost
            granted = answers[-1].stamp
            print(f"it knew {(granted - ahead) / S - slot.ends:.3f} s before the other was let in")
            assert slot.ends * S + ahead <= granted
            proxy.normal()  # its renewals arrive late, and bring nothing back
            with pytest.raises(RateLimited), limiter.slot("k"):
                pytest.fail("admitted")
            until(lambda: behind.runner.call(cut.policy.renew(cut.keys, cut.part("k"), slot)) is False)
            assert slot.lost
            assert not other.lost
            assert command(engine, "ZRANGE", leases(limiter, "k"), 0, -1) == [other.owner.encode()]
    assert limiter.usage("k").holders == 0


def test_s3_only_the_owner_releases_and_renews(engine):
    limiter = Limiter(engine, "db", concurrency=1)
    policy, keys, part = limiter.policy, limiter.keys, limiter.part("k")
    with limiter.slot("k") as slot:
        assert engine.runner.call(policy.release(keys, part, "somebody")) is False
        assert limiter.peek("k").bound_by == "concurrency"
    assert engine.runner.call(policy.release(keys, part, slot.owner)) is False
    assert engine.runner.call(policy.renew(keys, part, slot)) is False
    assert limiter.peek("k").allowed


@pytest.mark.real
def test_what_a_killed_holder_has_not_answered_counts_for_a_period_after_its_lease(engine, redis_url):
    limiter = Limiter(engine, "db", "1/s", count="response")
    answers, holder = listen(limiter), Holder(redis_url, "1/s", count="response")
    holder.signal(signal.SIGKILL)
    began = server_us(engine)
    end = lease_end(engine, limiter, holder.owner)
    with limiter.slot("k", wait=PATIENCE):
        waited_for(limiter, began, end + S, answers, f"killed without an answer, a lease of {LEASE:.0f} s, 1/s")


# Waiting


def test_gcra_slots_wait_in_the_order_of_asking_without_polling(engine):
    limiter = Limiter(engine, "api", "10/s", algorithm="gcra", burst=1)
    answers, calls, entered = listen(limiter), listen_to_calls(limiter), []

    def work():
        with limiter.slot("k", wait=PATIENCE) as slot:
            entered.append((slot.stamp, server_us(engine)))

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        until(lambda number=number: len(answers) > number)
    for thread in threads:
        thread.join(PATIENCE)
    turns = [answer.acts for answer in answers]
    assert [later - earlier for earlier, later in pairwise(turns)] == pytest.approx([100_000] * 7, abs=2)
    assert sorted(stamp for stamp, _ in entered) == turns
    assert all(now >= turn - 1_000 for turn, now in entered), "none before its turn"
    assert calls["limits.request"] == 8, "each asked once"


@pytest.mark.real
def test_pause_and_configure_reach_every_process_with_its_next_decision(engine, redis_url):
    limiter = Limiter(engine, "api", "300/s")
    queue = FORK.Queue()
    fleet = [FORK.Process(target=ask_until_stopped, args=(queue, redis_url), daemon=True) for _ in range(3)]
    for process in fleet:
        process.start()
    moments = []

    def steer(act):
        """Do that, and wait until the fleet has asked often; notes when it was done at the earliest and the latest."""
        before = server_us(engine)
        act()
        moments.append((before, server_us(engine)))
        asked = int(command(engine, "GET", "asked") or 0)
        until(lambda: int(command(engine, "GET", "asked") or 0) > asked + 200)

    steer(lambda: None)
    steer(lambda: limiter.pause("k", "500ms"))
    until(lambda: limiter.peek("k").bound_by != "pause")
    steer(lambda: limiter.configure("k", "5/s"))
    until(lambda: server_us(engine) > moments[-1][1] + 1.25 * S)
    steer(lambda: limiter.configure("k"))
    command(engine, "SET", "stop", 1)
    stamps = [at for _ in fleet for at in queue.get(timeout=2 * PATIENCE)]
    _, (paused, pausing), (_, configured), (back, _) = moments
    assert [at for at in stamps if at < paused], "they were at work"
    assert not [at for at in stamps if pausing < at < paused + 499_000]
    assert 0 < most_in_any([at for at in stamps if configured < at < back], S) <= 5
    assert most_in_any([at for at in stamps if at > back], S) > 5


def ask_until_stopped(queue, url):
    limiter = Limiter(make_engine(url), "api", "300/s")
    stamps = []
    while command(limiter.engine, "GET", "stop") is None:
        answer = decide(limiter, "k")
        command(limiter.engine, "INCR", "asked")
        if answer.decision.allowed:
            stamps.append(answer.stamp)
        time.sleep(0.001)
    queue.put(stamps)


# Slots within a task


class InTask(NoHost):
    """As if the caller were a task."""

    task = "t1"

    def running(self):
        return Running(self.task, "tasks.call")


@pytest.fixture
def task(engine):
    engine.host = InTask()
    return engine.host


def test_a_slot_inside_a_slot_of_the_same_task_takes_no_second_place(engine, task):
    limiter = Limiter(engine, "db", "10/h", concurrency=1)
    with limiter.slot("k") as outer:
        with limiter.slot("k") as inner:
            assert inner.decision.remaining == 8, "each is a call"
            assert limiter.usage("k").holders == 1
            with limiter.slot("k"), limiter.slot("other"):
                assert limiter.usage("other").holders == 1
        assert command(engine, "ZRANGE", leases(limiter, "k"), 0, -1) == [outer.owner.encode()]
        task.task = "t2"
        with pytest.raises(RateLimited, match="concurrency"), limiter.slot("k"):
            pytest.fail("admitted")
        task.task = "t1"
        limiter.configure("k", concurrency=1)
        with limiter.slot("k"):
            assert limiter.usage("k").holders == 1
    assert limiter.usage("k").holders == 0
    with limiter.slot("k"):
        assert limiter.usage("k").holders == 1, "a place of its own again"


def test_threads_of_one_task_take_places_of_their_own(engine, task):
    limiter = Limiter(engine, "db", concurrency=2)
    refused = []

    def work():
        with limiter.slot("k"):
            try:
                with limiter.slot("k"):
                    pass
            except RateLimited:
                refused.append(1)

    with limiter.slot("k"):
        in_threads(1, work)
        assert not refused
        with limiter.slot("k"):
            in_threads(1, lambda: refused.append(limiter.usage("k").holders))
    assert refused == [1]


def test_coroutines_of_one_task_take_places_of_their_own(engine, task):
    limiter = Limiter(engine, "db", concurrency=2)

    async def one(inside):
        async with limiter.aio.slot("k", wait=PATIENCE), limiter.aio.slot("k"):
            inside.append((await limiter.aio.usage("k")).holders)
            await asyncio.sleep(0.02)

    async def main():
        inside = []
        async with limiter.aio.slot("k"):
            await asyncio.gather(*(one(inside) for _ in range(4)))
        await engine.aclose()
        return inside

    assert asyncio.run(main()) == [2, 2, 2, 2]
    assert limiter.usage("k").holders == 0


def test_a_slot_that_was_never_left_does_not_open_the_next_one(engine, task):
    limiter = Limiter(engine, "db", concurrency=1, lease=LEASE)
    plan = limiter.plan("k")
    engine.runner.run(plan.enter())  # as when an interrupt strikes before the with block is entered
    with limiter.slot("k", wait=PATIENCE) as slot:
        assert slot.leased, "it must take a place of its own"
