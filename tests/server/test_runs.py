"""The longest runs of tasks in the store; the weeks pass by a clock of the test's own."""

from __future__ import annotations

import pytest

from tests.server.limit_rig import make_engine
from workerkit.core.call import Call
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.telemetry.runs import LIFE_MS, Runs

WEEK = 604800
CLOCK = "local now_us = tonumber(ARGV[#ARGV])\nARGV[#ARGV] = nil\n"
ADD = Script("workerkit.telemetry", "runs", replace={"not_after": CLOCK, "now": "-- that is the clock\n"})


@pytest.fixture
def rig(redis_url):
    engine = make_engine(redis_url)
    yield engine
    engine.close()


def add(engine, week, **longest):
    call = Runs(engine.keys("t")).add(longest)
    at = int((week + 0.5) * WEEK * 1e6)
    engine.runner.call(Call(call.name, "cache", int, script=ADD, keys=call.keys, args=(*call.args, at)))


def read(engine):
    return engine.runner.call(Runs(engine.keys("t")).read())


def test_the_longest_of_this_week_and_the_last_counts(rig):
    assert read(rig) == {}
    add(rig, 100, a=3000, b=2000)
    add(rig, 100, a=2000, b=2500)
    assert read(rig) == {"a": 3.0, "b": 2.5}
    add(rig, 101, a=1000)
    assert read(rig) == {"a": 3.0, "b": 2.5}
    add(rig, 102, a=1500)
    assert read(rig) == {"a": 1.5}  # b has not run for two weeks
    add(rig, 105, b=1200)
    assert read(rig) == {"b": 1.2}


def test_the_scripts_own_clock_and_its_life(rig):
    runs = Runs(rig.keys("t"))
    for longest in (1500, 9000, 4000):
        rig.runner.call(runs.add({"a": longest, "b c": 2000}))
    assert read(rig) == {"a": 9.0, "b c": 2.0}
    (key,) = runs.read().args[1:]
    left = rig.runner.call(Call("ttl", "cache", int, args=("PTTL", key)))
    assert LIFE_MS - 60_000 < left <= LIFE_MS


def test_what_somebody_else_wrote_there_hides_nothing(rig):
    runs = Runs(rig.keys("t"))
    rig.runner.call(runs.add({"a": 1500}))
    (key,) = runs.read().args[1:]
    rig.runner.call(Call("write", "cache", int, args=("HSET", key, "b", "rubbish", b"\xff", "1 2 3 4")))
    assert read(rig) == {"a": 1.5}
    rig.runner.call(runs.add({"b": 2500}))
    assert read(rig) == {"a": 1.5, "b": 2.5}


def test_the_flusher_sends_what_was_noted_once_and_keeps_what_it_could_not_send(redis_url, fresh_server):
    engine = make_engine(fresh_server.unix_url)
    runs = Runs(Keys("wk", "t"))
    engine.flusher.add_runs(runs)
    runs.note("a", 2.0)
    runs.note("a", 5.0)
    runs.note("a", 3.0)
    engine.flusher.flush()
    assert runs.take() == {}
    assert engine.runner.call(runs.read()) == {"a": 5.0}
    fresh_server.kill()
    runs.note("a", 7.0)
    with pytest.raises(Exception, match="cannot be reached"):
        engine.flusher.flush()
    runs.note("a", 6.0)
    fresh_server.start()
    engine.close()
    assert runs.take() in ({"a": 7000}, {})
