"""redis-py's own clients on a kit's server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import traceback
from typing import TYPE_CHECKING

import pytest

from workerkit import WorkerKit

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interrupted(Exception):
    """What the signal's handler raises, as billiard's raises its soft time limit."""


@pytest.fixture
def armed() -> Iterator[list[bool]]:
    """A second thread sends SIGUSR1 all the time; its handler raises once for each time the list is filled."""
    armed: list[bool] = []
    stop = threading.Event()

    def handler(signum: int, frame: object) -> None:
        if armed:
            armed.clear()
            # Where it was raised: a wrong reply needs an unlucky moment, being inside of a command does not.
            raise Interrupted(any("read_response" in each.f_code.co_name for each, _ in traceback.walk_stack(None)))

    def send() -> None:
        while not stop.wait(0.0002):
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=send)
    thread.start()
    yield armed
    stop.set()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


def test_a_soft_limit_never_leaves_a_reply_behind(redis_url: str, armed: list[bool]) -> None:
    client = WorkerKit(url=redis_url, hooks=[]).client()
    answers: list[tuple[bytes, bytes]] = []
    inside: list[bool] = []
    for turn in range(3000):
        word = b"%d" % turn
        try:
            armed.append(True)
            answers.append((word, client.echo(word)))
            with client.pipeline(transaction=False) as pipeline:
                answers.extend(zip([b"a", b"b"], pipeline.echo("a").echo("b").execute(), strict=True))
        except Interrupted as interrupted:
            inside.append(interrupted.args[0])
    armed.clear()
    print(f"{len(answers)} replies, {len(inside)} interrupts")
    assert len(inside) > 100
    assert not any(inside)
    assert answers
    assert [pair for pair in answers if pair[0] != pair[1]] == []
    client.close()


def test_coroutines(redis_url: str) -> None:
    async def main() -> None:
        async with WorkerKit(url=redis_url, hooks=[]) as kit:
            client = kit.aio.client()
            try:
                assert await client.set("k", "v", ex=60)
                assert await client.get("k") == b"v"
            finally:
                await client.aclose()

    asyncio.run(main())
