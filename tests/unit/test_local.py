"""The in-process tier of one function, by itself and against a model; the test plays the listener."""

from __future__ import annotations

import datetime as dt
import enum
import threading
import uuid
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import BaseModel, ConfigDict, PrivateAttr, computed_field

from workerkit.cache.local import L1, Local, is_immutable
from workerkit.core.codec import Codec
from workerkit.core.envelope import Envelope
from workerkit.errors import DefinitionError


def entry(body=b"null"):
    return Envelope(b"12345678", 1_000_000, 2_000_000, 3_000_000, 42, (), 1, 0, body)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def local(clock):
    made = Local(L1(), Codec().load, now=clock)
    made.open()
    return made


def keep(local, key, args, kwargs=None, value="value", until=2000.0, **options):
    options.setdefault("generation", local.generation)
    body = Codec().dump(value)
    return local.insert(key, args, kwargs or {}, entry(body), value, until=until, **options)


def found(local, *args, **kwargs):
    slot = local.find(args, kwargs)
    return slot and slot.get()


def is_empty(local):
    """Nothing is left anywhere, or it would grow for ever."""
    return not (len(local) or local._tables or local._tagged)


# Options


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "10", None])
def test_a_size_that_will_not_do(size):
    with pytest.raises(DefinitionError, match=r"L1: size=.* write 1 or more"):
        L1(size=size)


@pytest.mark.parametrize("ttl", [0, -1, "soon"])
def test_a_ttl_that_will_not_do(ttl):
    with pytest.raises(DefinitionError, match="L1: ttl"):
        L1(ttl=ttl)


# Which call is which


def test_a_call_is_found_as_it_was_written(local):
    assert local.find((1,), {}) is None
    assert keep(local, "k", (1,))
    slot = local.find((1,), {})
    assert (slot.key, slot.get(), slot.cost_us, slot.created_us) == ("k", "value", 42, 1_000_000)
    assert local.find((2,), {}) is None
    assert local.find((), {"a": 1}) is None  # the same call, but nobody has said so yet


PLAIN = [1, True, "1", b"1", None, 0, False, "", b""]


def test_plain_arguments_of_other_types_are_other_calls(local):
    for number, value in enumerate(PLAIN):
        keep(local, f"k{number}", (value,), value=number)
        keep(local, f"w{number}", (), {"a": value}, value=number + 100)
    assert [found(local, value) for value in PLAIN] == [*range(len(PLAIN))]
    assert [found(local, a=value) for value in PLAIN] == [*range(100, 100 + len(PLAIN))]
    assert found(local, 1.0) is None
    assert found(local, a=0.0) is None


def test_positions_and_names_do_not_mix(local):
    calls = [((1, 2), {}), ((1,), {"b": 2}), ((1,), {"c": 2}), ((2,), {"b": 1}), ((), {"a": 1, "b": 2}), (("a", 1), {})]
    for number, (args, kwargs) in enumerate(calls):
        keep(local, f"k{number}", args, kwargs, value=number)
    assert [local.find(*call).get() for call in calls] == [*range(len(calls))]


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", [1.0, (1,), Text("1"), [1], frozenset(), dt.date(2026, 1, 1), "x" * 2000, 1 << 20000], ids=type
)
def test_other_arguments_are_found_by_their_key_alone(local, value):
    keep(local, "k", (value,))
    assert local.find((value,), {}) is None
    assert local.find_key("k", (value,), {}).get() == "value"
    assert local.find((value,), {}) is None
    assert not local._tables


class Loud:
    def __hash__(self):
        raise RuntimeError("hashed")

    def __eq__(self, other):
        raise RuntimeError("compared")


def test_arguments_of_other_types_are_never_hashed(local):
    keep(local, "k", (1,))
    assert local.find((Loud(),), {}) is None
    assert local.find((), {"a": Loud()}) is None
    assert local.find_key("k", (Loud(),), {}) is not None


def test_two_ways_to_write_a_call_are_one_entry(local):
    keep(local, "k", (1,))
    assert local.find_key("k", (), {"a": 1}).get() == "value"
    assert found(local, 1) == found(local, a=1) == "value"
    assert len(local) == 1
    local.drop("k")
    assert found(local, 1) is found(local, a=1) is None
    assert is_empty(local)


