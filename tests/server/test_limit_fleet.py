"""What a fleet is promised (L1 to L5, S1 to S4 of the design), with real processes that are killed, stopped, cut off.

Moments are compared by the server's stamps, so that a stalled machine cannot break what it has nothing to do with.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
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
    largest_burst,
    leases,
    make_engine,
    most_in_any,
    server_us,
    until,
    used,
)
from workerkit.api.host import NoHost, Running
from workerkit.api.limiter import Limiter
from workerkit.core.call import PING
from workerkit.core.events import LimitDown
from workerkit.errors import OutcomeUnknown, RateLimited, StoreUnavailable
from workerkit.testing.proxy import FaultProxy

ALGORITHMS = ["window", "gcra", "fixed"]
S = 1_000_000


@pytest.fixture
def engine(redis_url):
    engine = make_engine(redis_url)
    yield engine
    engine.close()


@pytest.fixture
def proxied(redis_url):
    """A proxy before the server, and an engine behind it."""
    with FaultProxy(redis_url) as proxy:
        engine = make_engine(proxy.url)
        yield proxy, engine
        proxy.normal()
        engine.close()


def listen(limiter):
    """Have every answer of `limiter`'s noted: the list of them."""
    answers, parse = [], limiter.policy._answer

    def note(reply):
        answers.append(parse(reply))
        return answers[-1]

    limiter.policy._answer = note
    return answers


def listen_to_calls(limiter):
    """Have the Calls of `limiter`'s engine counted, by name: the counts."""
    calls, runner = Counter(), limiter.engine.runner
    run = runner.call

    def count(call, timeout=None):
        calls[call.name] += 1
        return run(call, timeout)

    runner.call = count
    return calls


# L1: never above the bound, whatever the number of processes and their clocks


def move_clock(by):
    """Put this process's clock out by so many seconds."""
    real, real_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: real() + by, lambda: real_ns() + round(by * 1e9)


def hammer(queue, number, url, seconds, rates, options):
    """Ask for so many seconds, or (None) until the server holds "stop"; answers the stamps of what was admitted."""
    move_clock((number % 3 - 1) * 3600)
    limiter = Limiter(make_engine(url), "api", *rates, **options)
    stamps, start = [], time.monotonic()
    while time.monotonic() - start < seconds if seconds else command(limiter.engine, "GET", "stop") is None:
        answer = decide(limiter, "k")
        if answer.decision.allowed:
            stamps.append(answer.stamp)
        else:
            time.sleep(answer.decision.retry_after)
    queue.put(stamps)


def hammered(url, processes, seconds, *rates, **options):
    stamps = [at for each in in_processes(processes, hammer, url, seconds, rates, options) for at in each]
    assert stamps
    return stamps


def test_l1_a_window_is_never_passed(redis_url):
    stamps = hammered(redis_url, 3, 2.9, "60/300ms", "100/700ms")
    most = [most_in_any(stamps, 300_000), most_in_any(stamps, 700_000)]
    print(f"{len(stamps)} admissions, at most {most}, {used(stamps, 700_000, 100):.1%} of 100/700ms used")
    assert most[0] <= 60
    assert most[1] <= 100
    assert len(stamps) >= 100


def test_l1_gcra_is_never_passed(redis_url):
    stamps = hammered(redis_url, 3, 2.9, "200/s", algorithm="gcra", burst=20)
    burst = largest_burst(stamps, 5_000)
    print(f"{len(stamps)} admissions, a burst of {burst:.4f}")
    assert 10 < burst <= 20


