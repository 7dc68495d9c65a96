"""requests under a limiter: `session.mount("https://api.example.com", RateLimitedAdapter(limiter))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import requests
from requests.adapters import DEFAULT_POOLSIZE, HTTPAdapter

from workerkit.api.limiter import Limiter
from workerkit.core.durations import Duration
from workerkit.http.exchange import WAIT, Cost, Exchange, Key


class RateLimitedAdapter(HTTPAdapter):
    """Sends what the limiter lets through; mount it for the URLs that the limit is about.

    Every request of the session counts, redirects it follows too. There is no `max_retries`: those would be sent from
    within, and nobody would count them. See `Exchange` for `key`, `wait`, `cost`, `settle` and `learn`; the others are
    HTTPAdapter's. The response is the caller's as it came, a 429 too: nothing is sent twice. With a concurrency cap,
    read or close streamed responses: they hold their place until then.

    A request raises RateLimited when it would have to wait longer than `wait`, DefinitionError for a key or cost that
    will not do. When Redis is down: see the limiter's `when_down`; if after the request was sent, its response is
    returned, and an event tells that its headers were not learned from.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        key: Key[requests.PreparedRequest] = "",
        wait: Duration | None = WAIT,
        cost: Cost[requests.PreparedRequest] | None = None,
        settle: Callable[[requests.Response], Any] | None = None,
        learn: bool = True,
        pool_connections: int = DEFAULT_POOLSIZE,
        pool_maxsize: int = DEFAULT_POOLSIZE,
        pool_block: bool = False,
    ) -> None:
        super().__init__(pool_connections, pool_maxsize, pool_block=pool_block)
        self._exchange = Exchange(limiter, key=key, wait=wait, cost=cost, settle=settle, learn=learn)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request, in its slot."""
        turn, run = self._exchange.turn(request), self._exchange.engine.runner.run
        with ExitStack() as stack:
            lease = turn.held()
            slot = stack.enter_context(lease)
            response = super().send(request, *args, **kwargs)
            try:
                run(turn.answered(slot, response, response.status_code, response.headers.items()))
            except BaseException:
                response.close()
                raise
            if self._exchange.capped and not response.raw.closed:
                response.raw = _Body(response.raw, stack.pop_all().close)
                lease.tie_to(response.raw)
        return response


class _Body:
    """urllib3's response, ending its slot when it has been read or closed."""

    def __init__(self, raw: Any, end: Callable[[], None]) -> None:
        self._raw = raw
        self._end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._raw
        finally:
            self._end()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        try:
            yield from self._raw.stream(*args, **kwargs)
        finally:
            self._end()

    def read(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._raw.read(*args, **kwargs)
        finally:
            if self._raw.closed:
                self._end()

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            self._end()

    def release_conn(self) -> None:
        try:
            self._raw.release_conn()
        finally:
            self._end()
