"""The policy and the handle, with every Call answered by a model: no server, no real time."""

from __future__ import annotations

import asyncio
import inspect
import re

import pytest

from workerkit.api import limiter as handle
from workerkit.api.engine import Engine
from workerkit.api.limiter import AioLimiter, Limiter
from workerkit.api.settings import load
from workerkit.core.call import Call
from workerkit.core.events import BackgroundTrouble, Hooks, LimitOpen
from workerkit.core.flow import Sleep
from workerkit.core.keys import Keys
from workerkit.core.rates import parse_rates
from workerkit.errors import DefinitionError, OutcomeUnknown, RateLimited, StoreRefused, StoreUnavailable
from workerkit.limits import lease as slots
from workerkit.limits import limiter as policies
from workerkit.limits.decision import Decision
from workerkit.limits.lease import Slot
from workerkit.limits.limiter import HINT, LimitPolicy

KEYS = Keys("t", "g")


class Model:
    """Answers Calls as the server would, keeping every charge; its clock moves only when a Flow sleeps."""

    def __init__(self, monkeypatch):
        self.now = 1_000.0
        self.charges, self.leases = [], {}
        self.asked, self.slept, self.failures = [], [], []
        monkeypatch.setattr(policies, "monotonic", lambda: self.now)
        monkeypatch.setattr(slots, "monotonic", lambda: self.now)

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
        take, cap, lease_us, owner, *rates = call.args
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

    do_peek = do_acquire

    def do_renew(self, call):
        owner, lease_us = call.args
        now = round(self.now * 1e6)
        if self.leases.get(owner, 0) <= now:
            return 0
        self.leases[owner] = now + lease_us
        return 1

    def do_release(self, call):
        return int(self.leases.pop(call.args[2], None) is not None)


class NoTicker:
    def every(self, interval, what, act):
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
    return LimitPolicy("api", parse_rates(*rates) if rates else (), **options)


