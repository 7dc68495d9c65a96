"""How a memoized call gets its value: from an entry, from its own computation, or from somebody else's.

Of all callers in all processes one holds the lease and computes; it stores only while the lease stands, so that a
computation that began before an invalidation never survives it. Cache trouble never fails the call: without Redis the
function is computed, once a process.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from workerkit.cache.entries import Claim, Entries, EntryKey, Found, envelope
from workerkit.cache.ledger import Ledger
from workerkit.core.codec import Codec
from workerkit.core.envelope import Envelope
from workerkit.core.flow import Flow, Invoke, Share, Sleep
from workerkit.errors import CodecError, OutcomeUnknown, StoreError

V = TypeVar("V")
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
MISSING: Any = object()


class Fetcher(Generic[V]):
    """The fetching of one function's values.

    `life` says of a value how many seconds it is fresh, or None to leave it out; for `stale` more seconds it is served
    while one caller computes anew; `wait` bounds the waiting for another's computation. `now_us` is the server's time.
    """

    def __init__(
        self,
        entries: Entries,
        codec: Codec,
        ledger: Ledger,
        *,
        life: Callable[[V], float | None],
        stale: float,
        wait: float,
        now_us: Callable[[], int],
        trouble: Callable[[str], None],
    ) -> None:
        self.entries = entries
        self.codec = codec
        self.ledger = ledger
        self._life = life
        self._stale = stale
        self._wait = wait
        self._now_us = now_us
        self._trouble = trouble

    def hit(self, found: Found) -> Any:
        """The value of a fresh entry, counted as a hit, or MISSING. The whole of the hot path after the read."""
        value = self.fresh(found)
        if value is not MISSING:
            self.ledger.hits += 1
            self.ledger.saved_us += found.envelope.cost_us  # type: ignore[union-attr]  # a fresh value came out of one
        return value

    def fresh(self, found: Found) -> Any:
        """The value of a fresh entry, or MISSING; nothing is counted."""
        entry = found.envelope
        if entry is None:
            if found.there:
                self._trouble("an entry could not be read")
            return MISSING
        if self._now_us() >= entry.soft_us:
            return MISSING
        return self._load(entry)

    def fetch(self, key: EntryKey, compute: Callable[[str], Invoke[V]], found: Found) -> Flow[V]:
        """The value, when the read met nothing fresh. `compute(token)` invokes the function under that lease."""
        old = self._old(found)
        if old is not MISSING:
            return (yield from self._refresh(key, compute, found, old))
        self.ledger.misses += 1
        return (yield from Share(key.value, lambda: self._lead_or_wait(key, compute, found.seen)))

    def alone(self, key: EntryKey, compute: Callable[[str], Invoke[V]]) -> Flow[V]:
        """The value without Redis: computed once for all callers of this process."""
        self.ledger.misses += 1
        self.ledger.computations += 1

        def once() -> Flow[V]:
            return (yield from compute(""))

        return (yield from Share(key.value, once))

    def renew(self, key: EntryKey, compute: Callable[[str], Invoke[V]], found: Found) -> Flow[V | None]:
        """Compute anew now, unless somebody does already; the new value, or None then."""
        token = secrets.token_hex(8)
        claim = yield from self._claim(key, token, found.seen)
        if claim is None or claim.verdict != "lead":
            return None
        return (yield from self._compute(key, compute, token))

    def _old(self, found: Found) -> Any:
        """The value of a stale entry, counted, or MISSING."""
        entry = found.envelope
        if entry is None or self._now_us() >= entry.hard_us:
            return MISSING
        value = self._load(entry)
        if value is not MISSING:
            self.ledger.stale += 1
            self.ledger.saved_us += entry.cost_us
        return value

    def _load(self, entry: Envelope) -> Any:
        try:
            return self.codec.load(entry.body)
        except CodecError as error:
            self._trouble(str(error))
            return MISSING

    def _refresh(self, key: EntryKey, compute: Callable[[str], Invoke[V]], found: Found, old: V) -> Flow[V]:
        """One caller computes anew; all others get the old value at once."""
        token = secrets.token_hex(8)
        claim = yield from self._claim(key, token, found.seen)
        if claim is None or claim.verdict == "wait":
            return old
        if claim.verdict == "hit":
            newer = self.fresh(claim.found)
            return old if newer is MISSING else newer
        return (yield from self._compute(key, compute, token))

    def _lead_or_wait(self, key: EntryKey, compute: Callable[[str], Invoke[V]], seen: bytes) -> Flow[V]:
        token = secrets.token_hex(8)
        until = time.monotonic() + self._wait
        pause = FIRST_PAUSE
        while True:
            claim = yield from self._claim(key, token, seen)
            if claim is None:
                break
            if claim.verdict == "lead":
                return (yield from self._compute(key, compute, token))
            if claim.verdict == "hit":
                value = self.fresh(claim.found)
                if value is not MISSING:
                    return value  # type: ignore[no-any-return]  # the codec answers what the annotation says
                seen = claim.found.seen
                continue
            if time.monotonic() >= until:
                break
            self.ledger.waits += pause == FIRST_PAUSE
            yield from Sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
        self.ledger.computations += 1
        return (yield from compute(""))

    def _claim(self, key: EntryKey, token: str, seen: bytes) -> Flow[Claim | None]:
        """The claim's answer; None when the cache cannot be used."""
        for last in (False, True):
            try:
                return (yield from self.entries.claim(key, token, seen))
            except OutcomeUnknown as error:
                if last:
                    self._trouble(str(error))
            except StoreError as error:
                self._trouble(str(error))
                break
        return None

    def _compute(self, key: EntryKey, compute: Callable[[str], Invoke[V]], token: str) -> Flow[V]:
        began = time.monotonic()
        stored = False
        self.ledger.computations += 1
        try:
            value = yield from compute(token)
            fresh_for = self._life(value)
            if fresh_for is not None:
                cost = time.monotonic() - began
                data = self._pack(key, value, fresh_for, cost)
                life_ms = max(1, int((fresh_for + self._stale) * 1000))
                yield from self._tolerant(self.entries.store(key, token, data, life_ms))
                stored = True
            return value
        finally:
            if not stored:
                # At once, not when the lease runs out: whoever waits may lead now.
                yield from self._tolerant(self.entries.release(key, token))

    def _pack(self, key: EntryKey, value: V, fresh_for: float, cost: float) -> bytes:
        body = self.codec.dump(value)
        hard = fresh_for + self._stale
        entry = envelope(body, self.codec.id, now_us=self._now_us(), soft=fresh_for, hard=hard, cost=cost)
        return self.entries.pack(key, entry)

    def _tolerant(self, call: Any) -> Flow[Any]:
        try:
            return (yield from call)
        except StoreError as error:
            self._trouble(str(error))
            return None
