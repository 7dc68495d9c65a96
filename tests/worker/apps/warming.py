"""Warmups of all kinds; what a run does is noted in files, with the moment at which it did it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

from setup import DIRECTORY, app, kit, note


@kit.task
@kit.memoize("3s")
def steady(item: str) -> str:
    note("steady", item)
    return item


@kit.memoize("1m")
def slow(item: str) -> str:
    note("slow", "begins")
    time.sleep(2.5)
    note("slow", "ends")
    return item


@kit.memoize("1m")
def ticking(policy: str) -> str:
    note(policy, "")
    return policy


@kit.memoize("1m")
async def prompt(item: str) -> str:
    note("prompt", item)
    return item


@kit.memoize("1m")
@kit.throttle(kit.limiter("api", "4/2s"))
def limited(item: int) -> int:
    note("limited", item)
    return item


shared = kit.limiter("shared", "20/s")


@kit.task
@kit.throttle(shared)
def called(n: int) -> None:
    note("called", n)


@kit.memoize("1m")
@kit.throttle(shared)
def warmed(item: int) -> int:
    note("warmed", item)
    return item


def deadly() -> Iterable[str]:
    """What a run plans, after its claim and before its work: the first one dies of it."""
    fatal = DIRECTORY / "fatal"
    if fatal.exists():
        whose = fatal.read_text()
        fatal.unlink()
        note("died", whose)
        if whose == "worker":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return ["deadly"]


assert app  # what `celery -A warming` looks for
declared = os.environ.get("TEST_WARMUPS", "").split()
if "steady" in declared:
    # Fresh for no longer than `before`, so that each tick computes each of them.
    kit.warmup(steady, every="1s", args=["a", "b", "c"], before="3s")
if "slow" in declared:
    kit.warmup(slow, every="1s", args=["x"], before="1m")
for policy in ("once", "all", "skip"):
    if policy in declared:
        kit.warmup(ticking, every="1s", args=[policy], before="1m", missed=policy, name=policy)
if "deadly" in declared:
    kit.warmup(ticking, every="4s", args=deadly, before="1m", missed="all", name="deadly")
if "start" in declared:
    kit.warmup(prompt, cron="0 0 1 1 *", args=["x"], on_start=True, queue="warm", name="start")
if "warmed" in declared:
    kit.warmup(warmed, every="1s", args=range(100), before="10s", budget="50%")
if "limited" in declared:
    kit.warmup(limited, every="1h", args=range(10), queue="warm")
