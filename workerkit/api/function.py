"""One memoized function: how its calls become keys, tags and work, and the policy by which its values are kept."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Generic, TypeVar, cast, get_type_hints

from workerkit.api import layers
from workerkit.api.computing import computing, current
from workerkit.api.engine import Engine
from workerkit.api.options import Options
from workerkit.api.places import Place, Places
from workerkit.api.tier import Tier
from workerkit.cache.bust import bust
from workerkit.cache.computation import Computation, Entry, Work
from workerkit.cache.entries import EntryKey
from workerkit.cache.fetch import Fetcher
from workerkit.cache.ledger import Index, Ledger
from workerkit.cache.local import L1
from workerkit.cache.policy import Codec, Policy, Terms
from workerkit.cache.windows import Windows
from workerkit.core.binding import Binder
from workerkit.core.codec import Codec as JsonCodec
from workerkit.core.encoding import digest
from workerkit.core.events import BackgroundTrouble, CacheTrouble, RefreshFailed
from workerkit.core.flow import Flow, Invoke
from workerkit.core.keys import Keys, escape
from workerkit.core.source import code_version
from workerkit.core.template import Template
from workerkit.errors import DefinitionError, StoreError
from workerkit.io.ticker import AioBeat, Beat

T = TypeVar("T")
V = TypeVar("V")
Arguments = tuple[Any, ...]
Named = dict[str, Any]


class Function(Generic[V]):
    """A function with the options of its memoization."""

    def __init__(self, engine: Engine, fn: Callable[..., Any], options: Options) -> None:
        self.engine = engine
        self.fn = fn
        self.options = options
        self.is_async = inspect.iscoroutinefunction(fn)
        self.wrapper: Callable[..., Any] = fn  # what callers call; set when it is made
        self.note: Callable[[str, Arguments, Named], None] | None = (
            None  # told of each call, where a warmup wants to know
        )
        self.returning: Callable[[], Flow[None]] | None = getattr(fn, layers.RETURNING, None)
        self.closing: Callable[[Arguments, Named], Flow[bool] | None] | None = getattr(fn, layers.CLOSING, None)
        self.tier = None if options.l1 is None else self._tier(options.l1)
        self._binder = Binder(fn, ignore=options.ignore)
        names = self._binder.names
        self.takes_self = next(iter(self._binder.signature.parameters), None) == "self" and "self" in names
        self._template = None if options.key is None else Template(options.key, names, "memoize: key")
        self._tags = tuple([Template(tag, names, "memoize: tags") for tag in options.tags])
        self._version = code_version(fn) if options.version == "code" else options.version
        if options.codec is not None:
            make_codec(options.codec, Any)  # a name that is not known is refused here
        if options.refresh == "queue" and not engine.host.can_queue:
            raise DefinitionError("memoize: refresh='queue' needs a Celery app: write kit = WorkerKit(app)")

    def _tier(self, l1: L1) -> Tier:
        by_arguments = not callable(self.options.key)
        return Tier(self.engine, l1, lambda: self.fetcher, self._prefix, by_arguments=by_arguments)

    @property
    def signature(self) -> inspect.Signature:
        return self._binder.signature

    @cached_property
    def codec(self) -> Codec:
        """What turns its results into bytes and back, typed by its return annotation."""
        return make_codec(self.options.codec or self.engine.settings.codec, _returned(self.fn))

    @property
    def shown(self) -> str:
        """The function as people name it."""
        return f"{self.fn.__module__}.{self.fn.__qualname__}"

    @cached_property
    def name(self) -> str:
        """The function as keys name it: its module and name, its version, its result's shape."""
        version = f"@{self._version}" if self._version else ""
        return escape(f"{self.shown}{version}-{self.codec.fingerprint}")

    @cached_property
    def fetcher(self) -> Fetcher[V]:
        engine, options, settings = self.engine, self.options, self.engine.settings
        ledger = Ledger(engine.keys("c"), self.name, self.shown)
        engine.flusher.add(ledger)
        early = settings.early if options.early is None else options.early
        jitter = settings.jitter if options.jitter is None else options.jitter
        policy = Policy(
            engine.entries(options.max_bytes, self.lease),
            self.codec,
            ledger,
            Windows(options.stale, options.stale_if_error, early),
            options.failures,
            life=options.life(jitter),
            wait=options.wait or settings.wait,
            now_us=engine.now_us,
            evicts=engine.evicts,
            terms=Terms(self._is_personal, engine.host.comes_back, engine.host.puts_off),
            failed=self._refresh_failed,
            trouble=self.trouble,
        )
        return Fetcher(policy)

    @property
    def lease(self) -> float:
        """Seconds that a computation's lease lives unrenewed."""
        return self.options.lease or self.engine.settings.lease

    @cached_property
    def locate(self) -> Callable[[Arguments, Named], Place]:
        """Where the result of one call is, by its arguments."""
        own_code = any(map(callable, (self.options.key, *self.options.tags)))  # which may depend on more than these
        return self._locate if own_code else Places(self._locate)

    def _locate(self, args: Arguments, kwargs: Named) -> Place:
        key, tags = self.place(args, kwargs)
        return Place(key, tags, self.fetcher.entries.get(key, tags))

    def place(self, args: Arguments, kwargs: Named) -> tuple[EntryKey, tuple[str, ...]]:
        """The keys of the entry of one call, and the tags that its arguments give.

        Raises EncodingError for an argument that cannot be encoded, TypeError for a call that does not fit.
        """
        binder = self._binder
        if self.takes_self and (own := self.own(args)) is not args:
            binder, args = self._bound_binder, own
        template = self._template
        if template is None:
            data = binder.encode(*args, **kwargs)
        else:
            data = template(binder(args, kwargs)).encode("utf-8", "surrogatepass")
        part, keys = digest(data, self.engine.secret), self._keys
        key = EntryKey(keys.key(self.name, part, "v"), keys.key(self.name, part, "l"))
        if not self._tags:
            return key, ()
        bound = binder(args, kwargs)
        return key, tuple([self.engine.tags.part(tag(bound)) for tag in self._tags])

    def tags(self, args: Arguments, kwargs: Named) -> list[str]:
        """The tags that the arguments of one call give. Raises TypeError for a call that does not fit."""
        own = self.own(args)
        bound = (self._binder if own is args else self._bound_binder)(own, kwargs)
        return [tag(bound) for tag in self._tags]

    @cached_property
    def _bound_binder(self) -> Binder:
        return Binder(self.fn, ignore=self.options.ignore, skip_first=True)

    @cached_property
    def _keys(self) -> Keys:
        return self.engine.keys("c")

    def own(self, args: Arguments) -> Arguments:
        """The arguments without the task that a bound task's function gets as `self`."""
        return args[1:] if args and self.takes_self and self.engine.host.is_task(args[0]) else args

    def work(self, args: Arguments, kwargs: Named, *, aio: bool) -> Work:
        """One call as work for the fetcher."""
        return self.work_at(*self.place(args, kwargs), args, kwargs, aio=aio)

    def work_at(self, key: EntryKey, tags: tuple[str, ...], args: Arguments, kwargs: Named, *, aio: bool) -> Work:
        """The same, of a call whose place is known already."""
        run = self._run_aio if aio else self._run
        queued = self.options.refresh == "queue" and self._can_queue(key, args, kwargs)
        enqueue = self._enqueue(args, kwargs, aio=aio) if queued else None
        return Work(key, tags, lambda computation: Invoke(run, (computation, key, args, kwargs)), enqueue)

    def _can_queue(self, key: EntryKey, args: Arguments, kwargs: Named) -> bool:
        """Whether a worker that gets these arguments in a message would find this entry; else its caller refreshes."""
        sent = self.engine.host.as_sent(self.wrapper, args, kwargs)
        try:
            return sent is not None and self.place(*sent)[0] == key
        except Exception:  # noqa: BLE001 - a key that is a function of the arguments may raise anything of others
            return False

    def _enqueue(self, args: Arguments, kwargs: Named, *, aio: bool) -> Callable[[bytes], Invoke[Any]]:
        queue = self.engine.host.queue_refresh
        if aio:  # kombu has no async side, and a slow broker must not hold up the loop
            return lambda seen: Invoke(asyncio.to_thread, (queue, self.wrapper, args, kwargs, seen))
        return lambda seen: Invoke(queue, (self.wrapper, args, kwargs, seen))

    @property
    def has_surroundings(self) -> bool:
        """Whether a call of it has something to do before or after it is answered."""
        return self.options.refresh == "queue" or self.returning is not None or self.closing is not None

    @property
    def _is_nested(self) -> bool:
        """Whether it is called by itself: the task's message and record are the outermost call's alone."""
        return current(self.fn) is not None

    def refreshing(self) -> bytes | None:
        """The id of the stale entry that the task executing now was queued to replace."""
        if self.options.refresh != "queue" or self._is_nested:
            return None
        return self.engine.host.queued_refresh(self.wrapper)

    def refreshed(self, seen: bytes, args: Arguments, kwargs: Named, *, aio: bool) -> Flow[V | None]:
        """Replace that entry; without Redis there is nothing to replace."""
        flow = self.fetcher.refresh_queued(self.work(args, kwargs, aio=aio), seen)
        answer = yield from self.fetcher.policy.tolerant(flow)
        return None if answer is None else answer.value

    def closed(self, args: Arguments, kwargs: Named) -> Flow[None]:
        """End the record of a job whose result was cached, so that nobody asks for it for ever."""
        closing = self.closing(args, kwargs) if self.closing is not None and not self._is_nested else None
        try:
            if closing is not None:
                yield from closing
        except StoreError as error:  # the task has its result; the record ends by its TTL
            self.engine.hooks.emit(BackgroundTrouble("job record", str(error)))

    def kept(self, args: Arguments, kwargs: Named, *, aio: bool = False) -> Entry[V] | None:
        """What this process's memory (or this event loop's) has of a call."""
        if self.tier is None:
            return None
        local = self.tier.loops.here().local if aio else self.tier.threads
        slot = local.find_key(self.place(args, kwargs)[0].value, self.own(args), kwargs)
        if slot is None:
            return None
        return Entry(self.tier.served(slot), "l1", max(0, self.engine.now_us() - slot.created_us) / 1e6)

    def busting(self) -> Flow[int]:
        """Forget all entries, also those of other versions that somebody has called in the last month."""
        names = {self.name}
        for name, shown in (yield from Index(self._keys).read()):
            if shown == self.shown:
                names.add(name)
        forgotten = yield from bust(self._keys.prefix(name) for name in sorted(names))
        if self.tier is not None:
            self.tier.clear()
        return forgotten

    def forget(self, key: str) -> None:
        """Have this process's memory forget an entry that was just changed, without waiting to be told."""
        if self.tier is not None:
            self.tier.drop(key)

    def life(self, value: V) -> float | None:
        """How many seconds `value` would be fresh."""
        return self.fetcher.policy.life(value)

    def run(self, flow: Flow[T]) -> T:
        return self.engine.runner.run(flow)

    async def aio_run(self, flow: Flow[T]) -> T:
        return await self.engine.aio_runner.run(flow)

    def _prefix(self) -> str:
        return self._keys.prefix(self.name)

    def trouble(self, reason: str) -> None:
        """Count and tell a use of the cache that failed."""
        self.fetcher.ledger.errors += 1
        self.engine.hooks.emit(CacheTrouble(self.fn.__qualname__, reason))

    def _refresh_failed(self, error: Exception) -> None:
        self.engine.hooks.emit(RefreshFailed(self.fn.__qualname__, type(error).__name__))

    def _is_personal(self, error: Exception) -> bool:
        return isinstance(error, self.engine.personal)

    @contextmanager
    def _leading(self, computation: Computation[V], key: EntryKey, *, aio: bool) -> Iterator[None]:
        """While the function computes: `memo.current` is known, and the lease, if there is one, is renewed."""
        with computing(self.fn, computation):
            if not computation.token:
                yield
                return
            engine = self.engine
            renew = self.fetcher.entries.renew(key, computation.token)
            interval, what = self.lease / 3, "cache lease"
            beat: AioBeat | Beat = (
                engine.aio_ticker.every(interval, what, lambda: engine.aio_runner.call(renew))
                if aio
                else engine.ticker.every(interval, what, lambda: engine.runner.call(renew))
            )
            try:
                yield
            finally:
                beat.stop()

    def _run(self, computation: Computation[V], key: EntryKey, args: Arguments, kwargs: Named) -> V:
        with self._leading(computation, key, aio=False):
            return cast(V, self.fn(*args, **kwargs))

    async def _run_aio(self, computation: Computation[V], key: EntryKey, args: Arguments, kwargs: Named) -> V:
        with self._leading(computation, key, aio=True):
            result = self.fn(*args, **kwargs)
            return cast(V, await result if hasattr(result, "__await__") else result)


def make_codec(name: str, annotation: Any) -> Codec:
    """JSON, or the codec of a serializer that kombu knows by this name. Raises DefinitionError for an unknown one."""
    if name == "json":
        return JsonCodec(annotation)
    # By name, as the kit finds its glue: the API knows that there are such codecs, never what is in them.
    codec: Codec = importlib.import_module("workerkit.celery.codecs").serializer_codec(name, annotation)
    return codec


def _returned(fn: Callable[..., Any]) -> Any:
    """The annotation of what `fn` returns. The others are not read: they may name what only type checkers import."""
    plain = inspect.unwrap(fn)
    annotation = getattr(plain, "__annotations__", {}).get("return", Any)
    if not isinstance(annotation, str):
        return annotation
    holder = type("Returned", (), {"__annotations__": {"value": annotation}})
    try:
        return get_type_hints(holder, getattr(plain, "__globals__", {}), include_extras=True)["value"]
    except NameError as error:
        raise DefinitionError(
            f"memoize: {plain.__qualname__} is annotated to return {annotation}, but {error}; import it at run time"
        ) from None
