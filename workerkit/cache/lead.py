"""A computation under its lease: kept when the lease still stands, made up for or remembered when it fails."""

from __future__ import annotations

import time
from typing import Any, Generic, TypeVar

from workerkit.cache.computation import MISSING, Answer, Computation, Raised, Work
from workerkit.cache.entries import FAILURE
from workerkit.cache.policy import Old, Policy, flight, milliseconds, versions_of
from workerkit.cache.tags import Versions
from workerkit.core.call import Call
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
        """The new value, or what stands in for it; the lease ends here in one way or another.

        What was begun before an invalidation is `Own`, a failure too: who joined it may have come after that.
        """
        policy, work = self._policy, self._work
        held = True
        try:
            self._tags = yield from policy.tolerant(policy.touch(work.tags, 0.0))
            began = time.monotonic()
            try:
                value = yield from self._compute()
            except Exception as error:
                if policy.terms.personal(error):
                    raise
                stood = yield from self._end(self._give_up(error, time.monotonic() - began))
                held = stood is None
                instead = self._instead(error)
                if instead is not None:
                    return instead
                if stood is False:
                    return Own(Raised(error))
                raise
            cost = time.monotonic() - began
            result = Answer(value, "computed")
            fresh = None if self._computation.skipped else policy.life(value)
            if fresh is None:
                stood = yield from self._end(self._release())
                held = stood is None
                return Own(result) if stood is False else result
            body = policy.codec.dump(value)
            yield from self._seal()
            stored = yield from policy.tolerant(self._store(body, fresh, cost))
            held = not stored
            return Own(result) if stored is False else result
        finally:
            if held:
                # At once, not when the lease runs out: whoever waits may lead now.
                yield from policy.tolerant(self._release())

    def alone(self) -> Flow[Answer]:
        """The same without a lease: nothing is kept."""
        try:
            return Answer((yield from self._compute()), "computed")
        except Exception as error:
            instead = self._instead(error)
            if instead is None:
                raise
            self._policy.failed(error)
            return instead

    def _compute(self) -> Flow[Any]:
        """What the function gives. Counted unless its limit did not let it begin, or put it off: it comes back."""
        ledger = self._policy.ledger
        ledger.computations += 1
        try:
            return (yield from self._work.compute(self._computation))
        except Exception as error:
            ledger.computations -= isinstance(error, RateLimited) or self._policy.terms.put_off(error)
            raise

    def _seal(self) -> Seal:
        """Who comes from now on looks for himself: an invalidation may come between the last write and the end."""
        return Seal(flight(self._work.key, self._old))

    def _release(self) -> Call[bool]:
        return self._policy.entries.release(self._work.key, self._computation.token)

    def _end(self, last: Call[bool] | Flow[bool]) -> Flow[bool | None]:
        """End the lease by `last`. False when an invalidation, of the entry or of a tag, came since it was taken."""
        policy, work, tags = self._policy, self._work, self._tags or ()
        yield from self._seal()
        stood = yield from policy.tolerant(last)
        added = tuple(map(policy.entries.tags.part, self._computation.tags))
        if not stood or not (tags or added):
            return stood
        now = yield from policy.tolerant(policy.entries.tags.read((*work.tags, *added)))
        if now is None:
            return True
        return now[: len(tags)] == tags and all(
            version // 1000 < self._since_us for _, version in now[len(work.tags) :]
        )

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
        """After a failure: put off the next try if there is an old value, or remember it; whether the lease stood."""
        policy, old = self._policy, self._old
        now_us = policy.now_us()
        if old is not None and policy.windows.is_usable(old.envelope, now_us):
            policy.failed(error)
            pause = policy.windows.pause(old.envelope, now_us)
            if isinstance(error, RateLimited):
                pause = min(max(error.retry_after, SHORTEST_WAIT), policy.wait)
            return (yield from policy.entries.back_off(self._work.key, self._computation.token, milliseconds(pause)))
        life = policy.failures.life(error)
        if life is None or policy.terms.retried(error):
            return (yield from self._release())
        return (yield from self._remember(error, life, cost))

    def _remember(self, error: Exception, life: float, cost: float) -> Flow[bool]:
        policy, work = self._policy, self._work
        try:
            body = policy.failures.dump(error)
        except CodecError:
            return (yield from self._release())  # the error itself matters more
        tags = None if self._tags is None else (yield from self._with_added(self._tags, life))
        if tags is None:
            return (yield from self._release())
        data = policy.pack(work.key, body, tags, fresh=life, hard=life, cost=cost, flags=FAILURE)
        return (yield from policy.entries.store(work.key, self._computation.token, data, milliseconds(life)))

    def _instead(self, error: Exception) -> Answer | None:
        """The old value in the place of a failure, if it may stand there."""
        policy, old = self._policy, self._old
        if old is None or not self._spare or policy.terms.personal(error):
            return None
        now_us = policy.now_us()  # not known before the first connection: without one there is no old value either
        if now_us < old.envelope.soft_us:
            return old.served("hit")
        limited = isinstance(error, RateLimited) and policy.windows.is_stale(old.envelope, now_us)
        if not limited and not policy.windows.survives(old.envelope, now_us):
            return None
        return old.served("error")