def test_an_ignored_argument_does_not_add_to_an_entry_for_ever(local):
    keep(local, "k", (0, "request 0"))
    for number in range(100):
        assert local.find_key("k", (0, f"request {number}"), {}) is not None
    assert sum(map(len, local._tables.values())) <= 4
    local.drop("k")
    assert is_empty(local)


# Until when


def test_an_entry_ends_when_it_is_fresh_no_more(local, clock):
    keep(local, "k", (1,), until=1010.0)
    clock.now = 1009.9
    assert found(local, 1) == "value"
    clock.now = 1010.0
    assert local.find((1,), {}) is None
    assert local.find_key("k", (1,), {}) is None


def test_the_ttl_ends_it_earlier(clock):
    local = Local(L1(ttl="5s"), Codec().load, now=clock)
    local.open()
    keep(local, "k", (1,), until=1010.0)
    keep(local, "short", (2,), until=1001.0)
    clock.now = 1001.0
    assert found(local, 2) is None
    clock.now = 1004.9
    assert found(local, 1) == "value"
    clock.now = 1005.0
    assert found(local, 1) is None


def test_a_newer_entry_takes_the_place_of_an_older(local):
    keep(local, "k", (1,), value="old")
    local.find_key("k", (), {"a": 1})
    keep(local, "k", (1,), value="new")
    assert found(local, 1) == "new"
    assert found(local, a=1) is None
    assert len(local) == 1


# What changes


def test_an_entry_read_before_a_change_is_refused(local):
    before = local.generation
    local.drop("k")
    assert not keep(local, "k", (1,), generation=before)
    assert found(local, 1) is None
    assert keep(local, "k", (1,))


def other_place(key):
    return next(f"o{n}" for n in range(1000) if hash(f"o{n}") % 256 != hash(key) % 256)


def test_the_change_of_another_key_does_not_matter(local):
    before = local.generation
    local.drop(other_place("k"))
    assert keep(local, "k", (1,), generation=before)


@pytest.mark.parametrize("event", ["clear", "close", "open", "forked"])
def test_an_entry_read_before_a_loss_is_refused(local, event):
    before = local.generation
    getattr(local, event)()
    if event in {"close", "forked"}:
        local.open()
    assert not keep(local, "k", (1,), generation=before)


def test_nothing_is_kept_while_closed(local):
    keep(local, "k", (1,))
    local.close()
    assert not local.is_open
    assert found(local, 1) is None
    assert is_empty(local)
    assert not keep(local, "k", (1,))
    local.open()
    assert local.is_open
    assert local.find_key("k", (1,), {}) is None


def test_it_is_closed_until_it_is_opened():
    assert not keep(Local(L1(), Codec().load), "k", (1,))


def test_a_read_begun_while_closed_is_refused_after_the_opening(local):
    local.close()
    before = local.generation
    local.open()
    assert not keep(local, "k", (1,), generation=before)


@pytest.mark.parametrize("suffix", ["l", "n"])
def test_leases_and_counters_change_nothing(local, suffix):
    before = local.generation
    keep(local, f"k:{suffix}", (1,))
    local.drop(f"k:{suffix}")
    assert found(local, 1) == "value"
    assert local.generation == before


def test_a_tag_takes_its_entries_and_no_others(local):
    keep(local, "k1", (1,), tags=("t1", "t2"))
    keep(local, "k2", (2,), tags=("t2",))
    keep(local, "k3", (3,))
    local.drop("t1")
    assert [found(local, n) for n in (1, 2, 3)] == [None, "value", "value"]
    local.drop("t2")
    assert [found(local, n) for n in (1, 2, 3)] == [None, None, "value"]
    assert not local._tagged


def test_an_entry_read_before_a_change_of_its_tag_is_refused(local):
    before = local.generation
    local.drop("t")
    assert not keep(local, "k", (1,), generation=before, tags=("t",))


# How much


