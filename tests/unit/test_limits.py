"""The policy and the handle, with every Call answered by a model: no server, no real time."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from workerkit.api import limiter as handle
from workerkit.api.engine import Engine
from workerkit.api.host import NoHost, Running
from workerkit.api.limiter import Limiter
from workerkit.api.settings import load
from workerkit.core.call import Call
from workerkit.core.events import BackgroundTrouble, Hooks, LimitDown
from workerkit.core.flow import Sleep
from workerkit.core.keys import Keys
from workerkit.core.rates import parse_rates
from workerkit.errors import DefinitionError, OutcomeUnknown, RateLimited, StoreRefused, StoreUnavailable
from workerkit.limits import lease as lease_module
from workerkit.limits import limiter as limiter_module
from workerkit.limits import slots as slots_module
from workerkit.limits.decision import Answer, Decision
from workerkit.limits.definition import Definition
from workerkit.limits.lease import Slot
from workerkit.limits.limiter import HINT, LimitPolicy
from workerkit.limits.slots import Slots

KEYS = Keys("t", "g")


class Model:
    """Answers Calls as the server would, keeping every charge; its clock moves only when a Flow sleeps."""

    def __init__(self, monkeypatch):
        self.now = 1_000.0
        self.charges, self.leases, self.waiting = [], {}, set()
        self.asked, self.slept, self.failures, self.settled = [], [], [], []
        for module in (limiter_module, lease_module, slots_module):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def call(self, call, timeout=None):
        self.asked.append(call.name)
        if self.failures and self.failures[0][0] == call.name:
            raise self.failures.pop(0)[1]
        return call.parse(getattr(self, call.name.replace("limits.", "do_"))(call))

    def run(self, flow):
        try:
            step = next(flow)
            while True:
                try:
                    result = self.step(step)
                except BaseException as error:  # noqa: BLE001 - thrown into the flow, as a runner does
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            return done.value

    def step(self, step):
        if isinstance(step, Call):
            return self.call(step)
        assert isinstance(step, Sleep)
        self.slept.append(step.seconds)
        self.now += step.seconds
        return None

    def do_acquire(self, call):
        take, cap, lease_us, owner, _, _, *rates = call.args
        rates = [tuple(rates[i : i + 3]) for i in range(0, len(rates), 3)]
        now, wait, bound = round(self.now * 1e6), 0, 0
        for nth, (period, limit, cost) in enumerate(rates, 1):
            live = [charge for charge in self.charges if charge[0] + period > now]
            over = sum(charge[1] for charge in live) + cost - limit
            while over > 0:
                at, count = live.pop(0)
                over -= count
                if over <= 0 and at + period - now > wait:
                    wait, bound = at + period - now, nth
        held = {each for each, ends in self.leases.items() if ends > now and each != owner}
        if wait or (cap and len(held) >= cap):
            return [0, 0, wait, 0, bound, now]
        if take:
            self.charges.append((now, rates[0][2] if rates else 1))
            self.leases.update({owner: now + lease_us} if cap else {})
        return [1, 0, 0, 0, 0, now]

    do_request = do_peek = do_acquire

    def do_finish(self, call):
        self.settled.append((call.args[0], call.args[5], call.args[8::3]))
        return int(self.leases.pop(call.args[3], None) is not None)

    def do_wait(self, call):
        self.waiting.add(call.args[0])

    def do_waited(self, call):
        self.waiting.discard(call.args[2])

    def do_renew(self, call):
        owner, lease_us, _ = call.args
        now = round(self.now * 1e6)
        if self.leases.get(owner, 0) <= now:
            return 0
        self.leases[owner] = now + lease_us
        return 1

    def do_release(self, call):
        return int(self.leases.pop(call.args[2], None) is not None)


class NoTicker:
    """Keeps the renewals of leases for the test to run; whatever else ticks does not."""

    act = None

    def every(self, interval, what, act):
        if what.startswith("lease"):
            self.interval, self.act = interval, act
        return self

    def stop(self):
        self.act = None


@pytest.fixture
def model(monkeypatch):
    return Model(monkeypatch)


@pytest.fixture
def events():
    return []


@pytest.fixture
def engine(model, events):
    engine = Engine(lambda: load({"redis_url": "redis://nowhere.invalid"}), Hooks(events.append))
    engine.__dict__["runner"] = model
    engine.ticker = NoTicker()
    return engine


def policy(*rates, **options):
    return LimitPolicy(Definition("api", parse_rates(*rates) if rates else (), **options))


# Keys


@pytest.mark.parametrize("key", ["", "acct_7", "a:b", "{x}", "a}:w", "\n\0", "é" * 5_000, "\ud800", "x" * 10_000])
def test_no_key_of_a_caller_steers_or_shows_in_a_key_of_redis(engine, key):
    limiter = Limiter(engine, "api", "5/s", concurrency=2)
    call = limiter.policy.request(limiter.keys, limiter.part(key), (1,), "me")
    assert len(call.keys) == 4
    grammar = re.compile(r"wk:g:(\{api:[0-9a-f]{32}\}):[wpcl]")
    assert len({grammar.fullmatch(each)[1] for each in call.keys}) == 1
    assert not key or key not in repr(call)


def test_a_key_must_be_text_and_a_secret_hides_it(engine):
    limiter = Limiter(engine, "api", "5/s")
    for key in (None, 7, b"a"):
        with pytest.raises(DefinitionError, match="key must be text"):
            limiter.try_acquire(key)
    plain = limiter.part("acct_7")
    assert plain == limiter.part("acct_7") != limiter.part("acct_8")
    engine.secret = b"s" * 32
    assert limiter.part("acct_7") != plain


# Calls


def test_the_margin_is_added_to_every_period():
    call = policy("5/s", "100/m", margin="50ms").acquire(KEYS, "p", (2, 2))
    assert call.args == (1, 0, 10_000_000, "", "", "0", 1_050_000, 5, 2, 60_050_000, 100, 2)


def test_what_charges_runs_once_and_what_may_be_repeated_does_not():
    limits = policy("5/s", concurrency=3, lease="2s")
    slot = Slot("me", Answer(Decision(True, 1, 0.0, 0.0, ""), 9, 0.0))
    assert limits.acquire(KEYS, "p", (1,)).once
    assert limits.request(KEYS, "p", (1,), "me").once
    assert limits.settle(KEYS, "p", (1,), 9, {"": 0}).once
    assert not limits.renew(KEYS, "p", slot).once
    assert not limits.release(KEYS, "p", "me").once
    assert limits.request(KEYS, "p", (1,), "me").args[:4] == (1, 3, 2_000_000, "me")
    assert limits.request(KEYS, "p", (1,), "me", leased=False).args[:4] == (1, 0, 2_000_000, "me")
    assert limits.peek(KEYS, "p", (1,)).args[0] == 0


@pytest.mark.parametrize(
    ("reply", "decision"),
    [
        ([1, 4, 0, 1_000_001, 0, 9], Decision(True, 4, 0.0, 1.000001, "")),
        ([0, 0, 250_001, 5, 1, 9], Decision(False, 0, 0.250001, 5e-6, "5/s")),
        ([0, 3, 7, 0, 2, 9], Decision(False, 3, 7e-6, 0.0, "100/m")),
        ([0, 3, 7, 0, -1, 9], Decision(False, 3, 7e-6, 0.0, "pause")),
        ([0, 3, 7, 0, -2, 9], Decision(False, 3, 7e-6, 0.0, "learned")),
        ([0, 3, 7, 0, b"9/s", 9], Decision(False, 3, 7e-6, 0.0, "9/s")),
    ],
)
def test_a_reply_becomes_a_decision(reply, decision):
    assert policy("5/s", "100/m").acquire(KEYS, "p", (1, 1)).parse(reply) == decision


def test_for_a_slot_to_come_free_there_is_only_a_jittered_hint():
    parse = policy(concurrency=1).request(KEYS, "p", (), "me").parse
    decisions = [parse([0, 0, 0, 0, 0, 9]).decision for _ in range(50)]
    assert {each.bound_by for each in decisions} == {"concurrency"}
    waits = {each.retry_after for each in decisions}
    assert len(waits) > 40
    assert all(HINT[0] <= wait <= HINT[1] for wait in waits)


# Slots


def test_a_slot_waits_exactly_as_long_as_told(engine, model):
    limiter = Limiter(engine, "api", "2/s")
    for _ in range(2):
        with limiter.slot():
            pass
    model.now += 0.25
    with limiter.slot(wait="2s") as slot:
        assert slot.decision.allowed
        assert not slot.lost
    assert model.slept == [0.75]


def test_a_wait_that_cannot_suffice_is_refused_at_once(engine, model):
    limiter = Limiter(engine, "api", "1/m")
    assert limiter.try_acquire("secret").allowed
    for wait in (None, 0, "59s"):
        with pytest.raises(RateLimited) as refused, limiter.slot("secret", wait=wait):
            pass
    said = {"limiter": "api", "key": "secret", "retry_after": 60.0, "bound_by": "1/m", "costs": (1,)}
    assert vars(refused.value) == said
    assert "secret" not in str(refused.value)
    assert model.slept == []


def test_a_wait_for_a_slot_ends(engine, model):
    limiter = Limiter(engine, "db", concurrency=1, lease=100)
    with (
        limiter.slot(),
        pytest.raises(RateLimited, match="concurrency"),
        limiter.slot(wait="500ms"),
    ):
        pass
    assert sum(model.slept) == pytest.approx(0.5)
    assert max(model.slept) <= HINT[1]
    assert model.leases == {}
    with limiter.slot():
        assert len(model.leases) == 1
    assert model.leases == {}


@pytest.mark.parametrize("error", [OutcomeUnknown(), asyncio.CancelledError(), KeyboardInterrupt()])
def test_an_unknown_outcome_is_released_and_never_asked_again(engine, model, error):
    limiter = Limiter(engine, "api", "5/s", concurrency=1)
    model.failures = [("limits.request", error)]
    with pytest.raises(type(error)), limiter.slot(wait="10s"):
        pytest.fail("admitted")
    assert model.asked == ["limits.request", "limits.release"]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt()])
@pytest.mark.parametrize("options", [{"concurrency": 1}, {"count": "response"}, {"algorithm": "gcra", "burst": 1}])
def test_who_is_interrupted_at_any_step_holds_nothing_and_waits_no_longer(engine, model, options, error):
    limiter = Limiter(engine, "api", "1/s", **options)
    for nth in range(20):
        model.charges.clear()
        with limiter.slot():
            pass
        flow = limiter.plan(wait="10s").enter()
        try:
            step = next(flow)
            for _ in range(nth):
                step = flow.send(model.step(step))
        except StopIteration:
            break
        if isinstance(step, Call):
            model.step(step)  # executed, and its answer never heard
        try:
            step = flow.throw(error)
            while True:
                step = flow.send(model.step(step))
        except type(error):
            pass
        assert (model.leases, model.waiting) == ({}, set()), nth
    assert nth > 3


def test_an_unknown_outcome_stays_the_error_when_the_release_fails_too(engine, model):
    limiter = Limiter(engine, "api", "5/s", concurrency=1)
    model.failures = [("limits.request", OutcomeUnknown()), ("limits.release", StoreUnavailable())]
    with pytest.raises(OutcomeUnknown), limiter.slot():
        pytest.fail("admitted")


@pytest.mark.parametrize("error", [StoreUnavailable(), StoreRefused()])
def test_what_was_not_executed_needs_no_release(engine, model, error):
    model.failures = [("limits.request", error)]
    with pytest.raises(type(error)), Limiter(engine, "api", "5/s", concurrency=1).slot():
        pytest.fail("admitted")
    assert model.asked == ["limits.request"]


@pytest.mark.parametrize("error", [StoreUnavailable(), OutcomeUnknown()])
def test_redis_down_is_closed_or_open_as_declared(engine, model, events, error):
    model.failures = [("limits.acquire", error), ("limits.acquire", error), ("limits.request", error)]
    with pytest.raises(type(error)):
        Limiter(engine, "api", "5/s").try_acquire()
    limiter = Limiter(engine, "api", "5/s", when_down="open")
    assert limiter.try_acquire() == Decision(True, 0, 0.0, 0.0, "down")
    with limiter.slot() as slot:
        assert slot.decision.bound_by == "down"
    assert events == [LimitDown("api", "open", type(error).__name__)] * 2


def test_a_refusing_store_is_not_a_store_that_is_down(engine, model):
    model.failures = [("limits.acquire", StoreRefused())]
    with pytest.raises(StoreRefused):
        Limiter(engine, "api", "5/s", when_down="open").try_acquire()


def test_an_open_slot_holds_no_lease_to_lose_or_release(engine, model):
    model.failures = [("limits.request", StoreUnavailable())]
    with Limiter(engine, "api", concurrency=1, lease=1, when_down="open").slot() as slot:
        assert engine.ticker.act is None
        model.now += 100
        assert not slot.lost
    assert model.asked == ["limits.request"]


def test_what_was_admitted_unseen_may_be_settled_as_ever(engine, model):
    model.failures = [("limits.request", StoreUnavailable())]
    with Limiter(engine, "llm", "5/s", "1000 tokens/m", when_down="open").slot(tokens=10) as slot:
        slot.settle(tokens=500)
    assert model.asked == ["limits.request"], "nothing was charged, so there is nothing to settle"


class InTask(NoHost):
    """As if the caller were a task."""

    task = "t1"

    def running(self):
        return Running(self.task, "tasks.call")


def test_a_slot_inside_another_gives_no_place_back_that_it_has_not_taken(engine, model):
    engine.host = InTask()
    limiter = Limiter(engine, "db", concurrency=2, when_down="local")
    limiter.stand_in._live, limiter.stand_in._pid = 1, os.getpid()
    with limiter.slot():
        model.failures = [("limits.request", StoreUnavailable())] * 4
        engine.host.task = "t2"
        with limiter.slot() as other:
            assert other.decision.bound_by == "local"
            engine.host.task = "t1"
            with limiter.slot() as inner:
                assert inner.decision.bound_by == "local"
            engine.host.task = "t3"
            with limiter.slot(), pytest.raises(RateLimited, match="concurrency"), limiter.slot():
                pytest.fail("a third in a share of two")


def test_a_holder_learns_of_its_loss_before_the_server_counts_it(engine, model):
    limiter = Limiter(engine, "api", concurrency=1, lease=3)
    with limiter.slot() as slot:
        assert engine.ticker.interval == 1
        model.now += 2.5
        engine.ticker.act()
        model.now += 2.5
        assert not slot.lost
        model.now += 0.5
        assert slot.lost
        engine.ticker.act()
        assert slot.lost


def test_a_lost_lease_is_known_from_the_first_renewal_that_fails(engine, model):
    with Limiter(engine, "api", concurrency=1, lease=3).slot() as slot:
        model.leases.clear()
        assert not slot.lost
        engine.ticker.act()
        assert slot.lost


def test_a_slots_time_runs_from_before_it_was_asked_for(model):
    limits = policy(concurrency=1, lease=3)
    flow = Slots(limits, KEYS, "p").hold((), "me")
    call = next(flow)
    model.now += 2.0  # the server may have executed at any moment of this
    with pytest.raises(StopIteration) as done:
        flow.send(call.parse([1, 0, 0, 0, 0, 9]))
    slot = done.value.value
    model.now += 1.0
    assert slot.lost


def test_without_a_cap_nothing_is_leased(engine, model):
    with Limiter(engine, "api", "5/s").slot() as slot:
        model.now += 1e9
        assert not slot.lost
    assert model.asked == ["limits.request"]


def test_a_release_that_fails_is_reported_and_hides_nothing(engine, model, events):
    model.failures = [("limits.release", StoreUnavailable("gone"))]
    with pytest.raises(ZeroDivisionError), Limiter(engine, "api", concurrency=1).slot():
        raise ZeroDivisionError
    assert events == [BackgroundTrouble("lease of limiter api", "gone")]


def test_nothing_shows_a_key_or_needs_settings_at_definition():
    def unset():
        raise DefinitionError("no settings yet")

    limiter = handle.Limiter(Engine(unset, Hooks()), "api", "100/s", "5000/h", concurrency=20, margin="20ms")
    assert repr(limiter) == "Limiter(api, 100/s, 5000/h, concurrency=20, margin=20ms)"
