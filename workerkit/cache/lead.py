"""A computation under its lease: kept when the lease still stands, made up for or remembered when it fails."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

from workerkit.cache.computation import MISSING, Answer, Computation, Work
from workerkit.cache.entries import FAILURE
from workerkit.cache.policy import Old, Policy, milliseconds, versions_of
from workerkit.cache.tags import Versions
from workerkit.core.flow import Batch, Flow, Own, Seal
from workerkit.errors import CodecError, RateLimited

V = TypeVar("V")
SHORTEST_WAIT = 0.01  # seconds until a refresh that met a used-up limit is tried again, at least


class Lead(Generic[V]):
    """One computation by the holder of the lease `token`, held since `since_us` in server time.

    `old` is what is being replaced; with `spare` it is served when the computation fails, where it may be.
    """

    def __init__(self, policy: Policy, work: Work, token: str, since_us: int, old: Old | None, *, spare: bool) -> None:
        self._policy = policy
        self._work = work
        self._since_us = since_us
        self._old = old
        self._spare = spare
        self._computation: Computation[V] = Computation(token, MISSING if old is None else old.value, spare=spare)
        self._tags: Versions | None = None

    def run(self) -> Flow[Answer | Own]:
        """The new value, or what stands in for it; the lease ends here in one way or another."""
        policy, work = self._policy, self._work
        policy.ledger.computations += 1
        held = True
        try:
            self._tags = yield from policy.tolerant(policy.touch(work.tags, 0.0))
            began = time.monotonic()
            try:
                value = yield from work.compute(self._computation)
            except Exception as error:
                held = not (yield from self._give_up(error, time.monotonic() - began))
                instead = self._instead(error)
                if instead is None:
                    raise
                return instead
            cost = time.monotonic() - began
            result = Answer(value, "computed")
            fresh = None if self._computation.skipped else policy.life(value)
            if fresh is None:
                return result
            body = policy.codec.dump(value)
            # Who comes from now on looks for himself: an invalidation may come between the store and the end of this.
            yield from Seal(work.key.value)
            stored = yield from policy.tolerant(self._store(body, fresh, cost))
            held = not stored
            return Own(result) if stored is False else result
        finally:
            if held:
                # At once, not when the lease runs out: whoever waits may lead now.
                yield from policy.tolerant(policy.entries.release(work.key, self._computation.token))

    def _store(self, body: bytes, fresh: float, cost: float) -> Flow[bool | None]:
        """Keep a result. False when an invalidation, of the entry or of a tag, came since the computation began."""
        policy, work, tags = self._policy, self._work, self._tags
        if tags is None:
            return None  # what versions the computation began under is not known
        hard = fresh + policy.windows.after
        tags = yield from self._with_added(tags, hard)
        if tags is None:
            return False
        data = policy.pack(work.key, body, tags, fresh=fresh, hard=hard, cost=cost)
        store = policy.entries.store(work.key, self._computation.token, data, milliseconds(hard))
        touches = [policy.entries.tags.touch(part, milliseconds(hard)) for part in work.tags]
        *again, stored = yield from Batch(*touches, store)
        return bool(stored) and versions_of(work.tags, again) == tags[: len(work.tags)]

    def _with_added(self, tags: Versions, life: float) -> Flow[Versions | None]:
        """Also the tags that the computation added; None when one of them was invalidated since it began."""
        policy, work = self._policy, self._work
        added = dict.fromkeys(map(policy.entries.tags.part, self._computation.tags))
        for part in added.keys() - set(work.tags):
            touched = yield from policy.entries.tags.touch(part, milliseconds(life))
            # Nobody read this tag before the computation. That it had no version proves that it was not invalidated
            # meanwhile, unless the server may have dropped the marker.
            if policy.evicts() if touched.new else touched.since_us >= self._since_us:
                return None
            tags += ((part, touched.version),)
        return tags

    def _give_up(self, error: Exception, cost: float) -> Flow[bool]:
        """After a failure: put off the next try if there is an old value, or remember it; whether either was done."""
        policy, old = self._policy, self._old
        if policy.terms.personal(error):
            return False
        now_us = policy.now_us()
        if old is not None and policy.windows.is_usable(old.envelope, now_us):
            policy.failed(error)
            pause = policy.windows.pause(old.envelope, now_us)
            if isinstance(error, RateLimited):
                pause = min(max(error.retry_after, SHORTEST_WAIT), policy.wait)
            put_off = policy.entries.back_off(self._work.key, self._computation.token, milliseconds(pause))
            return bool((yield from policy.tolerant(put_off)))
        life = policy.failures.life(error)
        if life is None or policy.terms.retried(error):
            return False
        return bool((yield from policy.tolerant(self._remember(error, life, cost))))

    def _remember(self, error: Exception, life: float, cost: float) -> Flow[bool]:
        policy, work = self._policy, self._work
        if self._tags is None:
            return False
        try:
            body = policy.failures.dump(error)
        except CodecError:
            return False  # the error itself matters more
        tags = yield from self._with_added(self._tags, life)
        if tags is None:
            return False
        data = policy.pack(work.key, body, tags, fresh=life, hard=life, cost=cost, flags=FAILURE)
        return (yield from policy.entries.store(work.key, self._computation.token, data, milliseconds(life)))

    def _instead(self, error: Exception) -> Answer | None:
        """The old value in the place of a failure, if it may stand there."""
        policy, old, now_us = self._policy, self._old, self._policy.now_us()
        if old is None or not self._spare or policy.terms.personal(error):
            return None
        if now_us < old.envelope.soft_us:
            return old.served("hit")
        limited = isinstance(error, RateLimited) and policy.windows.is_stale(old.envelope, now_us)
        if not limited and not policy.windows.survives(old.envelope, now_us):
            return None
        return old.served("error")
