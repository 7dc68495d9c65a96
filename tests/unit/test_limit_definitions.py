"""Bad input to a limiter: one clear error that says what to write instead, before anything is asked of Redis."""

from __future__ import annotations

import asyncio

import pytest

from workerkit.api.engine import Engine
from workerkit.api.limiter import Limiter
from workerkit.api.settings import load
from workerkit.api.throttle import throttle
from workerkit.core.events import Hooks
from workerkit.errors import DefinitionError
from workerkit.limits.decision import Answer, Decision, Reservation
from workerkit.limits.lease import Slot

INF, NAN = float("inf"), float("nan")
LONG = "x" * 10_000


class Untouched:
    """A runner for tests in which nothing may be asked."""

    def call(self, call, timeout=None):
        pytest.fail(f"asked {call}")

    def run(self, flow):
        step = next(flow)
        pytest.fail(f"asked {step}")


@pytest.fixture
def engine():
    engine = Engine(lambda: load({"redis_url": "redis://nowhere.invalid"}), Hooks())
    engine.__dict__["runner"] = Untouched()
    engine.flusher.start = lambda: None
    engine.flusher.begin = lambda: None
    return engine


def refused(act, *says):
    """`act` raises one DefinitionError of one readable line that says all of `says`; answers the line."""
    with pytest.raises(DefinitionError) as error:
        act()
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    for each in says:
        assert each in message, message
    return message


# Names and rates


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a{b}", "a\n", "é", "\ud800", LONG, 7, None, b"api"])
def test_a_name_that_would_not_do_in_a_key(engine, name):
    refused(lambda: Limiter(engine, name, "1/s"), "name", "1 to 64 letters")


NO_COUNT = ["", "ten/s", "0/s", "-1/s", "+1/s", "1.5/s", "1e3/s", "nan/s", "NaN", "inf/s", "\u0661\u0660/s"]
NO_PERIOD = ["10", "10/", "/s", "10/60", "10/s/s", "1/0s", "1/-1s", "1/nan s", "1/inf", "1/10us", "1/366d"]
NO_UNIT = ["10 a b/s", "10 2x/s", "10 to-kens/s", "10 per/s", "10 {x}/s", "10 a:b/s"]
TOO_MUCH = [f"{2**53 + 1}/s", "9" * 90 + "/s", LONG + "/s", "1/" + LONG, "10\n/s\n/m"]


@pytest.mark.parametrize("rate", [*NO_COUNT, *NO_PERIOD, *NO_UNIT, *TOO_MUCH])
def test_a_rate_that_does_not_parse(engine, rate):
    refused(lambda: Limiter(engine, "api", rate), "write it like", '"100/s"')
    refused(lambda: Limiter(engine, "api", "1/s").configure("k", rate), "write it like", '"100/s"')


@pytest.mark.parametrize("rate", [10, 10.0, None, b"10/s", True, ("10/s",)])
def test_a_rate_that_is_no_text(engine, rate):
    refused(lambda: Limiter(engine, "api", rate), "must be text", "write it like")


@pytest.mark.parametrize(
    "rates",
    [
        ("10/s", "20/s"),
        ("10/s", "20/1s"),
        ("10/60s", "20/m"),
        ("100/m", "50 requests/m"),
        ("100 calls/m", "50 requests/m"),
        ("100 request/m", "100/m"),
        ("9 tokens/m", "8 tokens/60s"),
        ("9/h", "1/s", "8/h"),
    ],
)
def test_two_rates_of_one_period(engine, rates):
    refused(lambda: Limiter(engine, "api", *rates), "have one period", "keep the lower one")


def test_the_same_period_of_two_units_is_two_rates(engine):
    limiter = Limiter(engine, "llm", "500 requests/m", "90000 tokens/m", "5000/h")
    assert limiter.definition.units == ("", "tokens", "")


@pytest.mark.parametrize("unit", ["key", "cost", "wait", "within", "limiter", "self", "__init__", "class", "None"])
def test_a_unit_that_no_call_could_name(engine, unit):
    refused(lambda: Limiter(engine, "api", f"10 {unit}/s"), f"called {unit}", "use another word")


def test_a_limiter_that_limits_nothing(engine):
    refused(lambda: Limiter(engine, "api"), "rate", '"100/s"')


