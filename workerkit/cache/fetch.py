"""How a memoized call gets its value: from an entry, from its own computation, or from somebody else's.

Of all callers in all processes one holds the lease and computes; it stores only while the lease stands, so that a
computation that began before an invalidation never survives it. Cache trouble never fails the call: without Redis the
function is computed, once a process.
"""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any, Generic, TypeVar

from workerkit.cache.computation import MISSING, Answer, Raised, Work
from workerkit.cache.entries import (
    BACKING_OFF,
    COMPUTING,
    FAILURE,
    NOTHING,
    QUEUED,
    Claim,
    EntryKey,
    Found,
    new_token,
)
from workerkit.cache.lead import Lead
from workerkit.cache.policy import Old, Policy, flight, milliseconds
from workerkit.cache.windows import SHORTEST_PAUSE
from workerkit.core.envelope import Envelope
from workerkit.core.flow import Flow, Own, Seal, Share, Sleep, result_of
from workerkit.errors import CodecError, OutcomeUnknown, StoreError, StoreRefused

V = TypeVar("V")
# Pauses between two looks at somebody else's computation: a share of the time waited, so that a short computation adds
# little and a long one is not asked after too often.
FIRST_PAUSE, SHARE, LONGEST_PAUSE = 0.002, 0.04, 0.1