def test_l1_fixed_windows_are_never_passed(redis_url):
    stamps = hammered(redis_url, 3, 2.9, "60/300ms", algorithm="fixed")
    most = max(Counter(at // 300_000 for at in stamps).values())
    print(f"{len(stamps)} admissions, at most {most} in a window")
    assert most <= 60
    assert len(stamps) >= 60


@pytest.mark.heavy
def test_l1_eight_processes_for_twenty_seconds_pass_no_window_and_use_it(redis_url):
    stamps = hammered(redis_url, 8, 20.0, "300/s", "3000/15s")
    most = [most_in_any(stamps, S), most_in_any(stamps, 15 * S)]
    use = used(stamps, 15 * S, 3000)
    print(f"{len(stamps)} admissions by 8 processes in 20 s, at most {most}, {use:.2%} of 3000/15s used")
    assert most == [300, 3000]
    assert use >= 0.97


@pytest.mark.heavy
@pytest.mark.parametrize(("algorithm", "limit"), [("window", 300), ("window", 20), ("gcra", 300), ("fixed", 300)])
def test_l1_eight_processes_for_twenty_seconds(redis_url, algorithm, limit):
    stamps = hammered(redis_url, 8, 20.0, f"{limit}/s", algorithm=algorithm)
    bound, most, use = limit, most_in_any(stamps, S), used(stamps, S, limit)
    if algorithm == "gcra":
        bound, most = limit / 10, largest_burst(stamps, S / limit)
        use = used([at for at in stamps if at >= min(stamps) + S], S, limit)  # without the burst it began with
    elif algorithm == "fixed":
        windows = Counter(at // S for at in stamps)
        whole = [windows[each] for each in range(min(windows) + 1, max(windows))]
        most, use = max(windows.values()), sum(whole) / len(whole) / limit
    print(
        f"{algorithm} {limit}/s: {len(stamps)} admissions by 8 processes in 20 s, {most:g} of {bound}, {use:.2%} used"
    )
    assert most <= bound
    assert use >= 0.97


def take_ahead(queue, number, url, seconds, lease_tokens):
    """Bursts and pauses, so that blocks are left with tokens that are older than they may be."""
    limiter = Limiter(make_engine(url), "api", "200/500ms", lease_tokens=lease_tokens)
    spans, calls, chance, start = [], listen_to_calls(limiter), random.Random(number), time.monotonic()
    while time.monotonic() - start < seconds:
        for _ in range(chance.randrange(60)):
            began = time.monotonic()
            if limiter.try_acquire("k").allowed:
                spans.append((began, time.monotonic()))
        time.sleep(chance.uniform(0, 0.1))
    queue.put((spans, calls["limits.acquire"]))


@pytest.mark.parametrize("lease_tokens", [20, "auto"])
def test_l1_tokens_taken_ahead_are_never_used_beyond_the_limit(redis_url, lease_tokens):
    taken = in_processes(3, take_ahead, redis_url, 2.4, lease_tokens)
    spans = sorted(span for each, _ in taken for span in each)
    # A token was used at some moment between its call's beginning and end: what lies in a period wholly counts.
    most = max(sum(start <= began and ended < start + 0.5 for began, ended in spans) for start, _ in spans)
    asked = sum(calls for _, calls in taken)
    print(f"blocks of {lease_tokens}: {len(spans)} admissions with {asked} requests, at most {most} of 200 in a period")
    assert most <= 200
    assert len(spans) >= 100


def call_an_api(queue, number, url, seconds):
    """The arrivals of calls at an API, which come a while after their admission, and its answers a while after that."""
    engine = make_engine(url)
    limiter = Limiter(engine, "api", "40/500ms", count="response")
    arrivals, start = [], time.monotonic()

    def work():
        while time.monotonic() - start < seconds:
            with limiter.slot("k", wait=PATIENCE):
                time.sleep(random.lognormvariate(-5, 1))
                arrivals.append(server_us(engine))
                time.sleep(random.lognormvariate(-5, 1))

    in_threads(4, work)
    queue.put(arrivals)


def test_l1_counted_by_response_no_more_arrive_than_the_limit(redis_url):
    arrivals = [at for each in in_processes(3, call_an_api, redis_url, 2.4) for at in each]
    most = most_in_any(arrivals, 500_000)
    print(f"{len(arrivals)} arrivals, at most {most} of 40, {used(arrivals, 500_000, 40):.1%} used")
    assert len(arrivals) > 40
    assert most <= 40


# L2: Redis down


def test_l2_closed_open_and_back(fresh_server):
    events = []
    engine = make_engine(fresh_server.url, events.append)
    closed, opened = (Limiter(engine, "api", "5/h", concurrency=1, when_down=how) for how in ("closed", "open"))
    free = Limiter(engine, "free", "5/h", when_down="open")
    fresh_server.kill()
    with pytest.raises(StoreUnavailable), closed.slot():
        pytest.fail("admitted")
    with opened.slot() as one, opened.slot() as two:
        assert [slot.decision.bound_by for slot in (one, two)] == ["down", "down"]
        one.settle(cost=3)
    assert asyncio.run(free.aio.try_acquire()).bound_by == "down"
    told = [event for event in events if isinstance(event, LimitDown)]
    assert {(event.limiter, event.policy) for event in told} == {("api", "open"), ("free", "open")}
    assert len(told) == 3
    fresh_server.start()
    until(lambda: free.try_acquire().bound_by == "")
    assert free.peek().remaining == 4, "nothing of the outage is charged"
    engine.close()


def live_on(queue, url, ready, down):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workerkit.api.standin.BEAT", 0.1)
        limiter = Limiter(make_engine(url, timeout=0.5), "api", "40/h", when_down="local")
        assert limiter.try_acquire("other").bound_by == ""
        until(lambda: limiter.stand_in._live == 4)
    ready.release()
    down.wait()
    queue.put([decision for _ in range(30) if (decision := limiter.try_acquire("k")).allowed])


def test_l2_locally_each_process_keeps_to_its_share(fresh_server):
    queue, ready, down = FORK.Queue(), FORK.Semaphore(0), FORK.Event()
    arguments = (queue, fresh_server.url, ready, down)
    fleet = [FORK.Process(target=live_on, args=arguments, daemon=True) for _ in range(4)]
    for process in fleet:
        process.start()
    for _ in fleet:
        assert ready.acquire(timeout=PATIENCE)
    fresh_server.kill()
    down.set()
    admitted = [queue.get(timeout=PATIENCE) for _ in fleet]
    assert {decision.bound_by for each in admitted for decision in each} == {"local"}
    assert [len(each) for each in admitted] == [10, 10, 10, 10]


# L3: charged at most once


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_l3_an_answer_that_was_swallowed_was_charged_once(engine, proxied, algorithm):
    proxy, behind = proxied
    options = {"algorithm": algorithm, **({"burst": 10} if algorithm == "gcra" else {})}
    limiter, near = (Limiter(each, "api", "10/h", **options) for each in (behind, engine))
    assert limiter.try_acquire("k").allowed
    assert near.peek("k").remaining == 9
    proxy.half_reply(0)
    with pytest.raises(OutcomeUnknown):
        limiter.try_acquire("k")
    assert near.peek("k").remaining == 8
    proxy.normal()
    behind.runner.call(PING)  # on a new connection, so that the next request is sent whatever comes of it
    proxy.half_reply(0)
    with pytest.raises(OutcomeUnknown), limiter.slot("k", wait=PATIENCE):
        pytest.fail("admitted")
    assert near.peek("k").remaining == 7


def scripts_run(engine):
    """How often the server was asked to run a script that it knows."""
    return int(re.search(rb"cmdstat_evalsha:calls=(\d+)", command(engine, "INFO", "commandstats"))[1])


def test_l3_a_request_that_arrives_after_its_caller_gave_up_is_not_charged(engine, proxied):
    proxy, _ = proxied
    behind = make_engine(proxy.url, timeout=2.0)
    limiter, near = (Limiter(each, "api", "10/h", concurrency=2) for each in (behind, engine))
    with limiter.slot("k"):
        pass
    proxy.black_hole()
    with pytest.raises(OutcomeUnknown), limiter.slot("k"):
        pytest.fail("admitted")
    ran = scripts_run(engine)
    proxy.normal()
    until(lambda: scripts_run(engine) > ran)
    behind.close()
    usage = near.usage("k")
    assert (usage.rates[0].remaining, usage.holders) == (9, 0)


def test_l3_a_refusal_charges_no_rate_at_all(redis_url, engine):
    limiter = Limiter(engine, "llm", "2 requests/h", "1000 tokens/h")
    with limiter.slot("k", tokens=900), pytest.raises(RateLimited) as refused, limiter.slot("k", tokens=101):
        pytest.fail("admitted")
    assert refused.value.bound_by == "1000 tokens/h"
    assert [rate.remaining for rate in limiter.usage("k").rates] == [1, 100]


# L4: waiting as long as told, alone, succeeds


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_l4_who_waits_as_long_as_told_is_admitted(engine, algorithm):
    limiter = Limiter(engine, "api", "7/150ms", algorithm=algorithm)
    waits = 0
    for _ in range(60):
        answer = decide(limiter)
        if not answer.decision.allowed:
            time.sleep(answer.decision.retry_after)
            assert decide(limiter).decision.allowed
            waits += 1
    assert waits > 3


# L5: what a loss of the state costs


def test_l5_a_flushed_server_admits_one_more_burst(redis_url, engine):
    queue = FORK.Queue()
    arguments = (redis_url, None, ("50/1s",), {})
    fleet = [FORK.Process(target=hammer, args=(queue, number, *arguments), daemon=True) for number in range(3)]
    for process in fleet:
        process.start()
    limiter = Limiter(engine, "api", "50/1s")
    until(lambda: limiter.peek("k").remaining == 0)
    before = server_us(engine)
    command(engine, "FLUSHALL")
    after = server_us(engine)
    until(lambda: limiter.peek("k").remaining == 0 and server_us(engine) > after + S)
    command(engine, "SET", "stop", 1)
    stamps = [at for _ in fleet for at in queue.get(timeout=2 * PATIENCE)]
    sides = [[at for at in stamps if at <= after], [at for at in stamps if at >= before]]
    over = most_in_any(stamps, S)
    print(f"at most {[most_in_any(side, S) for side in sides]} in 1 s on either side of the flush, {over} over it")
    assert [most_in_any(side, S) <= 50 for side in sides] == [True, True]
    assert over <= 100
    assert len(stamps) >= 100, "what was lost was admitted anew"


def test_l5_slots_that_were_under_way_when_the_server_was_flushed_end_quietly(engine):
    limiter = Limiter(engine, "api", "5/h", count="response", concurrency=5)
    with limiter.slot("k"), limiter.slot("k"):
        command(engine, "FLUSHALL")
        with limiter.slot("k"):
            assert limiter.usage("k").rates[0].held == 1
    usage = limiter.usage("k")
    assert (usage.rates[0].remaining, usage.rates[0].held, usage.holders) == (4, 0, 0)


def test_a_flush_of_scripts_disturbs_nobody(redis_url, engine):
    limiter = Limiter(engine, "api", "300/h")
    allowed, stop = [], threading.Event()

    def ask():
        allowed.extend(limiter.try_acquire("k").allowed for _ in range(100))

    def flush():
        while not stop.is_set():
            command(engine, "SCRIPT", "FLUSH")

    flusher = threading.Thread(target=flush)
    flusher.start()
    in_threads(4, ask)
    stop.set()
    flusher.join()
    assert Counter(allowed) == {True: 300, False: 100}


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

LEASE = 2.0


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
    steer(lambda: limiter.configure("k", "5/2s"))
    until(lambda: server_us(engine) > moments[-1][1] + 2.5 * S)
    steer(lambda: limiter.configure("k"))
    command(engine, "SET", "stop", 1)
    stamps = [at for _ in fleet for at in queue.get(timeout=2 * PATIENCE)]
    _, (paused, pausing), (_, configured), (back, _) = moments
    assert [at for at in stamps if at < paused], "they were at work"
    assert not [at for at in stamps if pausing < at < paused + 499_000]
    assert 0 < most_in_any([at for at in stamps if configured < at < back], 2 * S) <= 5
    assert most_in_any([at for at in stamps if at > back], 2 * S) > 5


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
