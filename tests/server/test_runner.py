"""The sync runner on a real server: calls, batches, flows, shared computations."""

from __future__ import annotations

import asyncio
import threading
import warnings

import pytest

from tests.rig import CHARGE, Rig, at_once, charge, command, get, outcome, until
from workerkit.core.call import Call
from workerkit.core.flow import Batch, Invoke, Share, Sleep
from workerkit.errors import StoreRefused

CALLERS = 30


@pytest.fixture
def rig(redis_url):
    return Rig(redis_url, timeout=5.0)


def step(it):
    return (yield from it)


def test_calls_are_parsed(rig):
    assert rig.runner.call(command("SET", "key", "5")) == b"OK"
    assert rig.runner.call(Call("get", "cache", int, args=("GET", "key"))) == 5
    assert rig.runner.call(get("nothing")) is None


def test_every_kind_of_word_arrives(rig):
    for word, arrived in [
        ("ä\n", "ä\n".encode()),
        (b"\0\xff", b"\0\xff"),
        (-7, b"-7"),
        (2**63, b"9223372036854775808"),
    ]:
        rig.runner.call(command("SET", "key", word))
        assert rig.runner.call(get("key")) == arrived
    big = bytes(range(256)) * 40_000
    rig.runner.call(command("SET", "key", big))
    assert rig.runner.call(get("key")) == big


def test_a_word_that_cannot_be_sent_costs_no_reply_of_another(rig):
    for word in (None, object(), []):
        assert isinstance(
            outcome(lambda word=word: rig.runner.call(command("SET", "key", word))), (TypeError, ValueError)
        )
    assert rig.runner.call(command("ECHO", "mine")) == b"mine"
    assert rig.pool.in_use == 0


def test_a_parser_that_fails_costs_nothing_either(rig):
    rig.runner.call(command("SET", "key", "text"))
    assert isinstance(outcome(lambda: rig.runner.call(Call("get", "cache", int, args=("GET", "key")))), ValueError)
    assert (rig.pool.size, rig.pool.in_use) == (1, 0)
    assert rig.events == []


def test_a_batch_answers_in_order_and_an_empty_one_nothing(rig):
    def flow():
        nothing = yield from Batch()
        values = yield from Batch(command("SET", "a", "1"), get("a"), charge("count"), get("b"))
        return nothing, values

    assert rig.runner.run(flow()) == ([], [b"OK", b"1", 1, None])


def test_the_first_error_of_a_batch_is_raised_after_all_were_read(rig):
    bad = Batch(command("SET", "text", "x"), command("INCR", "text"), command("LPUSH", "text", "x"), get("text"))
    error = outcome(lambda: rig.runner.run(step(bad)))
    assert isinstance(error, StoreRefused)
    assert error.call == "incr"
    assert rig.runner.call(command("ECHO", "mine")) == b"mine"


def test_errors_are_thrown_into_the_flow_which_may_go_on(rig):
    def flow():
        yield from command("SET", "text", "x")
        try:
            yield from command("INCR", "text")
        except StoreRefused as error:
            yield from Sleep(0.0)
            return error.call, (yield from get("text"))

    assert rig.runner.run(flow()) == ("incr", b"x")