def test_the_least_recently_used_goes_first(clock):
    local = Local(L1(size=3), Codec().load, now=clock)
    local.open()
    for number in (1, 2, 3):
        keep(local, f"k{number}", (number,), tags=(f"t{number}",))
    assert found(local, 1)
    assert local.find_key("k2", (2.0,), {})
    keep(local, "k4", (4,))
    assert set(local._entries) == {"k1", "k2", "k4"}
    assert found(local, 4)
    assert found(local, 1)
    keep(local, "k5", (5,))
    assert set(local._entries) == {"k4", "k1", "k5"}
    assert found(local, 2) is None
    assert set(local._tagged) == {"t1"}


def test_it_leaves_nothing_behind(clock):
    local = Local(L1(size=10), Codec().load, now=clock)
    local.open()
    for number in range(1000):
        keep(local, f"k{number}", (), {f"name{number}": number}, tags=(f"t{number % 7}", f"u{number}"))
    assert (len(local), len(local._tables)) == (10, 10)
    assert len(local._tagged) <= 17
    for number in range(1000):
        local.drop(f"k{number}")
    assert is_empty(local)


# What is given out


def test_what_nobody_can_change_is_shared(local):
    value = ("a", 1)
    local.insert("k", (1,), {}, entry(b"no JSON"), value, until=2000.0, generation=local.generation)
    assert local.find((1,), {}).get() is value
    assert local.find((1,), {}).load is None


def test_what_can_be_changed_is_everybodys_own(local):
    value = {"a": [1]}
    keep(local, "k", (1,), value=value)
    value["a"].append(2)
    first = found(local, 1)
    first["a"].append(3)
    assert found(local, 1) == {"a": [1]}


