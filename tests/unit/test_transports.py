"""The HTTP transports without a server: options that will not do, one face for four libraries, nothing loaded early."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from workerkit import http
from workerkit.api.engine import Engine
from workerkit.api.limiter import Limiter
from workerkit.api.settings import load
from workerkit.core.events import Hooks
from workerkit.errors import DefinitionError

NAMES = ["RateLimitedTransport", "AioRateLimitedTransport", "RateLimitedAdapter", "rate_limited"]


@pytest.fixture(params=NAMES)
def transport(request: pytest.FixtureRequest) -> Any:
    return getattr(http, request.param)


@pytest.fixture
def limiter() -> Limiter:
    return Limiter(Engine(lambda: load({"redis_url": "redis://127.0.0.1:1"}), Hooks()), "api", "9/m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": 7}, "key=7 must be text, or a function"),
        ({"key": None}, "key=None must be text, or a function"),
        ({"cost": 3}, "cost=3 must be a function"),
        ({"settle": {"tokens": 3}}, "settle={'tokens': 3} must be a function"),
        ({"wait": -1}, "wait: -1 must be 0 or at least"),
        ({"wait": "soon"}, "wait: 'soon' is no duration"),
        ({"wait": float("nan")}, "wait: nan must be"),
    ],
)
def test_options_that_will_not_do(transport: Any, limiter: Limiter, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        transport(limiter, **options)
    assert str(refused.value).startswith(message)


def test_retries_that_nobody_would_count_cannot_be_asked_for(limiter: Limiter) -> None:
    with pytest.raises(TypeError, match="max_retries"):
        http.RateLimitedAdapter(limiter, max_retries=3)  # type: ignore[call-arg]  # that is what is tried
    assert http.RateLimitedAdapter(limiter).max_retries.total == 0


def test_all_have_the_same_options() -> None:
    def options(name: str) -> dict[str, Any]:
        parameters = inspect.signature(getattr(http, name)).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    first, *others = map(options, NAMES)
    assert list(first) == ["key", "wait", "cost", "settle", "learn"]
    assert all(first.items() <= other.items() for other in others)


def test_a_client_library_is_loaded_when_it_is_needed() -> None:
    script = "import sys, workerkit.http; print(*sorted({'httpx', 'requests', 'aiohttp', 'redis'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = http.nonsense
    assert set(NAMES) == set(http.__all__)