def test_an_invoked_functions_error_passes_through_the_cleanup(rig):
    def flow():
        try:
            yield from Invoke(lambda: 1 // 0)
        finally:
            yield from command("SET", "cleaned", "yes")

    assert isinstance(outcome(lambda: rig.runner.run(flow())), ZeroDivisionError)
    assert rig.runner.call(get("cleaned")) == b"yes"


def raising_stop():
    raise StopIteration("the user's own")


@pytest.mark.parametrize("shared", [False, True])
def test_a_stop_iteration_of_the_users_function_stays_one(rig, shared):
    def flow():
        return (yield from Invoke(raising_stop))

    error = None
    try:
        rig.runner.run(step(Share("key", flow)) if shared else flow())
    except BaseException as caught:  # noqa: BLE001 - whatever it is, it is the outcome
        error = caught
    assert isinstance(error, StopIteration)
    assert error.value == "the user's own"


class Computation:
    """A flow that many share: counts its runs, and waits in the middle until the test lets it go."""

    def __init__(self, result):
        self.result = result
        self.runs = 0
        self.running = threading.Event()
        self.go = threading.Event()

    def flow(self):
        self.runs += 1
        yield from Invoke(self._compute)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def _compute(self):
        self.running.set()
        self.go.wait(10)

    def share(self):
        return step(Share("key", self.flow))


def waiting(rig):
    return sum(len(shared._latches) for shared in rig.runner._shared.values())


def shared_by_all(rig, computation, callers=CALLERS):
    """One leads, the others join, then it may end; what all of them got."""
    answers = []
    thread = threading.Thread(
        target=lambda: answers.extend(at_once([lambda: rig.runner.run(computation.share())] * callers))
    )
    thread.start()
    computation.running.wait(10)
    until(lambda: waiting(rig) == callers - 1)
    computation.go.set()
    thread.join(10)
    return answers


def test_one_computation_for_all(rig):
    computation = Computation("result")
    assert shared_by_all(rig, computation) == ["result"] * CALLERS
    assert computation.runs == 1
    assert rig.runner._shared == {}
    assert rig.runner.run(computation.share()) == "result"
    assert computation.runs == 2


def test_one_failure_for_all(rig):
    error = ValueError("computed wrongly")
    computation = Computation(error)
    assert shared_by_all(rig, computation) == [error] * CALLERS
    assert computation.runs == 1
    assert rig.runner._shared == {}


def test_when_the_leader_alone_is_concerned_the_others_go_round(rig):
    class Limit(Exception):
        pass

    rig.runner.personal = (Limit,)
    computation = Computation("result")

    def compute():
        computation.running.set()
        computation.go.wait(10)
        if computation.runs == 1:
            raise Limit
        until(lambda: waiting(rig) == CALLERS - 2)

    computation._compute = compute
    answers = shared_by_all(rig, computation)
    assert sorted(map(str, answers)) == [""] + ["result"] * (CALLERS - 1)
    assert computation.runs == 2


def test_different_keys_do_not_wait_for_each_other(rig):
    computation = Computation("slow")
    thread = threading.Thread(target=lambda: rig.runner.run(computation.share()))
    thread.start()
    computation.running.wait(10)
    assert rig.runner.run(step(Share("other", lambda: step(Invoke(lambda: "fast"))))) == "fast"
    computation.go.set()
    thread.join(10)


def test_a_computation_that_asks_for_itself_does_not_wait_for_itself(rig):
    depth = []

    def flow():
        depth.append(1)
        if len(depth) < 4:
            return (yield from Invoke(lambda: rig.runner.run(step(Share("key", flow)))))
        return "bottom"

    answers = []
    thread = threading.Thread(target=lambda: answers.append(rig.runner.run(step(Share("key", flow)))), daemon=True)
    thread.start()
    thread.join(10)
    assert answers == ["bottom"]


def test_a_sync_call_in_a_running_loop_works_and_warns_once(rig):
    async def story():
        return [rig.runner.call(command("ECHO", "x")) for _ in range(3)]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert rig.runner.call(command("ECHO", "x")) == b"x"
        assert caught == []
        assert asyncio.run(story()) == [b"x"] * 3
    assert [(each.category, ".aio" in str(each.message)) for each in caught] == [(RuntimeWarning, True)]


def test_threads_do_not_mix_up_their_replies(rig):
    def calls():
        wrong = 0
        for number in range(100):
            key = f"{threading.get_ident()}:{number}"
            wrong += rig.runner.run(step(Batch(command("SET", key, key), get(key)))) != [b"OK", key.encode()]
        return wrong

    assert at_once([calls] * 10) == [0] * 10


def test_a_timeout_of_ones_own(rig):
    began = rig.runner.call(command("TIME"))
    outcome(lambda: rig.runner.call(command("BLPOP", "nothing", 0, once=True), timeout=0.05))
    ended = rig.runner.call(command("TIME"))
    took = (int(ended[0]) - int(began[0])) + (int(ended[1]) - int(began[1])) / 1e6
    assert 0.04 < took < 4.0


def test_the_same_script_serves_every_kind_of_server(other_server):
    rig = Rig(other_server.url)
    assert [rig.runner.call(charge("count")) for _ in range(3)] == [1, 2, 3]
    assert other_server.cli("SCRIPT", "EXISTS", CHARGE.sha) == [1]
    assert 0 < other_server.cli("PTTL", "count") <= 600_000