# Options


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("algorithm", "sliding", "one of 'window', 'gcra', 'fixed'"),
        ("algorithm", "", "one of 'window', 'gcra', 'fixed'"),
        ("algorithm", None, "one of 'window', 'gcra', 'fixed'"),
        ("algorithm", ["window"], "one of 'window', 'gcra', 'fixed'"),
        ("count", "responses", "one of 'request', 'response'"),
        ("count", None, "one of 'request', 'response'"),
        ("when_down", "ajar", "'closed', 'open' or 'local'"),
        ("when_down", None, "'closed', 'open' or 'local'"),
        ("concurrency", 0, "at least 1"),
        ("concurrency", -1, "at least 1"),
        ("concurrency", True, "at least 1"),
        ("concurrency", 1.5, "at least 1"),
        ("concurrency", "2", "at least 1"),
        ("margin", -1, "0 or at least 1us"),
        ("margin", NAN, "0 or at least 1us"),
        ("margin", "soon", 'such as "10m"'),
        ("margin", "25h", "above a day"),
        ("lease", 0, "at least"),
        ("lease", -1, "at least"),
        ("lease", INF, "at least"),
        ("lease", "50ms", "write 0.1 or more"),
        ("lease_tokens", 0, "whole number"),
        ("lease_tokens", 6, "up to 5"),
        ("lease_tokens", True, "whole number"),
        ("lease_tokens", "all", '"auto"'),
    ],
)
def test_an_option_that_will_not_do(engine, option, value, says):
    refused(lambda: Limiter(engine, "api", "5/s", **{option: value}), option, says)


@pytest.mark.parametrize(
    ("rates", "options", "says"),
    [
        (("5/s",), {"burst": 2}, "algorithm='gcra'"),
        (("5/s",), {"burst": 2, "algorithm": "fixed"}, "algorithm='gcra'"),
        ((), {"burst": 2, "algorithm": "gcra", "concurrency": 2}, "rates"),
        (("5/s",), {"burst": 0, "algorithm": "gcra"}, "at least 1"),
        (("5/s",), {"burst": True, "algorithm": "gcra"}, "at least 1"),
        (("5/s",), {"count": "response", "algorithm": "gcra"}, "algorithm='window'"),
        (("5/s",), {"count": "response", "algorithm": "fixed"}, "algorithm='window'"),
        ((), {"count": "response", "concurrency": 2}, "needs a rate"),
        (("5/s",), {"lease_tokens": 2, "algorithm": "gcra"}, "lease_tokens"),
        (("5/s",), {"lease_tokens": 2, "concurrency": 2}, "lease_tokens"),
        (("5/s",), {"lease_tokens": 2, "count": "response"}, "lease_tokens"),
        (("5 tokens/s",), {"lease_tokens": 2}, "lease_tokens"),
        ((), {"lease_tokens": 2, "concurrency": 2}, "lease_tokens"),
    ],
)
def test_options_that_do_not_go_together(engine, rates, options, says):
    refused(lambda: Limiter(engine, "api", *rates, **options), says)


# Calls


def throttled(limiter, *, cost=1, wait=None, **units):
    """`kit.throttle(limiter, ...)` on a function without arguments."""
    options = {"priority": 0, "fairness_key": None, "weight": 1}
    return throttle(limiter.engine, limiter, key="", cost=cost, wait=wait, units=units, **options)(lambda: None)


WRONG_COSTS = [0, -1, 1.0, 0.5, NAN, INF, True, False, "1", None, [1]]


def verbs(limiter):
    """Every way of asking that takes a cost, as a function of it."""
    found = {
        "try_acquire": limiter.try_acquire,
        "slot": limiter.slot,
        "peek": limiter.peek,
        "plan": lambda cost=1, **units: limiter.plan(cost=cost, units=units),
        "throttle": lambda **asked: throttled(limiter, **asked),
        "aio.try_acquire": lambda **asked: asyncio.run(limiter.aio.try_acquire(**asked)),
        "aio.slot": limiter.aio.slot,
        "aio.peek": lambda **asked: asyncio.run(limiter.aio.peek(**asked)),
    }
    if limiter.definition.algorithm == "gcra":
        found["reserve"] = lambda **asked: limiter.reserve(within="1s", **asked)
        found["aio.reserve"] = lambda **asked: asyncio.run(limiter.aio.reserve(within="1s", **asked))
    return found.values()