class Fetcher(Generic[V]):
    """The fetching of one function's values."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.entries = policy.entries
        self.ledger = policy.ledger
        self.now_us = policy.now_us
        self._windows = policy.windows
        self._reach = policy.windows.reach
        self._codec_id, self._load = policy.codec.id, policy.codec.load

    def hit(self, found: Found) -> Any:
        """The value of a fresh entry, counted as a hit, or MISSING. The whole of the hot path after the read.

        What is rare answers MISSING too, and `fetch` looks closer: a remembered failure, tags that the computation
        added, an entry so near its end that it may be refreshed early.
        """
        entry = found.envelope
        if entry is None:
            if found.there:
                self.policy.trouble("an entry could not be read")
            return MISSING
        now_us = self.now_us()
        # Near its end, that is within reach of an early refresh, or past it.
        near = entry.soft_us - now_us <= self._reach * entry.cost_us
        if near or entry.flags or entry.tags != found.tags:
            return MISSING
        try:
            if entry.codec != self._codec_id:
                return MISSING
            value = self._load(entry.body)
        except CodecError:
            return MISSING  # `fetch` reads it once more, and counts
        self.ledger.hits += 1
        self.ledger.saved_us += entry.cost_us
        return value

    def recall(self, work: Work) -> Flow[Answer]:
        """The value, and how it was come by."""
        try:
            found = yield from self.entries.get(work.key, work.tags)
        except StoreError as error:
            return (yield from self.unread(work, error))
        value = self.hit(found)
        if value is not MISSING and found.envelope is not None:
            return Old(value, found.envelope).served("hit")
        return (yield from self.fetch(work, found))

    def judge(self, found: Found, versions: Container[tuple[str, int]]) -> Old | None:
        """A fresh value among several, counted; `versions` are those of all their tags. None counts as a miss."""
        entry = found.envelope
        if found.there and entry is None:
            self.policy.trouble("an entry could not be read")
        fresh = entry is not None and self.now_us() < entry.soft_us and not entry.flags
        value = self.policy.load(entry) if entry and fresh and all(tag in versions for tag in entry.tags) else MISSING
        if value is MISSING or entry is None:
            self.ledger.misses += 1
            return None
        self.ledger.hits += 1
        self.ledger.saved_us += entry.cost_us
        return Old(value, entry)

    def fetch(self, work: Work, found: Found) -> Flow[Answer]:
        """The value, when `hit` had none."""
        old = yield from self._standing(work, found)
        now_us = self.now_us()
        if old is not None and old.envelope.flags & FAILURE:
            error = self._remembered(old.envelope, now_us)
            if error is not None:
                self.ledger.remembered += 1
                self.ledger.saved_us += old.envelope.cost_us
                raise error
            old = None
        if old is not None and self._windows.is_stale(old.envelope, now_us):
            return (yield from self._serve(work, found, old, now_us))
        fallback = old if old is not None and self._windows.survives(old.envelope, now_us) else None
        answer = yield from self._missed(
            Share(flight(work.key, fallback), lambda: self._lead_or_wait(work, found.seen, fallback))
        )
        if answer.source == "error":
            self.ledger.misses -= 1
            self.ledger.failures += 1
        return answer

    def unread(self, work: Work, error: StoreError) -> Flow[Answer]:
        """The value, when the read failed: without Redis, computed once for all callers of this process."""
        self.policy.trouble(str(error))
        if isinstance(error, StoreRefused):
            return (yield from self.fetch(work, NOTHING))  # a key of another type, which the next store overwrites
        return (yield from self._missed(Share(flight(work.key, None), lambda: self._without_lease(work))))

    def _missed(self, shared: Share[Answer | Raised]) -> Flow[Answer]:
        """The outcome of a miss. A call that is put off, as a throttled one is, counts when it comes back."""
        self.ledger.misses += 1
        try:
            return _answer((yield from shared))
        except Exception as error:
            self.ledger.misses -= self.policy.terms.put_off(error)
            raise

    def renew(self, work: Work, found: Found, *, spare: bool = False) -> Flow[Answer | None]:
        """Compute anew now, unless somebody does already: None then. `spare`: the old value makes up for a failure."""
        token = new_token()
        claim = yield from self._claim(work.key, token, found.seen, COMPUTING)
        if claim is None or claim.verdict != "lead":
            return None
        old = yield from self._standing(work, found)
        if old is not None and old.envelope.flags & FAILURE:
            old = None
        return (yield from self._lead(work, token, claim, old, spare=spare))

    def refresh_queued(self, work: Work, seen: bytes) -> Flow[Answer | None]:
        """What a queued refresh of the entry `seen` does: nothing if that was replaced or invalidated meanwhile."""
        found = yield from self.entries.get(work.key, work.tags)
        if found.seen != seen:
            return None
        return (yield from self.renew(work, found, spare=True))

    def peek(self, work: Work) -> Flow[Any]:
        """The fresh value, or MISSING; nothing is counted, nothing computed."""
        old = yield from self._fresh(work)
        return MISSING if old is None else old.value

    def outlook(self, work: Work, found: Found) -> Flow[tuple[float, float] | None]:
        """For how many more seconds what was found is fresh, and how many its computation took; None for no value."""
        old = yield from self._standing(work, found)
        if old is None or old.envelope.flags:
            return None
        return (old.envelope.soft_us - self.now_us()) / 1e6, old.envelope.cost_us / 1e6

    def _fresh(self, work: Work) -> Flow[Old | None]:
        found = yield from self.entries.get(work.key, work.tags)
        old = yield from self._standing(work, found)
        if old is None or old.envelope.flags or self.now_us() >= old.envelope.soft_us:
            return None
        return old

    def put(self, key: EntryKey, value: V, tags: tuple[str, ...], fresh: float) -> Flow[None]:
        """Store a value that nobody needed to compute."""
        policy = self.policy
        body = policy.codec.dump(value)
        hard = fresh + self._windows.after
        versions = yield from policy.touch(tags, hard)
        data = policy.pack(key, body, versions, fresh=fresh, hard=hard, cost=0.0)
        yield from self.entries.put(key, data, milliseconds(hard))

    def _standing(self, work: Work, found: Found) -> Flow[Old | None]:
        """What was found, unless it is too old, a tag was invalidated since, or it cannot be read."""
        entry = found.envelope
        if entry is None or self.now_us() >= entry.hard_us:
            return None
        parts = tuple([part for part, _ in entry.tags])
        if parts[: len(work.tags)] != work.tags:
            return None  # from before the function got these tags
        if parts and entry.tags != found.tags:
            try:
                if (yield from self.entries.tags.read(parts)) != entry.tags:
                    return None
            except StoreError as error:
                self.policy.trouble(str(error))
                return None
        value = None if entry.flags & FAILURE else self.policy.load(entry)
        return None if value is MISSING else Old(value, entry)

    def _remembered(self, entry: Envelope, now_us: int) -> Exception | None:
        if now_us >= entry.soft_us:
            return None
        error = self.policy.failures.load(entry.body)
        if error is None:
            self.policy.trouble("a remembered failure could not be read")
        return error

    def _serve(self, work: Work, found: Found, old: Old, now_us: int) -> Flow[Answer]:
        """Serve what is there; if it is stale, or due to be refreshed early, see to it that one caller refreshes it."""
        self.ledger.saved_us += old.envelope.cost_us
        if now_us < old.envelope.soft_us:
            self.ledger.hits += 1
            served = old.served("hit")
            if not self._windows.due(old.envelope, now_us):
                return served
        else:
            self.ledger.stale += 1
            served = old.served("stale")
        token = new_token(QUEUED if work.enqueue else COMPUTING)
        claim = yield from self._claim(work.key, token, found.seen, COMPUTING + QUEUED + BACKING_OFF)
        if claim is None or claim.verdict == "wait":
            return served
        if claim.verdict == "hit":
            newer = yield from self._standing(work, claim.found)
            fresh = newer is not None and not newer.envelope.flags and self.now_us() < newer.envelope.soft_us
            return newer.served("hit") if newer is not None and fresh else served
        if work.enqueue:
            yield from self._enqueue(work, token, found.seen)
            return served
        answer = yield from self._lead(work, token, claim, old, spare=True)
        if answer.source == "error":
            self.ledger.stale -= 1
            self.ledger.failures += 1
        return answer

    def _lead(self, work: Work, token: str, claim: Claim, old: Old | None, *, spare: bool) -> Flow[Answer]:
        """Compute where nobody joins: what is for the caller alone is his."""
        return _answer(
            result_of((yield from Lead[V](self.policy, work, token, claim.since_us, old, spare=spare).run()))
        )

    def _enqueue(self, work: Work, token: str, seen: bytes) -> Flow[None]:
        last = self.entries.release(work.key, token)
        queued = False
        try:
            if work.enqueue:
                yield from work.enqueue(seen)
            queued = True
        except Exception as error:
            if self.policy.terms.personal(error):
                raise
            self.policy.trouble(f"a refresh could not be queued: {type(error).__name__}")
            last = self.entries.back_off(work.key, token, milliseconds(SHORTEST_PAUSE))  # not once more at each call
        finally:
            if not queued:
                yield from self.policy.tolerant(last)

    def _lead_or_wait(self, work: Work, seen: bytes, fallback: Old | None) -> Flow[Answer | Own]:
        token = new_token()
        began = time.monotonic()
        yielding = COMPUTING if fallback is None else COMPUTING + BACKING_OFF
        waited = False
        while True:
            claim = yield from self._claim(work.key, token, seen, yielding)
            if claim is None:
                return (yield from self._without_lease(work, fallback))
            if claim.verdict == "lead":
                return (yield from Lead[V](self.policy, work, token, claim.since_us, fallback, spare=True).run())
            if claim.verdict == "hit":
                yield from Seal(flight(work.key, fallback))  # the look that counts is for who is here already
                found = yield from self.policy.tolerant(self.entries.get(work.key, work.tags))
                result = yield from self._shared(work, found or claim.found)
                if result is not None:
                    return result
                seen = claim.found.seen
                continue
            if fallback is not None and claim.holder.startswith(BACKING_OFF):
                return fallback.served("error")
            passed = time.monotonic() - began
            if passed >= self.policy.wait:
                yield from Seal(flight(work.key, fallback))  # no lease will tell of an invalidation
                return (yield from self._without_lease(work, fallback))
            self.ledger.waits += not waited
            waited = True
            yield from Sleep(min(max(passed * SHARE, FIRST_PAUSE), LONGEST_PAUSE))

    def _shared(self, work: Work, found: Found) -> Flow[Answer | None]:
        """What another process computed meanwhile, its failure too, if that is remembered."""
        there = yield from self._standing(work, found)
        now_us = self.now_us()
        if there is None or now_us >= there.envelope.soft_us:
            return None
        if there.envelope.flags & FAILURE:
            error = self._remembered(there.envelope, now_us)
            if error is not None:
                raise error
            return None
        return there.served("computed")

    def _without_lease(self, work: Work, old: Old | None = None) -> Flow[Answer]:
        return (yield from Lead[V](self.policy, work, "", 0, old, spare=True).alone())

    def _claim(self, key: EntryKey, token: str, seen: bytes, yielding: str) -> Flow[Claim | None]:
        """The claim's answer; None when the cache cannot be used."""
        for last in (False, True):
            try:
                return (yield from self.entries.claim(key, token, seen, yielding=yielding))
            except OutcomeUnknown as error:
                if last:
                    self.policy.trouble(str(error))
            except StoreError as error:
                self.policy.trouble(str(error))
                break
        return None


def _answer(got: Answer | Raised) -> Answer:
    if isinstance(got, Raised):
        raise got.error
    return got
