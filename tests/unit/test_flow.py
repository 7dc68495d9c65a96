"""Flows without a server: what a policy yields can be answered from a model."""

from __future__ import annotations

import pytest

from workerkit.core.call import Call, as_is
from workerkit.core.flow import Batch, Invoke, Share, Sleep

GET = Call("get", "cache", as_is, args=("GET", "key"))


def answered(flow, *answers):
    """Drive `flow` with these answers; an error among them is thrown in. The steps it yielded, and its result."""
    steps = []
    try:
        steps.append(next(flow))
        for answer in answers:
            step = flow.throw(answer) if isinstance(answer, BaseException) else flow.send(answer)
            steps.append(step)
    except StopIteration as done:
        return steps, done.value
    return steps, None


@pytest.mark.parametrize("step", [GET, Batch(GET, GET), Invoke(len, ("abc",)), Share("key", lambda: iter(()))])
def test_every_step_answers_what_the_runner_sends(step):
    def flow():
        return (yield from step)

    assert answered(flow(), "answer") == ([step], "answer")


def test_a_sleep_answers_nothing():
    def flow():
        return (yield from Sleep(1.0))

    steps, value = answered(flow(), "ignored")
    assert steps[0].seconds == 1.0
    assert value is None


def test_an_error_of_a_step_can_be_handled_where_it_was_yielded():
    def flow():
        try:
            yield from GET
        except KeyError:
            return (yield from Batch())

    steps, value = answered(flow(), KeyError(), [])
    assert [type(step) for step in steps] == [Call, Batch]
    assert value == []


def test_cleanup_may_yield_steps():
    def flow():
        try:
            yield from Invoke(len)
        finally:
            yield from GET

    running = flow()
    next(running)
    assert running.throw(KeyboardInterrupt) is GET
    with pytest.raises(KeyboardInterrupt):
        running.send(None)


def test_invoke_takes_arguments():
    step = Invoke(print, (1, 2), {"end": ""})
    assert (step.args, step.kwargs) == ((1, 2), {"end": ""})
    assert Invoke(print).kwargs == {}