@pytest.mark.parametrize("algorithm", ["window", "gcra", "fixed"])
@pytest.mark.parametrize("cost", WRONG_COSTS)
def test_a_cost_that_is_no_whole_number(engine, cost, algorithm):
    for ask in verbs(Limiter(engine, "api", "50/s", "1000/m", algorithm=algorithm)):
        refused(lambda ask=ask: ask(cost=cost), "cost", "whole number of at least 1")


@pytest.mark.parametrize("cost", [6, 2**53, 2**64])
def test_a_cost_that_could_never_pass_is_an_error_not_a_refusal(engine, cost):
    for ask in verbs(Limiter(engine, "api", "5/s", "100/m")):
        refused(lambda ask=ask: ask(cost=cost), "cost", "above 5/s", "ask for less at once")
    for ask in verbs(Limiter(engine, "api", "50/s", algorithm="gcra")):
        refused(lambda ask=ask: ask(cost=cost), "cost", "above 50/s with burst 5", "ask for less at once")


@pytest.mark.parametrize("amount", WRONG_COSTS)
def test_an_amount_of_a_unit_that_is_no_whole_number(engine, amount):
    for ask in verbs(Limiter(engine, "llm", "500 requests/m", "90000 tokens/m")):
        refused(lambda ask=ask: ask(tokens=amount), "tokens", "whole number of at least 1")


def test_units_that_are_missing_unknown_or_too_many(engine):
    for ask in verbs(Limiter(engine, "llm", "500 requests/m", "90000 tokens/m")):
        refused(ask, "counts tokens too", "slot(tokens=...)")
        refused(lambda ask=ask: ask(cost=2), "counts tokens too")
        refused(lambda ask=ask: ask(tokens=1, words=1), "does not count words", "tokens")
        refused(lambda ask=ask: ask(words=1), "counts tokens too")
        refused(lambda ask=ask: ask(tokens=1, requests=1), "does not count requests", "tokens")
        refused(lambda ask=ask: ask(tokens=90001), "tokens=90001 is above 90000 tokens/m")
        refused(lambda ask=ask: ask(tokens=1, cost=501), "cost=501 is above 500 requests/m")
    for ask in verbs(Limiter(engine, "api", "5/s")):
        refused(lambda ask=ask: ask(tokens=1), "does not count tokens", "only calls (cost=)")


def test_a_cost_where_no_calls_are_counted(engine):
    for ask in verbs(Limiter(engine, "llm", "90000 tokens/m")):
        refused(lambda ask=ask: ask(tokens=1, cost=2), "counts no calls", "leave it out")
    refused(lambda: Limiter(engine, "db", concurrency=2).slot(cost=2), "counts no calls", "leave it out")


@pytest.mark.parametrize("options", [{"concurrency": 2}, {"count": "response"}])
def test_what_is_held_needs_a_slot(engine, options):
    limiter = Limiter(engine, "api", "5/s", **options)
    refused(lambda: limiter.try_acquire("a"), "what is held needs slot()")
    refused(lambda: asyncio.run(limiter.aio.try_acquire("a")), "what is held needs slot()")


@pytest.mark.parametrize("key", [None, 7, b"a", ("a",), ["a"], 1.5])
def test_a_key_that_is_no_text(engine, key):
    limiter = Limiter(engine, "api", "5/s")
    for ask in (limiter.try_acquire, limiter.slot, limiter.peek, limiter.usage, limiter.reset, limiter.configure):
        refused(lambda ask=ask: ask(key), "key must be text", "write str(...)")
    refused(lambda: limiter.pause(key, 1), "key must be text")


@pytest.mark.parametrize("wait", [-1, "-1s", "soon", NAN, INF, True, [1]])
def test_a_wait_that_is_no_duration(engine, wait):
    limiter = Limiter(engine, "api", "5/s", algorithm="gcra")
    refused(lambda: limiter.slot(wait=wait), "wait", 'such as "10m"')
    refused(lambda: limiter.aio.slot(wait=wait), "wait", 'such as "10m"')
    refused(lambda: limiter.reserve(within=wait), "within", 'such as "10m"')
    refused(lambda: throttled(limiter, wait=wait), "wait", "10m")


