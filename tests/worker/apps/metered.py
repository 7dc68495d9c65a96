"""Throttled tasks that cost units, count until they have ended, and hold slots inside their own."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from setup import app, kit, note

llm = kit.limiter("llm", "100 requests/s", "1000 tokens/s", margin="20ms")
answered = kit.limiter("answered", "6/s", count="response", lease="2s")
single = kit.limiter("single", concurrency=1)
pair = kit.limiter("pair", concurrency=2)


@kit.task(max_retries=0)
@kit.throttle(llm, key="{model}", tokens=250)
def complete(model: str, n: int) -> int:
    note(model, n)
    return n


@kit.task(max_retries=0)
@kit.throttle(answered)
def slow(n: int) -> int:
    note("began", n)
    time.sleep(0.3)
    note("ended", n)
    return n


@kit.task(max_retries=0)
@kit.throttle(answered)
def dies_unanswered(n: int) -> int:
    if kit.cache.get(f"died{n}") is None:
        kit.cache.set(f"died{n}", True, ttl=60)
        note("died", n)
        os.kill(os.getpid(), signal.SIGKILL)
    note("lived", n)
    return n


@kit.task(max_retries=0)
@kit.throttle(single)
def nested(n: int) -> list[int]:
    """A throttled task that takes slots of its own limiter: its place is one."""
    with single.slot(), single.slot():
        inside = single.usage().holders
    return [n, inside, single.usage().holders]


@kit.task(max_retries=0)
@kit.throttle(single)
async def nested_coroutine(n: int) -> list[int]:
    async with single.aio.slot():
        inside = (await single.aio.usage()).holders
    return [n, inside, (await single.aio.usage()).holders]


@app.task
def beside(n: int) -> list[Any]:
    """Not throttled: the second slot is the same task's."""
    with pair.slot("k", wait="30s") as outer, pair.slot("k") as inner:
        note("enter", n)
        time.sleep(0.02)
        note("leave", n)
        return [outer.leased, inner.leased]
