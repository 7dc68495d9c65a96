from __future__ import annotations

import pytest

from workerkit.core.call import Call, as_is
from workerkit.core.lua import Script

LATE = Script("tests.faults.lua", "charge")
CLOCK = Script("workerkit.core.scripts", "now")


def call(script=None, **settings):
    return Call("name", "cache", as_is, script=script, keys=("a", "b"), args=("x", 7), **settings)


def test_a_plain_command_is_sent_as_it_is():
    assert Call("get", "cache", as_is, args=("GET", "key")).words(123) == ("GET", "key")


def test_a_script_goes_by_digest_and_whole_when_the_server_has_forgotten_it():
    assert call(CLOCK).words(123) == ("EVALSHA", CLOCK.sha, 2, "a", "b", "x", 7)
    assert call(CLOCK).words(123, whole=True) == ("EVAL", CLOCK.source, 2, "a", "b", "x", 7)


def test_a_script_that_must_not_run_late_gets_the_deadline_as_its_first_argument():
    assert call(LATE).words(123) == ("EVALSHA", LATE.sha, 2, "a", "b", 123, "x", 7)


def test_once_is_the_callers_word_for_commands_and_the_scripts_own_for_scripts():
    assert not call().once
    assert call(once=True).once
    assert call(LATE).once
    assert not call(CLOCK, once=True).once


def test_yielding_from_a_call_sends_itself_and_returns_what_comes_back():
    def flow():
        return (yield from it)

    it = call()
    running = flow()
    assert next(running) is it
    with pytest.raises(StopIteration) as done:
        running.send("value")
    assert done.value.value == "value"


def test_arguments_are_never_shown():
    shown = repr(Call("set", "cache", as_is, keys=("wk:c:{x:y}:v",), args=("SET", "secret")))
    assert shown == "<Call set wk:c:{x:y}:v>"
