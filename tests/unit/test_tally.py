"""What is counted in the process, and what of it is sent; how many processes there are."""

from __future__ import annotations

import os
from itertools import chain

import pytest

from workerkit.core.keys import Keys
from workerkit.limits import tally as tallies
from workerkit.limits.fleet import Fleet
from workerkit.limits.tally import Counts, KeyCount, LimitStats, Tally


@pytest.fixture
def tally():
    return Tally(Keys("t", "g"), "api")


def note(tally, part, admitted, refused=0):
    for _ in range(admitted):
        tally.note(part, True)
    for _ in range(refused):
        tally.note(part, False)


def test_what_was_counted_is_taken_once(tally):
    assert tally.take() is None
    note(tally, "a", 2, 1)
    note(tally, "b", 0, 4)
    note(tally, "", 1)
    tally.note_unseen()
    assert tally.take() == Counts(LimitStats(3, 5, 1), [KeyCount("b", 0, 4), KeyCount("a", 2, 1), KeyCount("", 1, 0)])
    assert tally.take() is None


@pytest.mark.parametrize("one", [("a", 1, 0), ("a", 0, 1), None])
def test_each_kind_of_count_is_worth_sending(tally, one):
    if one:
        note(tally, *one)
    else:
        tally.note_unseen()
    taken = tally.take()
    assert sum(taken.stats) == 1
    assert tally.take() is None


def test_what_could_not_be_sent_is_counted_again(tally, monkeypatch):
    monkeypatch.setattr(tallies, "MOST_PARTS", 2)
    monkeypatch.setattr(tallies, "MOST_SENT", 1)
    for part, admitted, refused in (("a", 5, 1), ("b", 2, 2), ("c", 3, 4)):
        note(tally, part, admitted, refused)
    tally.note_unseen()
    taken = tally.take()
    assert taken == Counts(LimitStats(10, 7, 1), [KeyCount("a", 5, 1)])
    note(tally, "a", 1)
    note(tally, "d", 0, 1)
    tally.give_back(taken)
    tally.note_unseen()
    assert tally.take() == Counts(LimitStats(11, 8, 2), [KeyCount("a", 6, 1)])
    assert tally.take() is None


def test_a_flood_of_keys_is_bounded_and_in_the_totals(tally, monkeypatch):
    monkeypatch.setattr(tallies, "MOST_PARTS", 10)
    monkeypatch.setattr(tallies, "MOST_SENT", 3)
    for i in range(1000):
        note(tally, f"k{i}", 2, 1)
        note(tally, "k7", 1)
    assert len(tally._admitted) == len(tally._refused) == 10
    taken = tally.take()
    assert taken.stats == LimitStats(3000, 1000, 0)
    assert [each.key for each in taken.keys] == ["k7", "k0", "k1"]
    assert taken.keys[0].admitted == 1002
    assert len(tally.add(taken).args) == 4 + 3 * 4


def test_a_forked_child_leaves_its_parents_counts_to_it(tally):
    note(tally, "a", 3, 2)
    tally.note_unseen()
    if (child := os.fork()) == 0:
        os._exit(0 if tally.take() is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert tally.take().stats == LimitStats(3, 2, 1)


def test_what_is_sent_is_bounded_and_can_be_encoded(tally):
    note(tally, "x" * 10_000, 2)
    note(tally, "\udc80{}:\n", 1, 1)
    call = tally.add(tally.take())
    assert call.args[1:] == (3, 1, 0, b"+" + b"x" * 200, 2, b"+\\udc80{}:\n", 1, b"-\\udc80{}:\n", 1)
    assert call.keys == ("t:g:{api:all}:n", "t:g:{api:all}:b0", "t:g:{api:all}:b1")
    assert call.script.once, "it must not be counted twice"


@pytest.mark.parametrize("flat", [True, False])
def test_replies_of_both_protocols_are_read(tally, flat):
    pairs = [[b"-a", b"1" if flat else 1.0], [b"+b", b"2" if flat else 2.0], [b"+a", b"1e3" if flat else 1000.0]]
    reply = [*chain(*pairs)] if flat else pairs
    assert tally.busiest(5).parse(reply) == [KeyCount("a", 1000, 1), KeyCount("b", 2, 0)]
    assert tally.busiest(1).parse(reply) == [KeyCount("a", 1000, 1)]
    assert tally.busiest(5).parse([]) == []
    totals = {b"refused": b"3", b"admitted": b"12", b"hour": b"7", b"later": b"1"}
    answer = [*chain(*totals.items())] if flat else totals
    assert tally.read().parse(answer) == LimitStats(12, 3, 0)
    assert tally.read().parse([] if flat else {}) == LimitStats()


def test_a_fleets_calls_name_one_key():
    fleet = Fleet(Keys("t", "g"), "api")
    beat, leave = fleet.beat("me", 3000), fleet.leave("me")
    assert (beat.keys, beat.args, beat.script.once) == (("t:g:{api:all}:m",), ("me", 3000), False)
    assert leave.args == ("ZREM", "t:g:{api:all}:m", "me")
