"""What a fleet is promised (L1 to L5 of the design), with real processes that are killed, stopped, cut off.

Moments are compared by the server's stamps, so that a stalled machine cannot break what it has nothing to do with.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
import time
from collections import Counter

import pytest

from tests.server.limit_rig import (
    FORK,
    PATIENCE,
    command,
    decide,
    in_processes,
    in_threads,
    largest_burst,
    listen_to_calls,
    make_engine,
    most_in_any,
    server_us,
    until,
    used,
)
from workerkit.api.limiter import Limiter
from workerkit.core.call import PING
from workerkit.core.events import LimitDown
from workerkit.errors import OutcomeUnknown, RateLimited, StoreUnavailable

SECONDS = 2.9 if os.environ.get("WORKERKIT_HEAVY") == "1" else 1.5  # of a whole fleet at work
ALGORITHMS = ["window", "gcra", "fixed"]
S = 1_000_000


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
    stamps = hammered(redis_url, 3, SECONDS, "60/300ms", "100/700ms")
    most = [most_in_any(stamps, 300_000), most_in_any(stamps, 700_000)]
    print(f"{len(stamps)} admissions, at most {most}, {used(stamps, 700_000, 100):.1%} of 100/700ms used")
    assert most[0] <= 60
    assert most[1] <= 100
    assert len(stamps) >= 100


def test_l1_gcra_is_never_passed(redis_url):
    stamps = hammered(redis_url, 3, SECONDS, "200/s", algorithm="gcra", burst=20)
    burst = largest_burst(stamps, 5_000)
    print(f"{len(stamps)} admissions, a burst of {burst:.4f}")
    assert 10 < burst <= 20


def test_l1_fixed_windows_are_never_passed(redis_url):
    stamps = hammered(redis_url, 3, SECONDS, "60/300ms", algorithm="fixed")
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


@pytest.mark.real
@pytest.mark.parametrize("lease_tokens", [20, "auto"])
def test_l1_tokens_taken_ahead_are_never_used_beyond_the_limit(redis_url, lease_tokens):
    taken = in_processes(3, take_ahead, redis_url, SECONDS, lease_tokens)
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


@pytest.mark.real
def test_l1_counted_by_response_no_more_arrive_than_the_limit(redis_url):
    arrivals = [at for each in in_processes(3, call_an_api, redis_url, SECONDS) for at in each]
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
    behind = make_engine(proxy.url, timeout=1.0)
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