class Color(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: Any


class Loose(Point):
    """Without slots of its own, so anything can be hung on it."""


@dataclass(frozen=True)
class Frozen:
    x: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Any


@dataclass
class Thawed:
    x: Any


class Child(Frozen):
    pass


@dataclass(frozen=True)
class Listed(list):
    x: Any = 1


@dataclass(frozen=True)
class Caching:
    x: Any

    @cached_property
    def parts(self):
        return [self.x]


@dataclass(frozen=True)
class Hiding:
    x: Any

    def __post_init__(self):
        object.__setattr__(self, "hidden", [self.x])


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: Any


class Submodel(Model):
    y: int = 1


class Melted(Model):
    model_config = ConfigDict(frozen=False)


class Open(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    x: Any


class Private(Model):
    _seen: list[int] = PrivateAttr(default_factory=list)


class Computing(Model):
    @computed_field  # type: ignore[prop-decorator]  # pydantic documents it in this order
    @cached_property
    def parts(self) -> list[int]:
        return [1]


SAFE = [
    *(None, True, 1, 1.5, "text", b"bytes", Decimal("1.5"), uuid.UUID(int=1), Color.RED),
    *(dt.date(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.time(1), dt.timedelta(1)),
    *((), (1, ("a", None)), frozenset({1, (2,)}), Point(1), Frozen(1), Frozen((Frozen("a"),)), Slotted(1)),
    *(Model(x=1), Submodel(x=(Model(x=None),)), Open(x=1, y=(2,))),
]
UNSAFE = [
    *([], {}, set(), bytearray(), object(), Text("a"), (1, []), frozenset({Frozen(1), Thawed}), Point([]), Loose(1)),
    *(Frozen([]), Slotted([]), Thawed(1), Child(1), Listed(), Caching(1), Hiding(1)),
    *(Model(x=[]), Melted(x=1), Open(x=1, y=[]), Private(x=1), Computing(x=1), Submodel(x=({},))),
]


@pytest.mark.parametrize("value", SAFE, ids=repr)
def test_immutable(value):
    assert is_immutable(value)


@pytest.mark.parametrize("value", UNSAFE, ids=lambda value: repr(value).partition(" at 0x")[0])
def test_not_immutable(value):
    assert not is_immutable(value)


def test_a_value_too_deep_to_look_into_is_not_shared():
    value = ()
    for _ in range(100_000):
        value = (value,)
    assert not is_immutable(value)


# Interrupts, forks, threads


@pytest.mark.parametrize("method", ["_put", "_name"])
def test_an_interrupt_in_the_middle_of_an_insert_leaves_nothing_half_done(local, method, monkeypatch):
    keep(local, "k", (1,), value="old", tags=("t",))

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            keep(local, "k", (1,), value="new")
    assert is_empty(local)
    assert keep(local, "k", (1,), value="new")
    assert found(local, 1) == "new"


def test_an_interrupt_in_the_middle_of_a_drop_keeps_nothing_of_it(local, monkeypatch):
    keep(local, "k", (1,))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "_unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.drop("k")
    assert is_empty(local)


def test_a_child_does_not_wait_for_a_thread_that_was_not_forked(local):
    keep(local, "k", (1,))
    held, over = threading.Event(), threading.Event()

    def hold():
        with local._lock:
            held.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        local.forked()  # as the child calls it
        assert not local.is_open
        assert is_empty(local)
        local.open()
        assert keep(local, "k", (1,))
    finally:
        over.set()
        holder.join()


def test_no_thread_meets_what_was_dropped():
    """Readers fill and look while a writer changes and drops: after the drop of a version nobody gets an older."""
    local = Local(L1(size=4), Codec(int).load)
    local.open()
    stored, dropped = [0] * 8, [0] * 8
    wrong, hits, over = [], [0], threading.Event()

    def read():
        while not over.is_set():
            for number in range(8):
                least = dropped[number]
                slot = local.find((number,), {})
                if slot is not None:
                    hits[0] += 1
                    if slot.get() < least:
                        wrong.append((number, slot.get(), least))
                else:
                    generation = local.generation
                    value = stored[number]
                    keep(local, f"k{number}", (number,), value=value, until=float("inf"), generation=generation)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    version = 0
    while version < 3000 or hits[0] < 1000:
        version += 1
        number = version % 8
        stored[number] = version
        local.drop(f"k{number}")
        dropped[number] = version
    over.set()
    for reader in readers:
        reader.join()
    assert wrong == []


class Coherence(RuleBasedStateMachine):
    """Reads, changes and losses in any order: what is found is always what is stored now."""

    keys = st.integers(0, 5)
    names = st.sampled_from(["positional", "named"])

    def __init__(self):
        super().__init__()
        self.local = Local(L1(size=3), Codec(int).load)
        self.local.open()
        self.stored = [0] * 6
        self.pending = []

    @staticmethod
    def call(key, name):
        return ((key,), {}) if name == "positional" else ((), {"a": key})

    @rule(key=keys, name=names)
    def begin_read(self, key, name):
        self.pending.append((key, name, self.local.generation, self.stored[key]))

    @rule(data=st.data())
    def end_read(self, data):
        if self.pending:
            key, name, generation, value = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
            args, kwargs = self.call(key, name)
            tags = (f"t{key % 2}",)
            keep(self.local, f"k{key}", args, kwargs, value, float("inf"), generation=generation, tags=tags)

    @rule(key=keys)
    def change(self, key):
        self.stored[key] += 1
        self.local.drop(f"k{key}")

    @rule(tag=st.integers(0, 1))
    def change_tag(self, tag):
        for key in range(tag, 6, 2):
            self.stored[key] += 1
        self.local.drop(f"t{tag}")

    @rule(key=keys)
    def lose(self, key):
        self.local.close()
        self.stored[key] += 1
        self.local.open()

    @rule(key=keys, name=names)
    def find_by_key(self, key, name):
        self.local.find_key(f"k{key}", *self.call(key, name))

    @invariant()
    def what_is_found_is_what_is_stored(self):
        for key in range(6):
            for name in ("positional", "named"):
                slot = self.local.find(*self.call(key, name))
                assert slot is None or slot.get() == self.stored[key]

    @invariant()
    def nothing_else_is_held(self):
        slots = set(self.local._entries.values())
        assert len(slots) <= 3
        assert {slot for table in self.local._tables.values() for slot in table.values()} <= slots
        assert {slot for tagged in self.local._tagged.values() for slot in tagged} <= slots


TestCoherence = Coherence.TestCase
TestCoherence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
