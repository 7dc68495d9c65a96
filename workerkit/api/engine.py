"""What a kit's handles work with: settings, servers and runners, each made when first needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from workerkit.api.flusher import Flusher
from workerkit.api.host import Host, NoHost
from workerkit.cache.entries import Entries
from workerkit.cache.tags import Tags
from workerkit.core.clock import ServerClock
from workerkit.core.encoding import digest
from workerkit.core.events import Hooks
from workerkit.core.keys import Keys
from workerkit.errors import StoreError
from workerkit.io.address import parse_address
from workerkit.io.perloop import PerLoop
from workerkit.io.ticker import AioTicker, Ticker
from workerkit.waitlist.waitlist import Waitlist

if TYPE_CHECKING:
    from workerkit.api.admissions import Admissions
    from workerkit.api.memo import Memo
    from workerkit.api.settings import Settings
    from workerkit.api.tier import Tier
    from workerkit.io.aiolistener import AioListener
    from workerkit.io.aiorunner import AioRunner
    from workerkit.io.embedded import EmbeddedServer
    from workerkit.io.listener import Listener
    from workerkit.io.runner import Runner
    from workerkit.io.server import Server


_LEAD_TO_SERVERS = ("servers", "_clock", "runner", "aio_runner", "listener", "aio_listeners")


def preload() -> None:
    """Load now what is otherwise loaded at its first use; nothing is read or opened."""
    from workerkit.api import jobs, parked, recording, sessions, settings
    from workerkit.io import aiorunner, runner

    del jobs, parked, recording, sessions, aiorunner, runner  # loaded for their first use
    settings.Settings.model_rebuild()


class Engine:
    """One kit's machinery. Nothing is read or opened before the first use, so that an app may be configured late."""

    def __init__(self, load: Callable[[], Settings], hooks: Hooks) -> None:
        self._load = load
        self.hooks = hooks
        self.ticker = Ticker(hooks)
        self.aio_ticker = AioTicker(hooks)
        self.flusher = Flusher(self)
        self.tiers: list[Tier] = []
        self.limiters: WeakValueDictionary[str, Admissions] = WeakValueDictionary()
        self.memos: WeakValueDictionary[str, Memo[Any, Any]] = WeakValueDictionary()
        self._embedded: EmbeddedServer | None = None
        self.host: Host = NoHost()
        # Errors that are one caller's own business; the Celery floor adds its own.
        self.personal: tuple[type[BaseException], ...] = (asyncio.CancelledError,)

    @cached_property
    def settings(self) -> Settings:
        return self._load()

    @cached_property
    def servers(self) -> dict[str, Server]:
        settings = self.settings
        if settings.guard_url is None or settings.guard_url == settings.redis_url:
            both = self._server("redis", settings.redis_url, "workerkit_redis_url", guards=True)
            return {"cache": both, "guard": both}
        return {
            "cache": self._server("cache", settings.redis_url, "workerkit_redis_url", guards=False),
            "guard": self._server("guard", settings.guard_url, "workerkit_guard_url", guards=True),
        }

    def _server(self, role: str, url: str, what: str, *, guards: bool) -> Server:
        settings = self.settings
        if url.startswith("embedded://"):
            from workerkit.io.embedded import resolve

            self._embedded = resolve(url).start()
            url = self._embedded.url
        from workerkit.io.server import PoolOptions, Server

        return Server(
            role,
            parse_address(url, what=what),
            options=PoolOptions(settings.pool_min, settings.pool_max, settings.pool_timeout),
            hooks=self.hooks,
            breaker_failures=settings.breaker_failures,
            guards=guards,
            eviction=settings.guard_eviction,
        )

    @cached_property
    def runner(self) -> Runner:
        from workerkit.io.runner import Runner

        runner = Runner(self.servers, self.settings.timeout)
        runner.personal = self.personal
        return runner

    @cached_property
    def aio_runner(self) -> AioRunner:
        from workerkit.io.aiorunner import AioRunner

        runner = AioRunner(self.servers, self.settings.timeout)
        runner.personal = self.personal
        return runner

    def keys(self, kind: str) -> Keys:
        """The maker of this kit's keys of one kind."""
        return Keys(self.settings.namespace, kind)

    @cached_property
    def waitlist(self) -> Waitlist:
        """Where throttled tasks are parked."""
        return Waitlist(self.keys("w"))

    @cached_property
    def tags(self) -> Tags:
        """The tags of cached entries."""
        return Tags(self.keys("c"), self.secret)

    def entries(self, max_bytes: int | None = None, lease: float = 1.0) -> Entries:
        """The Calls on cached entries of at most `max_bytes` (the setting's by default), leased for `lease` seconds."""
        most = max_bytes or self.settings.max_bytes
        return Entries(self.tags, secret=self.secret, max_bytes=most, lease_ms=max(1, int(lease * 1000)))

    @cached_property
    def listener(self) -> Listener:
        """Who tells this process's threads of changed entries."""
        from workerkit.io.listener import Listener

        return Listener(self.servers["cache"], timeout=self.settings.timeout)

    @cached_property
    def aio_listeners(self) -> PerLoop[AioListener]:
        """Who tells each event loop of changed entries."""
        from workerkit.io.aiolistener import AioListener

        return PerLoop(lambda: AioListener(self.servers["cache"], timeout=self.settings.timeout))

    def forget_tag(self, part: str) -> None:
        """Have this process's memory forget what is under a tag, without waiting to be told."""
        for tier in self.tiers:
            tier.drop(self.tags.key(part))

    def now_us(self) -> int:
        """The cache store's time, in microseconds since 1970; never ahead of it."""
        return self._clock.now_us()

    @cached_property
    def _clock(self) -> ServerClock:
        return self.servers["cache"].clock

    def evicts(self) -> bool:
        """Whether the cache store may drop keys before their time."""
        return not self.servers["cache"].keeps

    @cached_property
    def secret(self) -> bytes | None:
        secret = self.settings.secret
        return secret.get_secret_value().encode() if secret is not None else None

    def digest(self, text: str) -> str:
        """What stands for `text` in Redis, keyed with the kit's secret: it may be a secret itself."""
        return digest(text.encode("utf-8", "surrogatepass"), self.secret)

    def close(self) -> None:
        """Send the last counts, close the sync side's connections, end an embedded server that was started here."""
        if "runner" in self.__dict__:
            with contextlib.suppress(StoreError):
                self.flusher.flush()
            self.runner.close()
        if "listener" in self.__dict__:
            self.listener.stop()
        if self._embedded is not None:
            self._embedded.stop()
            self._embedded = None
            for name in _LEAD_TO_SERVERS:  # the next use starts anew
                self.__dict__.pop(name, None)

    async def aclose(self) -> None:
        """Send the last counts and close the running loop's connections."""
        if "aio_runner" in self.__dict__:
            with contextlib.suppress(StoreError):
                await self.flusher.aio_flush()
            self.aio_ticker.close()
            if "aio_listeners" in self.__dict__:
                await self.aio_listeners.here().stop()
            await self.aio_runner.close()
