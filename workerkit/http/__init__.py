"""Transports that keep an HTTP client within a limiter: for httpx (sync, async), requests and aiohttp.

Each name loads the client library it is for, when it is first used; `pip install workerkit[http]` has all three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workerkit.http.aiohttp import rate_limited as rate_limited
    from workerkit.http.httpx import AioRateLimitedTransport as AioRateLimitedTransport
    from workerkit.http.httpx import RateLimitedTransport as RateLimitedTransport
    from workerkit.http.requests import RateLimitedAdapter as RateLimitedAdapter

__all__ = ["AioRateLimitedTransport", "RateLimitedAdapter", "RateLimitedTransport", "rate_limited"]

_HOMES = {
    "AioRateLimitedTransport": "workerkit.http.httpx",
    "RateLimitedTransport": "workerkit.http.httpx",
    "RateLimitedAdapter": "workerkit.http.requests",
    "rate_limited": "workerkit.http.aiohttp",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workerkit.http' has no attribute {name!r}")
