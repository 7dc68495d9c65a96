"""The one stacking order of the decorators, and what a throttle needs of its task."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel

from workerkit import WorkerKit
from workerkit.errors import DefinitionError


class State(BaseModel):
    rows: int = 0


@pytest.fixture
def kit() -> WorkerKit:
    app = Celery("test", broker="memory://", set_as_current=False)
    return WorkerKit(app, url="redis://localhost:1", hooks=[])


def test_right_order_is_taken(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "1/s")

    @kit.task
    @kit.memoize("1m")
    @kit.throttle(limiter)
    @kit.job(State)
    def task(job: Any, a: int) -> int:
        return a

    assert task.memo.is_async is False
    assert task.name.endswith("task")


def test_wrong_order_prints_the_right_lines(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "1/s")

    def memoized(a: int) -> int:
        return a

    with pytest.raises(DefinitionError) as caught:
        kit.throttle(limiter)(kit.memoize("1m")(memoized))
    assert "@kit.task\n    @kit.memoize(...)\n    @kit.throttle(...)\n    def" in str(caught.value)
    with pytest.raises(DefinitionError, match=r"above @kit.task"):
        kit.memoize("1m")(kit.task(memoized))
    with pytest.raises(DefinitionError, match="twice"):
        kit.memoize("1m")(kit.memoize("1m")(memoized))


def test_throttled_task_gets_late_acknowledgement(kit: WorkerKit) -> None:
    limiter = kit.limiter("api", "1/s")
    assert kit._app is not None

    @kit._app.task
    @kit.throttle(limiter)
    def plain() -> None: ...

    @kit.task
    @kit.throttle(limiter)
    def mine() -> None: ...

    @kit._app.task
    def other() -> None: ...

    assert plain.acks_late is True
    assert plain.reject_on_worker_lost is True
    assert mine.acks_late is True
    assert str(plain.Request).endswith("TicketRequest")
    assert not other.acks_late
    assert not str(other.Request).endswith("TicketRequest")


def test_a_throttle_without_a_limiter_needs_the_same_of_its_task(kit: WorkerKit) -> None:
    @kit.task
    @kit.throttle()
    def calls_others() -> None: ...

    @kit.task
    @kit.memoize("1m")
    @kit.throttle(kit.limiter("api", "1/s"), priority=9, fairness_key="{a}", weight=lambda a: 2)
    @kit.job(State)
    def all_of_it(job: Any, a: int) -> int:
        return a

    for task in (calls_others, all_of_it):
        assert (task.acks_late, task.reject_on_worker_lost) == (True, True)
        assert str(task.Request).endswith("TicketRequest")


def test_a_throttle_stands_once_above_the_function_and_below_the_task(kit: WorkerKit) -> None:
    def fn(a: int) -> int:
        return a

    with pytest.raises(DefinitionError, match=r"@kit.throttle stands twice on .*fn"):
        kit.throttle()(kit.throttle(kit.limiter("api", "1/s"))(fn))
    with pytest.raises(DefinitionError, match=r"@kit.throttle stands above @kit.task"):
        kit.throttle()(kit.task(fn))
    with pytest.raises(DefinitionError, match=r"@kit.job stands above @kit.throttle"):
        kit.job(State)(kit.throttle()(fn))


@pytest.mark.parametrize("option", ["acks_late", "reject_on_worker_lost"])
def test_throttled_task_that_contradicts_is_refused_with_the_reason(kit: WorkerKit, option: str) -> None:
    limiter = kit.limiter("api", "1/s")

    def fn() -> None: ...

    with pytest.raises(DefinitionError, match=f"take {option}=False out"):
        kit.task(shared=False, **{option: False})(kit.throttle(limiter)(fn)).name  # type: ignore[call-overload]  # noqa: B018 - a lazy task is made when it is looked at
    with pytest.raises(DefinitionError, match="rate_limit='10/s'"):
        kit.task(shared=False, rate_limit="10/s")(kit.throttle(limiter)(fn)).name  # noqa: B018 - as above


def test_memo_of_a_task_that_has_none(kit: WorkerKit) -> None:
    @kit.task
    def plain() -> None: ...

    with pytest.raises(DefinitionError, match="is not memoized"):
        kit.memo(plain)
    with pytest.raises(AttributeError, match="is not memoized"):
        plain.memo  # type: ignore[attr-defined]  # noqa: B018 - the point


def test_task_needs_an_app() -> None:
    with pytest.raises(DefinitionError, match=r"WorkerKit\(app\)"):
        WorkerKit(url="redis://localhost:1").task(lambda: None)


def test_arguments_are_still_checked_when_sending(kit: WorkerKit) -> None:
    @kit.task
    @kit.memoize("1m")
    @kit.throttle(kit.limiter("api", "1/s"))
    @kit.job(State)
    def task(job: Any, a: int, *, b: int = 0) -> int:
        return a + b

    with pytest.raises(TypeError, match="missing"):
        task.delay()  # type: ignore[call-arg]  # the point
    with pytest.raises(TypeError, match="unexpected"):
        task.delay(1, c=2)  # type: ignore[call-arg]  # the point


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": "0.1s"}, "too often"),
        ({"every": "soon"}, "every"),
        ({"args": [(1, 2, 3)]}, "do not fit"),
    ],
)
def test_warmup_that_cannot_work(kit: WorkerKit, options: dict[str, Any], words: str) -> None:
    @kit.memoize("1m")
    def fn(a: int) -> int:
        return a

    with pytest.raises(DefinitionError, match=words):
        kit.warmup(fn, **{"every": "1m", "args": [1], **options})


def test_two_warmups_of_one_name_and_a_function_without_memo(kit: WorkerKit) -> None:
    @kit.memoize("1m")
    def fn(a: int) -> int:
        return a

    kit.warmup(fn, every="1m", args=[1])
    with pytest.raises(DefinitionError, match="another name="):
        kit.warmup(fn, every="1m", args=[1])
    with pytest.raises(DefinitionError, match="not memoized"):
        kit.warmup(len, every="1m", args=[1])  # type: ignore[arg-type]  # the point