@pytest.mark.parametrize("duration", [0, -1, "-1s", "0s", "soon", INF, NAN, None, True])
def test_a_pause_that_is_no_duration(engine, duration):
    limiter = Limiter(engine, "api", "5/s")
    refused(lambda: limiter.pause("", duration), "pause", 'such as "10m"')
    refused(lambda: asyncio.run(limiter.aio.pause("", duration)), "pause", 'such as "10m"')


def test_a_reservation_needs_gcra_and_no_cap(engine):
    for limiter in (Limiter(engine, "a", "5/s"), Limiter(engine, "b", "5/s", algorithm="gcra", concurrency=1)):
        refused(lambda limiter=limiter: limiter.reserve(within=1), "reserve()", "algorithm='gcra'")


def test_a_reservation_is_cancelled_once(engine):
    limiter = Limiter(engine, "api", "5/s", algorithm="gcra")
    reservation = Reservation(0.5, Decision(True, 0, 0.0, 0.0, ""), "k", (1,), 17)
    limiter.cancelling(reservation)
    refused(lambda: limiter.cancel(reservation), "cancelled before", "once")


# Run-time configuration


def test_a_configuration_that_will_not_do(engine):
    limiter = Limiter(engine, "llm", "500 requests/m", "90000 tokens/m")
    refused(lambda: limiter.configure("k", "5 words/m"), "does not count words", "calls, tokens")
    refused(lambda: limiter.configure("k", "5/m"), "counts tokens too")
    refused(lambda: limiter.configure("k", "5 tokens/m"), "counts calls too")
    refused(lambda: limiter.configure("k", "5/m", "6 calls/m"), "have one period", "keep the lower one")
    refused(lambda: limiter.configure("k", "5/m", concurrency=2), "defined without concurrency")
    refused(lambda: asyncio.run(limiter.aio.configure("k", "0/m")), "write it like")
    only = Limiter(engine, "llm", "90000 tokens/m", concurrency=2)
    refused(lambda: only.configure("k", "5/m"), "does not count calls", "tokens")
    for cap in (0, -1, True, 1.5, "2"):
        refused(lambda cap=cap: only.configure("k", concurrency=cap), "concurrency", "at least 1")
    refused(lambda: Limiter(engine, "db", concurrency=2).configure("k", "5/m"), "does not count calls", "nothing")


def test_a_cap_alone_may_be_configured_whatever_the_algorithm(engine):
    for options in ({}, {"algorithm": "gcra", "burst": 5}, {"algorithm": "fixed"}):
        limiter = Limiter(engine, "api", "10/s", concurrency=2, **options)
        call = limiter.policy.configure(limiter.keys, limiter.part("k"), (), 3)
        assert call.args[0] == "SET"


# Settling


def held(*units):
    return Slot("me", Answer(Decision(True, 0, 0.0, 0.0, ""), 0, 0.0), units, (1,) * len(units))


@pytest.mark.parametrize("amount", [-1, 1.0, NAN, True, "1", 2**53 + 1, [1]])
def test_a_settlement_that_is_no_amount(amount):
    refused(lambda: held("", "tokens").settle(tokens=amount), "tokens", "whole number from 0 to 2**53")
    refused(lambda: held("", "tokens").settle(cost=amount), "cost", "whole number from 0 to 2**53")


def test_a_settlement_of_what_is_not_counted():
    refused(lambda: held("", "tokens").settle(words=1), "counts cost, tokens", "not words")
    refused(lambda: held("tokens").settle(cost=1), "counts tokens", "not cost")
    refused(lambda: held().settle(cost=1), "counts nothing", "not cost")


def test_a_wrong_settlement_settles_nothing():
    slot = held("", "tokens")
    refused(lambda: slot.settle(cost=3, tokens=-1), "tokens")
    assert slot.end() is None


def test_settlements_of_one_slot_add_up_by_unit_and_end_with_it():
    slot = held("", "tokens")
    slot.settle(tokens=5)
    slot.settle(cost=0)
    slot.settle(tokens=7)
    assert slot.end() == {"": 0, "tokens": 7}
    refused(lambda: slot.settle(tokens=1), "has ended", "inside its with block")
