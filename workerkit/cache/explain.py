"""Why a call would be a hit or not: everything that is known of one entry, read in the same moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from workerkit.cache.computation import Work
from workerkit.cache.entries import BACKING_OFF, FAILURE, QUEUED
from workerkit.cache.policy import Policy
from workerkit.core.call import Call, as_is
from workerkit.core.flow import Batch, Flow

State = Literal["fresh", "stale", "kept for errors", "remembered failure", "invalidated", "unreadable", "missing"]
Lease = Literal["computing", "refresh queued", "backing off"]
_NEXT: dict[State, str] = {
    "fresh": "the next call is answered from Redis",
    "stale": "the next call gets the old value, and refreshes it unless somebody does",
    "kept for errors": "the next call computes, and falls back to the old value if that fails",
    "remembered failure": "the next call raises the remembered failure",
    "invalidated": "a tag was invalidated since; the next call computes",
    "unreadable": "what is stored cannot be read; the next call computes",
    "missing": "the next call computes",
}
_PUT_OFF = "the next call gets the old value; a refresh has failed, and is tried again when the lease ends"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One entry. Durations are in seconds, `size` in bytes; what does not apply is None."""

    key: str
    state: State
    age: float | None = None
    fresh_for: float | None = None
    kept_for: float | None = None
    cost: float | None = None
    size: int | None = None
    tags: int = 0
    lease: Lease | None = None
    lease_for: float | None = None

    def __str__(self) -> str:
        put_off = self.lease == "backing off" and self.state in ("stale", "kept for errors")
        lines = [f"{self.state}: {_PUT_OFF if put_off else _NEXT[self.state]}", f"  key       {self.key}"]
        for name in ("age", "fresh_for", "kept_for", "cost"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"  {name:<9} {value:.3f} s")
        if self.size is not None:
            lines.append(f"  size      {self.size} bytes, {self.tags} tags")
        if self.lease is not None:
            lines.append(f"  lease     {self.lease}, {self.lease_for or 0.0:.1f} s more at most")
        return "\n".join(lines)


def explain(policy: Policy, work: Work) -> Flow[Explanation]:
    """What Redis holds of one call. Raises StoreError when it cannot be used."""
    key = work.key
    data, kept_ms, holder, lease_ms, tags = yield from Batch(
        _plain("GET", key.value),
        _plain("PTTL", key.value),
        _plain("GET", key.lease),
        _plain("PTTL", key.lease),
        policy.entries.tags.read(work.tags) if work.tags else _plain("PING"),
    )
    found = policy.entries.found(key, data)
    if work.tags:
        found = found._replace(tags=tags)
    lease, lease_for = _lease(holder), lease_ms / 1000 if holder else None
    entry = found.envelope
    if entry is None:
        state: State = "unreadable" if found.there else "missing"
        return Explanation(key.value, state, size=len(data) if data else None, lease=lease, lease_for=lease_for)
    stands = True
    if entry.tags != found.tags:
        parts = tuple([part for part, _ in entry.tags])
        now = yield from policy.entries.tags.read(parts)
        stands = parts[: len(work.tags)] == work.tags and now == entry.tags
    now_us = policy.now_us()
    return Explanation(
        key.value,
        _state(policy, entry, now_us) if stands else "invalidated",
        age=max(0, now_us - entry.created_us) / 1e6,
        fresh_for=max(0, entry.soft_us - now_us) / 1e6,
        kept_for=max(0, kept_ms) / 1000,
        cost=entry.cost_us / 1e6,
        size=len(data),
        tags=len(entry.tags),
        lease=lease,
        lease_for=lease_for,
    )


def _state(policy: Policy, entry: Any, now_us: int) -> State:
    if now_us < entry.soft_us:
        return "remembered failure" if entry.flags & FAILURE else "fresh"
    if policy.windows.is_stale(entry, now_us):
        return "stale"
    return "kept for errors" if policy.windows.survives(entry, now_us) else "missing"


def _lease(holder: bytes | None) -> Lease | None:
    if not holder:
        return None
    kind = holder[:1].decode("utf-8", "replace")
    return "refresh queued" if kind == QUEUED else "backing off" if kind == BACKING_OFF else "computing"


def _plain(*words: str) -> Call[Any]:
    return Call(f"cache.explain.{words[0].lower()}", "cache", as_is, args=words)
