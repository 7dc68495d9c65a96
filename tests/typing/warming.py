"""The same for warmups."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, assert_type

from celery import Celery

from workerkit import WorkerKit
from workerkit.api.warmup import WarmStatus, Warmup
from workerkit.warming.plan import Arguments, Pick, Plan, Skip
from workerkit.warming.run import Outcome

kit = WorkerKit(Celery("shop"))
api = kit.limiter("api", "10/s")


@kit.task
@kit.memoize("10m")
@kit.throttle(api)
def rate(base: str, other: str) -> float:
    return float(len(base + other))


@kit.memoize("10m")
async def profile(user_id: int) -> str:
    return str(user_id)


def not_memoized(user_id: int) -> str:
    return str(user_id)


def pairs() -> Iterator[tuple[str, str]]:
    yield "EUR", "USD"


def check_declarations() -> None:
    assert_type(kit.warmup(rate, every="5m", args=[("EUR", "USD")], budget="20%"), Warmup)
    assert_type(kit.warmup(rate, cron="0 6 * * *", args=pairs, jitter="30s", on_start=True, queue="low"), Warmup)
    assert_type(kit.warmup(profile, every=timedelta(minutes=1), hot=500, before=120, missed="all", grace="1h"), Warmup)
    assert_type(kit.warmups["rate"], Warmup)
    assert_type("rate" in kit.warmups, bool)
    assert_type([each.name for each in kit.warmups], list[str])


def check_verbs(warmup: Warmup) -> None:
    assert_type(warmup.run(), Outcome | None)
    assert_type(warmup.run_due(), Outcome | None)
    assert_type(warmup.send(), bool)
    assert_type(warmup.send_due(), bool)
    assert_type(warmup.pause(), bool)
    assert_type(warmup.resume(), bool)
    assert_type(warmup.history(3), list[dict[str, Any]])
    assert_type(warmup.on_start, bool)
    assert_type(warmup.period, float)


def check_status(status: WarmStatus) -> None:
    assert_type(status.next, float)
    assert_type(status.running, float | None)
    assert_type(status.last, Outcome | None)
    assert_type(status.reason, str)


def check_plan(warmup: Warmup) -> None:
    assert_type(warmup.status(), WarmStatus)
    plan = warmup.plan()
    assert_type(plan, Plan)
    assert_type(plan.picks, list[Pick])
    assert_type(plan.skips, list[Skip])
    assert_type(plan.seconds, float)
    assert_type(plan.picks[0].arguments, Arguments)
    assert_type(plan.skips[0].reason, str)


def check_refusals() -> None:
    """Each line must be an error, as in the examples."""
    kit.warmup(not_memoized, every="5m", hot=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not memoized
    kit.warmup(rate, every="5m", hot="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # hot is an int
    kit.warmup(rate, every="5m", args=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no calls
    kit.warmup(rate, every="5m", missed="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such
    kit.warmup(rate, every="5m", budget=0.2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # text