# Definitions


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("",), {"concurrency": 1}, "name"),
        (("a b", "1/s"), {}, "name"),
        (("a:{b}", "1/s"), {}, "name"),
        (("x" * 65, "1/s"), {}, "name"),
        ((7, "1/s"), {}, "name"),
        (("api",), {}, "rate"),
        (("api", "0/s"), {}, "rate"),
        (("api", "-1/s"), {}, "rate"),
        (("api", "nan/s"), {}, "rate"),
        (("api", f"{2**53 + 1}/s"), {}, "rate"),
        (("api", "1/0s"), {}, "period"),
        (("api", "10/s", "20/1s"), {}, "period"),
        (("api", 10), {}, "rate"),
        (("api", "900 tokens/m"), {}, "tokens"),
        (("api", "1/s"), {"concurrency": 0}, "concurrency"),
        (("api", "1/s"), {"concurrency": -1}, "concurrency"),
        (("api", "1/s"), {"concurrency": True}, "concurrency"),
        (("api", "1/s"), {"concurrency": 1.5}, "concurrency"),
        (("api", "1/s"), {"margin": -1}, "margin"),
        (("api", "1/s"), {"margin": float("nan")}, "margin"),
        (("api", "1/s"), {"margin": "soon"}, "margin"),
        (("api", "1/s"), {"lease": 0}, "lease"),
        (("api", "1/s"), {"lease": "50ms"}, "lease"),
        (("api", "1/s"), {"when_down": "local"}, "when_down"),
        (("api", "1/s"), {"when_down": "ajar"}, "when_down"),
    ],
)
def test_a_wrong_definition_is_one_clear_error(engine, arguments, options, says):
    with pytest.raises(DefinitionError, match=says) as error:
        Limiter(engine, *arguments, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cost", [0, -1, 1.0, True, "1", None, 6, 2**53])
def test_a_cost_that_could_never_pass_is_an_error_not_a_refusal(engine, model, cost):
    limiter = Limiter(engine, "api", "5/s", "100/m")
    for ask in (lambda: limiter.try_acquire(cost=cost), lambda: limiter.slot(cost=cost)):
        with pytest.raises(DefinitionError, match="cost"):
            ask()
    assert model.asked == []


def test_what_is_held_needs_a_slot(engine, model):
    limiter = Limiter(engine, "api", "5/s", concurrency=2)
    with pytest.raises(DefinitionError, match=r"slot\(\)"):
        limiter.try_acquire("a")
    with pytest.raises(DefinitionError, match=r"slot\(\)"):
        asyncio.run(limiter.aio.try_acquire("a"))
    assert model.asked == []


@pytest.mark.parametrize("wait", [-1, "soon", float("nan")])
def test_a_wrong_wait_is_an_error(engine, wait):
    with pytest.raises(DefinitionError, match="wait"):
        Limiter(engine, "api", "5/s").slot(wait=wait)


@pytest.mark.parametrize("duration", [0, -1, "soon", float("inf")])
def test_a_wrong_pause_is_an_error(engine, model, duration):
    with pytest.raises(DefinitionError, match="pause"):
        Limiter(engine, "api", "5/s").pause("", duration)
    assert model.asked == []


def test_both_sides_have_the_same_verbs():
    verbs = [name for name in vars(AioLimiter) if not name.startswith("_")]
    assert set(verbs) == {"try_acquire", "slot", "peek", "reset", "pause"}
    for name in verbs:
        sync, other = (inspect.signature(getattr(side, name)) for side in (Limiter, AioLimiter))
        assert sync.parameters == other.parameters, name
        assert sync.return_annotation == other.return_annotation.removeprefix("Aio"), name
        assert inspect.iscoroutinefunction(getattr(AioLimiter, name)) == (name != "slot")


# Keys


@pytest.mark.parametrize("key", ["", "acct_7", "a:b", "{x}", "a}:w", "\n\0", "é" * 5_000, "\ud800", "x" * 10_000])
def test_no_key_of_a_caller_steers_or_shows_in_a_key_of_redis(engine, key):
    limiter = Limiter(engine, "api", "5/s", concurrency=2)
    call = limiter.policy.acquire(limiter.keys, limiter.part(key), 1, "me")
    assert len(call.keys) == 3
    grammar = re.compile(r"wk:g:(\{api:[0-9a-f]{32}\}):[wpl]")
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
    call = policy("5/s", "100/m", margin="50ms").acquire(KEYS, "p", 2, "")
    assert call.args == (1, 0, 10_000_000, "", 1_050_000, 5, 2, 60_050_000, 100, 2)


def test_what_charges_runs_once_and_what_may_be_repeated_does_not():
    limits = policy("5/s", concurrency=3, lease="2s")
    assert limits.acquire(KEYS, "p", 1, "me").once
    assert not limits.renew(KEYS, "p", "me").once
    assert not limits.release(KEYS, "p", "me").once
    assert limits.acquire(KEYS, "p", 1, "me").args[:4] == (1, 3, 2_000_000, "me")
    assert limits.peek(KEYS, "p").args[0] == 0


@pytest.mark.parametrize(
    ("reply", "decision"),
    [
        ([1, 4, 0, 1_000_001, 0, 9], Decision(True, 4, 0.0, 1.000001, "")),
        ([0, 0, 250_001, 5, 1, 9], Decision(False, 0, 0.250001, 5e-6, "5/s")),
        ([0, 3, 7, 0, 2, 9], Decision(False, 3, 7e-6, 0.0, "100/m")),
        ([0, 3, 7, 0, -1, 9], Decision(False, 3, 7e-6, 0.0, "pause")),
    ],
)
def test_a_reply_becomes_a_decision(reply, decision):
    assert policy("5/s", "100/m").acquire(KEYS, "p", 1, "").parse(reply) == decision


def test_for_a_slot_to_come_free_there_is_only_a_jittered_hint():
    parse = policy(concurrency=1).acquire(KEYS, "p", 1, "me").parse
    decisions = [parse([0, 0, 0, 0, 0, 9]) for _ in range(50)]
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
    assert vars(refused.value) == {"limiter": "api", "key": "secret", "retry_after": 60.0, "bound_by": "1/m"}
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


def test_the_same_owner_refreshes_and_pays_again(model):
    limits = policy("5/s", concurrency=1)
    for _ in range(2):
        assert model.call(limits.acquire(KEYS, "p", 1, "me")).allowed
    assert len(model.charges) == 2
    assert model.call(limits.acquire(KEYS, "p", 1, "you")).bound_by == "concurrency"


@pytest.mark.parametrize("error", [OutcomeUnknown(), asyncio.CancelledError(), KeyboardInterrupt()])
def test_an_unknown_outcome_is_released_and_never_asked_again(engine, model, error):
    limiter = Limiter(engine, "api", "5/s", concurrency=1)
    model.failures = [("limits.acquire", error)]
    with pytest.raises(type(error)), limiter.slot(wait="10s"):
        pytest.fail("admitted")
    assert model.asked == ["limits.acquire", "limits.release"]


def test_an_unknown_outcome_stays_the_error_when_the_release_fails_too(engine, model):
    limiter = Limiter(engine, "api", "5/s", concurrency=1)
    model.failures = [("limits.acquire", OutcomeUnknown()), ("limits.release", StoreUnavailable())]
    with pytest.raises(OutcomeUnknown), limiter.slot():
        pytest.fail("admitted")


@pytest.mark.parametrize("error", [StoreUnavailable(), StoreRefused()])
def test_what_was_not_executed_needs_no_release(engine, model, error):
    model.failures = [("limits.acquire", error)]
    with pytest.raises(type(error)), Limiter(engine, "api", "5/s", concurrency=1).slot():
        pytest.fail("admitted")
    assert model.asked == ["limits.acquire"]


@pytest.mark.parametrize("error", [StoreUnavailable(), OutcomeUnknown()])
def test_redis_down_is_closed_or_open_as_declared(engine, model, events, error):
    model.failures = [("limits.acquire", error)] * 4
    with pytest.raises(type(error)):
        Limiter(engine, "api", "5/s").try_acquire()
    limiter = Limiter(engine, "api", "5/s", when_down="open")
    assert limiter.try_acquire() == Decision(True, 0, 0.0, 0.0, "down")
    assert model.run(limiter.acquire("", 1, "me")).bound_by == "down"
    with limiter.slot() as slot:
        assert slot.decision.bound_by == "down"
    assert events == [LimitOpen("api", type(error).__name__)] * 3


def test_a_refusing_store_is_not_a_store_that_is_down(engine, model):
    model.failures = [("limits.acquire", StoreRefused())]
    with pytest.raises(StoreRefused):
        Limiter(engine, "api", "5/s", when_down="open").try_acquire()


def test_an_open_slot_holds_no_lease_to_lose_or_release(engine, model):
    model.failures = [("limits.acquire", StoreUnavailable())]
    with Limiter(engine, "api", concurrency=1, lease=1, when_down="open").slot() as slot:
        engine.ticker.act()
        model.now += 100
        assert not slot.lost
    assert "limits.release" not in model.asked


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
    flow = limits.slot(KEYS, "p", 1, "me", 0.0)
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
    assert model.asked == ["limits.acquire"]


def test_a_release_that_fails_is_reported_and_hides_nothing(engine, model, events):
    model.failures = [("limits.release", StoreUnavailable("gone"))]
    with pytest.raises(ZeroDivisionError), Limiter(engine, "api", concurrency=1).slot():
        raise ZeroDivisionError
    assert events == [BackgroundTrouble("lease of limiter api", "gone")]


def test_a_throttle_may_hold_as_itself(engine, model):
    limiter = Limiter(engine, "api", "5/s", concurrency=1)
    slot = model.run(limiter.plan("k", owner="task-1").enter())
    assert isinstance(slot, Slot)
    assert slot.owner == "task-1"
    assert set(model.leases) == {"task-1"}
    assert model.run(limiter.acquire("k", 1, "task-1")).allowed
    assert not model.run(limiter.acquire("k", 1, "task-2")).allowed


def test_nothing_shows_a_key_or_needs_settings_at_definition():
    def unset():
        raise DefinitionError("no settings yet")

    limiter = handle.Limiter(Engine(unset, Hooks()), "api", "100/s", "5000/h", concurrency=20, margin="20ms")
    assert repr(limiter) == "Limiter(api, 100/s, 5000/h, concurrency=20, margin=20ms)"
