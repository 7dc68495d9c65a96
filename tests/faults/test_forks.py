"""P1 and P3 over forks: a child never touches its parent's sockets, and both go on working."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

from tests.rig import Child, Rig, at_once, command, get, until
from workerkit.core.flow import Invoke, Share

CHILDREN = 4
CALLS = 200


def wrong_replies(rig, tag, calls=CALLS):
    """Write and read values that only this caller has; how often somebody else's came back."""
    wrong = 0
    for number in range(calls):
        key = f"{tag}:{number}"
        wrong += rig.runner.call(command("SET", key, key)) != b"OK"
        wrong += rig.runner.call(get(key)) != key.encode()
    return wrong


def client_ids(rig, links):
    """The server's names for the connections of this process, `links` of them taken at once."""
    taken = [rig.pool.take(time.monotonic() + 5) for _ in range(links)]
    ids = [int(link.exchange([("CLIENT", "ID")], time.monotonic() + 5)[0]) for link in taken]
    for link in taken:
        rig.pool.give(link)
    return ids


def test_children_and_parent_share_no_connection(fresh_server):
    rig = Rig(fresh_server.url)
    rig.warm(3)
    parents = set(client_ids(rig, 3))
    children = [Child(lambda: [wrong_replies(rig, os.getpid()), client_ids(rig, 3)]) for _ in range(CHILDREN)]
    wrong = wrong_replies(rig, "parent")
    answers = [child.answer() for child in children]
    ids = [each for _, its in answers for each in its]
    calls = 2 * CALLS * (CHILDREN + 1)
    print(f"{calls} calls in {CHILDREN} children and their parent, {wrong + sum(each for each, _ in answers)} wrong")
    assert wrong == 0
    assert [each for each, _ in answers] == [0] * CHILDREN
    assert len(set(ids)) == 3 * CHILDREN
    assert parents.isdisjoint(ids)
    assert set(client_ids(rig, 3)) == parents  # the end of the children shut nothing down
    assert (rig.pool.size, rig.pool.in_use) == (3, 0)


def test_a_fork_while_other_threads_are_in_calls(fresh_server):
    rig = Rig(fresh_server.url)
    rig.warm()
    over = threading.Event()
    wrong = []

    def call_on():
        while not over.is_set():
            wrong.append(wrong_replies(rig, threading.get_ident(), 10))
            rig.runner.run(shared(get_self(f"shared:{threading.get_ident()}")))

    def child():
        everything = [lambda tag=tag: wrong_replies(rig, f"{os.getpid()}:{tag}", 50) for tag in range(4)]
        return [*at_once(everything), rig.runner.run(shared(get_self("shared")))]

    threads = [threading.Thread(target=call_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: wrong)
    answers = [Child(child).answer() for _ in range(10)]
    over.set()
    for thread in threads:
        thread.join()
    print(f"10 forks under {len(wrong) * 20} calls: {sum(wrong)} wrong, {answers.count(None)} children hung")
    assert sum(wrong) == 0
    assert answers == [[0, 0, 0, 0, "shared"]] * 10


def get_self(key):
    def flow():
        yield from command("SET", key, key)
        return (yield from get(key)).decode()

    return flow


def shared(flow):
    return (yield from Share("the same in every process", flow))


def test_the_first_calls_of_several_threads_of_a_child_find_none_of_the_parents_connections(fresh_server):
    rig = Rig(fresh_server.url)
    rig.warm(8)
    parents = set(client_ids(rig, 8))

    def child():
        sys.setswitchinterval(1e-6)
        start = threading.Barrier(8)

        def first():
            start.wait()
            return client_ids(rig, 1)[0]

        ids = at_once([first] * 8)
        return [ids, rig.pool.in_use]

    for _ in range(20):
        ids, in_use = Child(child).answer()
        assert parents.isdisjoint(ids)
        assert in_use == 0
    assert set(client_ids(rig, 8)) == parents


def test_a_fork_within_a_flow(fresh_server):
    """A user's function that forks, and a child that goes on with the very same flow."""
    rig = Rig(fresh_server.url)

    def flow():
        yield from command("SET", "before", "1")
        child = yield from Invoke(lambda: Child(lambda: wrong_replies(rig, os.getpid(), 20)))
        after = yield from get("before")
        return child.answer(), after

    assert rig.runner.run(flow()) == (0, b"1")


def test_the_async_side_after_a_fork(fresh_server):
    rig = Rig(fresh_server.url)

    async def story():
        return (await rig.aio.call(command("CLIENT", "ID")), await rig.aio.call(get("nothing")))

    async def forking():
        mine, _ = await story()
        child = Child(lambda: asyncio.run(story()) if asyncio._set_running_loop(None) is None else None)
        theirs, nothing = await asyncio.to_thread(child.answer)
        again, _ = await story()
        return mine, theirs, again, nothing

    mine, theirs, again, nothing = asyncio.run(forking())
    assert mine == again != theirs
    assert nothing is None
