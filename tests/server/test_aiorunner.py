"""The async runner on a real server; what both runners share is shown for the sync one."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from tests.rig import Rig, aio_outcome, aio_until, charge, command, get
from workerkit.core.flow import Batch, Invoke, Share, Sleep
from workerkit.errors import StoreRefused
from workerkit.io.aiorunner import AioRunner
from workerkit.io.runner import Runner

CALLERS = 30


@pytest.fixture
def rig(redis_url):
    return Rig(redis_url, timeout=5.0)


def step(it):
    return (yield from it)


def test_both_runners_have_the_same_verbs():
    for verb in ("call", "run", "close"):
        ours, theirs = (inspect.signature(getattr(side, verb)) for side in (Runner, AioRunner))
        assert ours == theirs


def test_a_flow_of_every_kind_of_step(rig):
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    def flow():
        yield from command("SET", "a", "1")
        values = yield from Batch(get("a"), get("b"), charge("count"))
        nothing = yield from Batch()
        awaited = yield from Invoke(double, (4,))
        plain = yield from Invoke(len, ("abc",))
        yield from Sleep(0.0)
        shared = yield from Share("key", lambda: step(get("a")))
        return values, nothing, awaited, plain, shared

    assert asyncio.run(rig.aio.run(flow())) == ([b"1", None, 1], [], 8, 3, b"1")


def test_errors_are_thrown_into_the_flow_which_may_go_on(rig):
    def flow():
        yield from command("SET", "text", "x")
        try:
            yield from command("INCR", "text")
        except StoreRefused as error:
            return error.call, (yield from get("text"))

    assert asyncio.run(rig.aio.run(flow())) == ("incr", b"x")


def raising_stop():
    raise StopIteration("the user's own")


async def raising_async_stop():
    raise StopAsyncIteration("the user's own")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fn", [raising_stop, raising_async_stop])
def test_a_stop_of_the_users_function_is_not_taken_for_the_flows(rig, fn, shared):
    def flow():
        try:
            return (yield from Invoke(fn))
        finally:
            yield from command("SET", "cleaned", "yes")

    async def story():
        try:
            await rig.aio.run(step(Share("key", flow)) if shared else flow())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the outcome
            return error

    error = asyncio.run(story())
    # A coroutine cannot raise a StopIteration: Python itself makes a RuntimeError of it.
    assert "the user's own" in str(error) or "the user's own" in str(error.__cause__)
    assert rig.runner.call(get("cleaned")) == b"yes"


class Computation:
    def __init__(self, result="result"):
        self.result = result
        self.runs = 0
        self.running = asyncio.Event()
        self.go = asyncio.Event()

    async def compute(self):
        self.runs += 1
        self.running.set()
        await self.go.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def share(self):
        return step(Share("key", lambda: step(Invoke(self.compute))))


async def joined(rig, computation, callers=CALLERS):
    """Tasks that all wait for the one computation."""
    tasks = [asyncio.create_task(aio_outcome(rig.aio.run(computation.share()))) for _ in range(callers)]
    await computation.running.wait()
    await asyncio.sleep(0)
    return tasks


def test_one_computation_for_all(rig):
    async def story():
        computation = Computation()
        tasks = await joined(rig, computation)
        computation.go.set()
        assert await asyncio.gather(*tasks) == ["result"] * CALLERS
        assert computation.runs == 1
        assert rig.aio._here().shared == {}

    asyncio.run(story())


def test_one_failure_for_all(rig):
    async def story():
        computation = Computation(ValueError("computed wrongly"))
        tasks = await joined(rig, computation)
        computation.go.set()
        assert await asyncio.gather(*tasks) == [computation.result] * CALLERS
        assert computation.runs == 1

    asyncio.run(story())


@pytest.mark.parametrize("who", [0, 5])
def test_one_caller_cancelled_leaves_the_others_whole(rig, who):
    """Number 0 is the one that began the computation."""

    async def story():
        computation = Computation()
        tasks = await joined(rig, computation)
        tasks[who].cancel()
        await asyncio.wait([tasks[who]])
        computation.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers.pop(who), asyncio.CancelledError)
        assert answers == ["result"] * (CALLERS - 1)
        assert computation.runs == 1

    asyncio.run(story())


class Retry(Exception):
    """An error that concerns only the task it is raised in, as Celery's Retry does."""


def test_an_error_of_the_leader_alone_is_raised_to_it_and_the_others_go_round(rig):
    rig.aio.personal = (Retry,)

    async def story():
        computation = Computation(Retry())
        tasks = await joined(rig, computation)
        computation.go.set()
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 10)
        # Each in its turn leads, and is told.
        assert [type(answer) for answer in answers] == [Retry] * CALLERS
        assert computation.runs == CALLERS

    asyncio.run(story())


def test_a_caller_that_comes_just_as_a_computation_ends_begins_a_new_one(rig):
    """Between a task's end and its callbacks: joining it then would spin for ever on a personal error."""
    rig.aio.personal = (Retry,)

    async def story():
        here = rig.aio._here()
        ended = asyncio.get_running_loop().create_future()
        ended.set_exception(Retry())
        here.shared["key"] = ended
        computation = Computation()
        computation.go.set()
        return await rig.aio.run(computation.share())

    answers = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(story())), daemon=True)
    thread.start()
    thread.join(10)
    assert answers == ["result"]


def test_a_computation_that_asks_for_itself_does_not_wait_for_itself(rig):
    depth = []

    async def again():
        depth.append(1)
        if len(depth) < 4:
            task = asyncio.create_task(rig.aio.run(share()))  # not even by way of another task
            return await task
        return "bottom"

    def share():
        return step(Share("key", lambda: step(Invoke(again))))

    async def story():
        return await asyncio.wait_for(rig.aio.run(share()), 10)

    assert asyncio.run(story()) == "bottom"


def test_cleanup_outlives_a_cancellation(rig):
    async def story():
        begun = asyncio.Event()

        async def forever():
            begun.set()
            await asyncio.sleep(3600)

        def flow():
            try:
                yield from Invoke(forever)
            finally:
                yield from Sleep(0.01)
                yield from command("SET", "cleaned", "yes")

        task = asyncio.create_task(rig.aio.run(flow()))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        await aio_until(lambda: not rig.aio._here().cleanups)

    asyncio.run(story())
    assert rig.runner.call(get("cleaned")) == b"yes"


def test_close_waits_for_cleanups(rig):
    async def story():
        begun = asyncio.Event()

        async def forever():
            begun.set()
            await asyncio.sleep(3600)

        def flow():
            try:
                yield from Invoke(forever)
            finally:
                yield from command("SET", "cleaned", "yes")

        task = asyncio.create_task(rig.aio.run(flow()))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await rig.aio.close()
        assert rig.aio.pools["cache"].size == 0

    asyncio.run(story())
    assert rig.runner.call(get("cleaned")) == b"yes"


def test_coroutines_do_not_mix_up_their_replies(rig):
    async def calls(caller):
        wrong = 0
        for number in range(30):
            key = f"{caller}:{number}"
            wrong += await rig.aio.run(step(Batch(command("SET", key, key), get(key)))) != [b"OK", key.encode()]
        return wrong

    async def story():
        return await asyncio.gather(*map(calls, range(20)))

    assert asyncio.run(story()) == [0] * 20


def test_every_loop_has_connections_of_its_own(rig):
    async def story():
        return [await rig.aio.call(command("CLIENT", "ID")) for _ in range(3)]

    ids = []
    threads = [threading.Thread(target=lambda: ids.append(asyncio.run(story()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(set(each)) for each in ids] == [1] * 4
    assert len({each[0] for each in ids}) == 4
