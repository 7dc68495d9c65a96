"""What `kit.memoize` refuses, at the definition, and what it says to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from workerkit import L1, WorkerKit
from workerkit.errors import DefinitionError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl": 0}, "memoize: ttl"),
        ({"ttl": -1}, "memoize: ttl"),
        ({"ttl": float("nan")}, "memoize: ttl"),
        ({"ttl": "10 parsecs"}, "memoize: ttl"),
        ({"ttl": None}, 'such as ttl="10m"'),
        ({"stale": 0}, "memoize: stale"),
        ({"stale_if_error": "-1s"}, "memoize: stale_if_error"),
        ({"key": "{y}"}, "no argument 'y'; there are: x"),
        ({"key": "{x}", "ignore": ("x",)}, "leave ignore= out"),
        ({"ignore": "x"}, 'write ignore=("x",)'),
        ({"ignore": ("y",)}, "y"),
        ({"tags": "user:{x}"}, "write tags=['user:{x}']"),
        ({"tags": len}, "tags is a list"),
        ({"tags": ["user:{y}"]}, "memoize: tags: there is no argument 'y'"),
        ({"tags": ["user:{x!r}"]}, "write a callable"),
        ({"negative": [ValueError]}, "negative={NotFound: '30s'}"),
        ({"negative": {"ValueError": 1}}, "exception classes"),
        ({"negative": {KeyboardInterrupt: 1}}, "exception classes"),
        ({"negative": {ValueError: 0}}, "memoize: negative[ValueError]"),
        ({"l1": 100}, "L1(size=..., ttl=...)"),
        ({"refresh": "later"}, "'inline' or 'queue'"),
        ({"refresh": "queue"}, "say for how long with stale="),
        ({"refresh": "queue", "stale": "1h"}, "kit = WorkerKit(app)"),
        ({"wait": 0}, "memoize: wait"),
        ({"lease": "0s"}, "memoize: lease"),
        ({"early": -1}, "memoize: early is a number of at least 0"),
        ({"early": float("inf")}, "memoize: early"),
        ({"early": True}, "memoize: early"),
        ({"jitter": 1}, "memoize: jitter is a number from 0 up to, but not, 1"),
        ({"jitter": "10%"}, "memoize: jitter"),
        ({"codec": "xml"}, "kombu has no serializer 'xml'"),
        ({"max_bytes": 0}, "max_bytes is a number of bytes"),
        ({"max_bytes": 1.5}, "max_bytes is a number of bytes"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_where_it_is_written(options: dict[str, Any], says: str) -> None:
    kit = WorkerKit(url="redis://localhost:1", hooks=[])

    def fn(x: int) -> int:
        return x

    with pytest.raises(DefinitionError) as raised:
        kit.memoize(**{"ttl": "1m", **options})(fn)
    assert says in str(raised.value)


@pytest.mark.parametrize("l1", [L1, lambda: L1(size=0), lambda: L1(ttl=-1)][1:])
def test_a_wrong_l1_is_refused(l1: Any) -> None:
    with pytest.raises(DefinitionError, match="L1: "):
        l1()


def test_a_result_that_may_not_be_kept_is_no_option() -> None:
    kit = WorkerKit(url="redis://localhost:1", hooks=[])

    @kit.memoize(lambda value: None if value else "1m")
    def fn(x: int) -> int:
        return x

    life = fn.memo.function.options.life(0.0)
    assert (life(1), life(0)) == (None, 60.0)


def test_jitter_only_shortens() -> None:
    kit = WorkerKit(url="redis://localhost:1", hooks=[])

    @kit.memoize("100s", jitter=0.1)
    def fn(x: int) -> int:
        return x

    lives = {fn.memo.function.options.life(0.1)(1) for _ in range(200)}
    assert all(life is not None and 90.0 < life <= 100.0 for life in lives)
    assert len(lives) > 100


def test_a_queued_refresh_needs_an_app() -> None:
    kit = WorkerKit(Celery("shop", broker="memory://"), url="redis://localhost:1")
    fn = kit.memoize("1m", stale="1h", refresh="queue")(lambda: 1)
    assert fn.memo.function.options.refresh == "queue"


def test_settings_say_what_options_leave_out() -> None:
    kit = WorkerKit(url="redis://localhost:1", hooks=[], early=0, jitter=0.5, codec="msgpack", lease="2s", wait="3s")

    @kit.memoize("10s")
    def fn(x: int) -> int:
        return x

    @kit.memoize("10s", early=2, codec="json", wait="1s", lease="4s", max_bytes=10)
    def other(x: int) -> int:
        return x

    policy, mine = fn.memo.fetcher.policy, other.memo.fetcher.policy
    assert (policy.windows.early, policy.wait, policy.codec.id) == (0, 3.0, 2)
    assert (mine.windows.early, mine.wait, mine.codec.id) == (2, 1.0, 1)
    assert (policy.entries._lease_ms, mine.entries._lease_ms, mine.entries._max_bytes) == (2000, 4000, 10)


@pytest.mark.parametrize(("name", "value"), [("early", -1), ("jitter", 1), ("early", "inf")])
def test_a_wrong_setting_is_refused(name: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=f"workerkit_{name}"):
        _ = WorkerKit(url="redis://localhost:1", **{name: value}).settings
