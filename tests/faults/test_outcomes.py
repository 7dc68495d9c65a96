"""P4: what must not run twice is never sent again after an unknown outcome, and refuses to run late."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.rig import CHARGE, Rig, aio_outcome, at_once, charge, command, get, outcome, until
from workerkit.core.breaker import Breaker
from workerkit.core.flow import Batch
from workerkit.core.lua import Script
from workerkit.errors import OutcomeUnknown, StoreUnavailable
from workerkit.io.server import PoolOptions
from workerkit.testing.proxy import FaultProxy

CALLS = 20
MOVED_CLOCK = """
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2] + tonumber(redis.call('GET', 'moved') or '0')
"""


def blocked(server):
    """The ids of the clients that wait in a BLPOP."""
    lines = server.cli("CLIENT", "LIST").splitlines()
    return {line.split()[0] for line in lines if "cmd=blpop" in line}


def test_calls_that_timed_out_on_a_frozen_server_are_not_executed_when_it_wakes(fresh_server):
    rig = Rig(fresh_server.url, timeout=0.3, options=PoolOptions(minimum=2 * CALLS))
    rig.warm(2 * CALLS)
    rig.server.breaker = Breaker(10**6)  # so that a call that begins after others have failed is made too
    late = [command("INCR", "late", once=True)] * CALLS  # no "not after": what happens without one
    fresh_server.freeze()
    answers = at_once([lambda call=call: rig.runner.call(call) for call in [charge("charged")] * CALLS + late])
    fresh_server.thaw()
    until(lambda: fresh_server.cli("GET", "late") == str(CALLS))
    charged = int(fresh_server.cli("GET", "charged") or 0)
    unknown = sum(isinstance(answer, OutcomeUnknown) for answer in answers)
    print(f"{unknown} of {2 * CALLS} outcomes unknown; executed late: {charged} with a not-after, {CALLS} without")
    assert unknown == 2 * CALLS
    assert charged == 0


def test_async_calls_that_timed_out_on_a_frozen_server_are_not_executed_when_it_wakes(fresh_server):
    rig = Rig(fresh_server.url)

    async def story():
        await asyncio.gather(*[rig.aio.call(charge("warm"), timeout=5.0) for _ in range(CALLS)])
        fresh_server.freeze()
        calls = [rig.aio.call(charge("charged"), timeout=0.3) for _ in range(CALLS)]
        answers = await asyncio.gather(*map(aio_outcome, calls))
        fresh_server.thaw()
        return answers

    answers = asyncio.run(story())
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * CALLS
    assert fresh_server.cli("GET", "charged") is None


def test_a_call_over_a_connection_that_the_server_closed_while_idle_succeeds_unseen(fresh_server):
    rig = Rig(fresh_server.url)
    fresh_server.cli("SET", "key", "value")
    for kills in range(1, 11):
        rig.warm(3)
        fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
        assert rig.runner.call(get("key")) == b"value"
        fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
        assert rig.runner.call(charge("count")) == kills
    assert rig.events == []


def test_an_async_call_over_a_connection_that_the_server_closed_while_idle_succeeds_unseen(fresh_server):
    rig = Rig(fresh_server.url)

    async def story():
        counts = []
        for _ in range(10):
            counts.append(await rig.aio.call(charge("count")))
            fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")  # and no turn for the loop to notice
        return counts

    counts = asyncio.run(story())
    print("counts", counts)
    assert counts == list(range(1, 11))


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_lost_reply_leaves_the_outcome_unknown_and_the_call_executed_once(fresh_server, length):
    with FaultProxy(fresh_server.url) as proxy:
        rig = Rig(proxy.url)
        rig.warm()
        proxy.half_reply(length)
        answer = outcome(lambda: rig.runner.call(charge("charged")))
        proxy.normal()
        assert isinstance(answer, OutcomeUnknown)
        assert fresh_server.cli("GET", "charged") == "1"
        assert rig.runner.call(charge("charged")) == 2


@pytest.mark.parametrize("once", [False, True])
def test_a_connection_lost_in_mid_call_is_tried_once_more_only_where_that_is_safe(fresh_server, once):
    rig = Rig(fresh_server.url, timeout=5.0)
    answers = []
    call = command("BLPOP", "list", 0, once=once)
    thread = threading.Thread(target=lambda: answers.append(outcome(lambda: rig.runner.call(call))))
    thread.start()
    first = until(lambda: blocked(fresh_server))
    fresh_server.cli("CLIENT", "KILL", "TYPE", "normal")
    if not once:
        until(lambda: blocked(fresh_server) - first)
        fresh_server.cli("RPUSH", "list", "value")
    thread.join()
    if once:
        assert isinstance(answers[0], OutcomeUnknown)
        assert not blocked(fresh_server)
    else:
        assert answers == [[b"list", b"value"]]


def test_a_server_clock_that_jumped_is_learned_anew_in_both_directions(other_server):
    script = Script("tests.faults.lua", "charge", replace={"now": MOVED_CLOCK})
    rig = Rig(other_server.url)
    hour = 3_600_000_000
    for executed, moved in enumerate([0, hour, 2 * hour, -hour], start=1):
        other_server.cli("SET", "moved", str(moved))
        assert rig.runner.call(charge("count", script)) == executed
        assert asyncio.run(rig.aio.call(charge("aio", script))) == executed


def test_a_call_that_reaches_the_server_too_late_is_refused_there(fresh_server):
    rig = Rig(fresh_server.url)
    rig.warm()
    rig.server.clock._offset_us -= 60_000_000  # as if the reply that taught it had taken a minute
    assert rig.runner.call(charge("count")) == 1  # the refusal taught it better
    behind = int(fresh_server.cli("TIME")[0]) * 1_000_000 - rig.server.clock.at(time.monotonic())
    assert abs(behind) < 10_000_000
    assert rig.runner.call(charge("count")) == 2


def test_scripts_come_back_after_a_flush(other_server):
    rig = Rig(other_server.url)
    for executed in range(1, 6):
        assert rig.runner.call(charge("one")) == executed
        other_server.cli("SCRIPT", "FLUSH")
        assert rig.runner.run(both()) == [executed, None, executed]
        other_server.cli("SCRIPT", "FLUSH")
        assert asyncio.run(rig.aio.run(both("aio:"))) == [executed, None, executed]
        other_server.cli("SCRIPT", "FLUSH")


def both(prefix=""):
    return (yield from Batch(charge(f"{prefix}left"), get("nothing"), charge(f"{prefix}right")))


def busy(server, seconds):
    """Keep the server busy with a script for so long, on a connection of its own."""
    endless = (
        "local t = redis.call('TIME') local ends = t[1] + t[2] / 1e6 + ARGV[1] "
        "repeat t = redis.call('TIME') until t[1] + t[2] / 1e6 > ends"
    )
    server.cli("CONFIG", "SET", "lua-time-limit", "20")
    thread = threading.Thread(target=server.cli, args=("EVAL", endless, 0, str(seconds)))
    thread.start()
    until(lambda: "BUSY" in str(outcome(lambda: server.cli("GET", "key"))))
    return thread


@pytest.mark.parametrize("warm", [True, False])
def test_a_busy_server_is_waited_for_until_the_deadline(fresh_server, warm):
    fresh_server.cli("SET", "key", "value")
    rig = Rig(fresh_server.url, timeout=4.0)
    if warm:
        rig.warm()
    thread = busy(fresh_server, 1.2)
    rig.server.clock.learned = float("-inf")  # so the time is asked for as well, and refused as well
    began = time.monotonic()
    short = outcome(lambda: rig.runner.call(get("key"), timeout=0.3))
    gave_up = time.monotonic() - began
    answers = [rig.runner.call(get("key")), rig.runner.call(charge("count")), asyncio.run(rig.aio.call(get("key")))]
    print(f"gave up after {gave_up:.2f} s ({short}), answered after {time.monotonic() - began:.2f} s")
    thread.join()
    assert isinstance(short, StoreUnavailable)
    assert "BUSY" in str(short)
    assert 0.15 < gave_up < 0.4
    assert answers == [b"value", 1, b"value"]


def test_a_busy_server_does_not_cost_a_reconnect_an_attempt(fresh_server):
    rig = Rig(fresh_server.url, timeout=4.0)
    rig.warm()
    links = list(rig.pool._alive)
    thread = busy(fresh_server, 0.3)
    rig.runner.call(charge("count"))
    thread.join()
    assert list(rig.pool._alive) == links


@pytest.mark.parametrize("side", ["sync", "aio"])
def test_a_loading_server_is_waited_for_on_the_same_connection(fresh_server, side):
    fresh_server.cli("DEBUG", "POPULATE", 500)
    fresh_server.cli("CONFIG", "SET", "key-load-delay", 500)
    fresh_server.cli("CONFIG", "SET", "loading-process-events-interval-bytes", 1024)
    rig = Rig(f"{fresh_server.url}?db=1", timeout=5.0)
    rig.runner.call(command("SET", "key", "value"))
    loading = threading.Thread(target=fresh_server.cli, args=("DEBUG", "RELOAD"))

    def load():
        loading.start()
        until(lambda: "LOADING" in str(outcome(lambda: fresh_server.cli("GET", "key"))))

    async def story():
        before = await rig.aio.call(command("CLIENT", "ID"))
        load()
        return before, await rig.aio.call(get("key")), await rig.aio.call(command("CLIENT", "ID"))

    if side == "aio":
        before, value, after = asyncio.run(story())
    else:
        before = rig.runner.call(command("CLIENT", "ID"))
        load()
        value, after = rig.runner.call(get("key")), rig.runner.call(command("CLIENT", "ID"))
    loading.join()
    assert (value, after) == (b"value", before)


def test_a_replica_that_becomes_a_master_is_waited_for(fresh_server):
    rig = Rig(fresh_server.url, timeout=5.0)
    rig.warm()
    fresh_server.cli("REPLICAOF", "127.0.0.1", "1")
    refused = outcome(lambda: rig.runner.call(charge("count"), timeout=0.2))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(rig.runner.call(charge("count"))))
    thread.start()
    until(lambda: "errorstat_READONLY:count=" in fresh_server.cli("INFO", "errorstats"))
    fresh_server.cli("REPLICAOF", "NO", "ONE")
    thread.join()
    assert isinstance(refused, StoreUnavailable)
    assert answers == [1]


def test_an_answer_that_begins_like_busy_is_an_error_and_not_waited_for(fresh_server):
    rig = Rig(fresh_server.url, timeout=5.0)
    create = command("XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM")
    rig.runner.call(create)
    began = time.monotonic()
    answer = outcome(lambda: rig.runner.call(create))
    assert "BUSYGROUP" in str(answer)
    assert time.monotonic() - began < 2.0


def test_the_script_of_these_tests_is_one_that_must_not_run_twice():
    assert CHARGE.once
