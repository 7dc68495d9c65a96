"""The straight path of a Call: for a server that is well; anything but a plain reply is judged as ever."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import exceptions as replies

from workerkit.core.call import Call
from workerkit.core.events import Hooks
from workerkit.core.lua import Script
from workerkit.errors import GuardEvicts, OutcomeUnknown, StoreRefused, StoreUnavailable
from workerkit.io import aiocalls, calls
from workerkit.io.address import parse_address
from workerkit.io.link import Lost, NotYet
from workerkit.io.server import CLOCK_AGE, PoolOptions, Server

CHARGE = Script("tests.faults.lua", "charge")
GET = Call("get", "cache", lambda reply: f"parsed {reply}", args=("GET", "key"))
ONCE = Call("charge", "guard", int, script=CHARGE, keys=("key",))


class Model:
    """A pool of one connection, and that connection: it answers by the list, and notes what it was asked."""

    def __init__(self, *answers):
        hooks = Hooks(lambda event: None)
        self.server = Server("redis", parse_address("redis://host", what="url"), options=PoolOptions(), hooks=hooks)
        self.server.clock.learn(10**15, time.monotonic())
        self.answers = list(answers)
        self.asked = []
        self.path = []

    def take(self, deadline):
        self.path.append("take")
        return self

    def give(self, link):
        self.path.append("give")

    def drop(self, link):
        self.path.append("drop")

    def drop_free(self):
        self.path.append("drop free")

    def ask(self, command, deadline):
        # One that is packed begins "*2\r\n$3\r\nGET\r\n".
        self.asked.append(command.split(b"\r\n")[2].decode() if isinstance(command, bytes) else command[0])
        answer = self.answers.pop(0)
        if isinstance(answer, (Lost, KeyboardInterrupt)):
            raise answer
        return answer

    def exchange(self, commands, deadline):
        self.path.append("exchange")
        return [self.ask(command, deadline) for command in commands]


class AioModel(Model):
    async def take(self, deadline):
        return super().take(deadline)

    async def ask(self, command, deadline):
        return super().ask(command, deadline)

    async def exchange(self, commands, deadline):
        self.path.append("exchange")
        return [super(AioModel, self).ask(command, deadline) for command in commands]


@pytest.fixture(params=["sync", "aio"])
def world(request):
    """A model, and how to execute Calls on it."""
    if request.param == "sync":
        return Model, lambda model, *what: calls.execute(what, model, time.monotonic(), time.monotonic() + 5)

    def execute(model, *what):
        return asyncio.run(aiocalls.execute(what, model, time.monotonic(), time.monotonic() + 5))

    return AioModel, execute


STRAIGHT = ["take", "give"]


def test_a_plain_reply_goes_straight(world):
    make, execute = world
    model = make(b"value")
    assert execute(model, GET) == ["parsed b'value'"]
    assert (model.asked, model.path) == (["GET"], STRAIGHT)


def test_none_is_a_plain_reply_too(world):
    make, execute = world
    model = make(None)
    assert execute(model, GET) == ["parsed None"]
    assert model.path == STRAIGHT


def test_several_calls_do_not(world):
    make, execute = world
    model = make(b"1", b"2")
    assert execute(model, GET, GET) == ["parsed b'1'", "parsed b'2'"]
    assert model.path == ["take", "exchange", "give"]


def test_nor_does_any_call_while_the_clock_is_old_or_something_has_failed(world):
    make, execute = world
    model = make([1000, 0], b"value", b"value")
    model.server.clock.learned -= CLOCK_AGE + 1
    assert execute(model, GET) == ["parsed b'value'"]
    assert model.asked == ["TIME", "GET"]
    model.server.breaker.failures = 1
    assert execute(model, GET) == ["parsed b'value'"]
    assert model.path == ["take", "exchange", "give"] * 2
    assert model.server.breaker.failures == 0


def test_an_open_breaker_lets_nothing_through(world):
    make, execute = world
    model = make()
    for _ in range(3):
        model.server.failed("reset")
    with pytest.raises(StoreUnavailable, match="tried again within a second"):
        execute(model, GET)
    assert model.path == []


def test_what_was_lost_is_sent_once_more_on_a_new_connection(world):
    make, execute = world
    model = make(Lost("reset", sent=True), b"value")
    assert execute(model, GET) == ["parsed b'value'"]
    assert model.path == ["take", "drop", "drop free", "take", "exchange", "give"]
    model = make(Lost("reset", sent=True), Lost("reset", sent=True), b"value")
    with pytest.raises(StoreUnavailable):
        execute(model, GET)
    assert model.asked == ["GET", "GET"]


def test_but_not_what_must_not_run_twice_or_was_never_sent(world):
    make, execute = world
    for lost, call, error in [
        (True, ONCE, OutcomeUnknown),
        (False, ONCE, StoreUnavailable),
        (False, GET, StoreUnavailable),
    ]:
        model = make(Lost("reset", sent=lost))
        with pytest.raises(error):
            execute(model, call)
        assert (len(model.asked), model.path) == (1, ["take", "drop"])
        assert model.server.breaker.failures == 1


def test_the_breaker_may_open_between_the_first_attempt_and_its_judgement(world):
    make, execute = world
    model = make(Lost("reset", sent=True))
    model.drop = lambda link: [model.server.failed("others") for _ in range(3)]
    with pytest.raises(OutcomeUnknown):
        execute(model, ONCE)


def test_error_replies_are_judged_as_ever(world):
    make, execute = world
    model = make(replies.NoScriptError("no script"), 7)
    assert execute(model, ONCE) == [7]
    assert model.asked == ["EVALSHA", "EVAL"]
    model = make(replies.BusyLoadingError("loading"), NotYet(replies.BusyLoadingError("loading")), 7)
    assert execute(model, ONCE) == [7]
    model = make(replies.ResponseError("WRONGTYPE"))
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        execute(model, GET)
    assert model.path == STRAIGHT


def test_whatever_else_escapes_costs_the_connection(world):
    make, execute = world
    model = make(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        execute(model, GET)
    assert model.path == ["take", "drop"]


def test_a_server_that_evicts_refuses_guards_and_not_the_cache(world):
    make, execute = world
    model = make(b"value")
    model.server.evicts = True
    assert execute(model, GET) == ["parsed b'value'"]
    with pytest.raises(GuardEvicts):
        execute(model, ONCE)
    assert model.asked == ["GET"]
