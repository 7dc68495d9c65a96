"""Counts, busiest keys and live processes on real servers; the hours pass by a clock of the test's own."""

from __future__ import annotations

import time

import pytest

from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks
from workerkit.core.keys import Keys
from workerkit.core.lua import Script
from workerkit.io.address import parse_address
from workerkit.io.runner import Runner
from workerkit.io.server import PoolOptions, Server
from workerkit.limits.fleet import Fleet
from workerkit.limits.tally import LIFE_MS, Counts, KeyCount, LimitStats, Tally

KEYS = Keys("t", "g")
HOUR = 3600
CLOCK = "local now_us = tonumber(ARGV[#ARGV])\nARGV[#ARGV] = nil\n"
ADD = Script("workerkit.limits", "tally", replace={"not_after": CLOCK})
BEAT = Script("workerkit.limits", "fleet", replace={"now": CLOCK})


class Rig:
    """Tally and fleet on one server; `at` is what the scripts' clock says, None for the server's."""

    def __init__(self, url):
        self.server = Server("guard", parse_address(url, what="url"), options=PoolOptions(), hooks=Hooks())
        self.runner = Runner({"guard": self.server}, 10.0)
        self.tally, self.fleet = Tally(KEYS, "api"), Fleet(KEYS, "api")

    def command(self, *words):
        return self.runner.call(Call("command", "guard", as_is, args=words))

    def run(self, call, script, at):
        if at is not None:
            call = Call(call.name, "guard", call.parse, script=script, keys=call.keys, args=(*call.args, int(at * 1e6)))
        return self.runner.call(call)

    def add(self, *keys, unseen=0, at=None):
        stats = LimitStats(sum(key[1] for key in keys), sum(key[2] for key in keys), unseen)
        self.run(self.tally.add(Counts(stats, [KeyCount(*key) for key in keys])), ADD, at)

    def busiest(self, most=10):
        return [tuple(each) for each in self.runner.call(self.tally.busiest(most))]

    def beat(self, member, ttl_ms=3000, at=None):
        return self.run(self.fleet.beat(member, ttl_ms), BEAT, at)

    def left_ms(self, suffix):
        return self.command("PTTL", KEYS.key("api", "all", suffix))


@pytest.fixture
def rig(redis_url):
    rig = Rig(redis_url)
    yield rig
    rig.runner.close()


def this_hour(rig):
    """The server's clock hour (in seconds), with time enough in it for a test."""
    while (now := int(rig.command("TIME")[0])) % HOUR > HOUR - 5:
        time.sleep(0.1)
    return now // HOUR * HOUR


def test_counts_are_the_same_on_every_server(other_server):
    rig = Rig(other_server.url)
    try:
        assert (rig.runner.call(rig.tally.read()), rig.busiest()) == (LimitStats(), [])
        this_hour(rig)
        for part, admitted, times in (("a", True, 3), ("b", False, 5), ("a", False, 1), ("", True, 1)):
            for _ in range(times):
                rig.tally.note(part, admitted)
        rig.tally.note_unseen()
        for _ in range(2):
            taken = rig.tally.take()
            rig.runner.call(rig.tally.add(taken))
            rig.tally.give_back(taken)
        assert rig.runner.call(rig.tally.read()) == LimitStats(8, 12, 2)
        assert rig.busiest() == [("b", 0, 10), ("a", 6, 2), ("", 2, 0)]
        assert rig.busiest(1) == [("b", 0, 10)]
        assert [rig.beat(member) for member in ("one", "two", "one")] == [1, 2, 2]
        assert [rig.runner.call(rig.fleet.leave(member)) for member in ("one", "one")] == [True, False]
        assert rig.beat("three") == 2
    finally:
        rig.runner.close()


def test_the_hour_before_counts_and_older_ones_do_not(rig):
    hour = this_hour(rig)
    rig.add(("old", 9, 9), at=hour - 1)
    rig.add(("k", 5, 0), at=hour - HOUR)
    rig.add(("k", 2, 1), ("new", 1, 0), at=hour)
    assert rig.busiest() == [("old", 9, 9), ("k", 7, 1), ("new", 1, 0)]
    rig.command("FLUSHALL")
    rig.add(("older", 9, 9), at=hour - HOUR - 1)
    assert rig.busiest() == []
    assert rig.runner.call(rig.tally.read()) == LimitStats(9, 9, 0), "totals stay"


def test_a_bucket_of_another_hour_is_cleared_whatever_its_expiry(rig):
    hour = this_hour(rig)
    rig.add(("now", 1, 0), at=hour)
    rig.add(("next", 1, 0), at=hour + HOUR)
    assert sorted(rig.busiest()) == [("next", 1, 0), ("now", 1, 0)]
    rig.add(("after", 2, 0), at=hour + 2 * HOUR)
    rig.add(("after", 2, 0), at=hour + 2 * HOUR)
    assert rig.busiest() == [("after", 4, 0), ("next", 1, 0)]


def test_every_key_expires_and_buckets_with_the_hour_after_theirs(rig):
    hour = this_hour(rig)
    rig.add(("a", 1, 1))
    rig.add(("a", 1, 1), at=hour - HOUR)
    now = time.time()
    this, before = ("b0", "b1") if hour // HOUR % 2 == 0 else ("b1", "b0")
    assert rig.left_ms(this) == pytest.approx((hour + 2 * HOUR - now) * 1000, abs=2000)
    assert rig.left_ms(before) == pytest.approx((hour + HOUR - now) * 1000, abs=2000)
    assert LIFE_MS - 5000 < rig.left_ms("n") <= LIFE_MS
    rig.beat("one", 3000)
    assert 0 < rig.left_ms("m") <= 3000
    assert sorted(key[-2:] for key in rig.command("KEYS", "*")) == [b":m", b":n", b"b0", b"b1"]


def test_only_the_busiest_thousand_are_kept(rig):
    this_hour(rig)
    for start in range(0, 1500, 100):
        rig.add(*[(f"k{i:04}", i + 1, 0) for i in range(start, start + 100)])
    found = rig.busiest(5000)
    assert len(found) == 1000
    assert (found[0], found[-1]) == (("k1499", 1500, 0), ("k0500", 501, 0))
    assert rig.runner.call(rig.tally.read()).admitted == sum(range(1501))


def test_totals_alone_make_no_bucket(rig):
    rig.add(unseen=3)
    rig.add(unseen=4)
    assert rig.runner.call(rig.tally.read()) == LimitStats(0, 0, 7)
    assert rig.command("KEYS", "*") == [b"t:g:{api:all}:n"]


def test_processes_that_stop_are_forgotten_in_time(rig):
    now = int(rig.command("TIME")[0])
    assert rig.beat("one", 2000, at=now) == 1
    assert rig.beat("two", 60_000, at=now) == 2
    assert rig.beat("one", 2000, at=now + 1.999) == 2
    assert rig.beat("three", 2000, at=now + 3.998) == 3
    assert rig.beat("three", 2000, at=now + 4) == 2, "one has not said anything for its two seconds"
    assert rig.left_ms("m") > 50_000, "a process that was given less time took two's"
    assert rig.beat("three", 2000, at=now + 60) == 1
