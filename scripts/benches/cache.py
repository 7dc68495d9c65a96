"""The cache beside its peers: hits, stampedes, submitting, and how the cost of a hit grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import _growth
import _stampede
from _hits import aio_rows, sync_rows
from _rows import Case, Row, Run
from _stampede import stampede_rows
from _subjects import (
    TAGS,
    TEXT,
    bare,
    cachetools,
    cashews,
    dogpile,
    lru_cache,
    need,
    redis_py,
    workerkit,
    workerkit_aio,
    workerkit_text,
)
from _submit import submit_rows


def _sync_redis(run: Run) -> Iterator[Row]:
    ours, peer = workerkit(run.url), redis_py(run.url)
    return sync_rows(run, "cache.hit.sync", "redis-py GET + loads", ours, peer, pinned_goal={"ratio": 0.6})


def _sync_bare(run: Run) -> Iterator[Row]:
    """Without a goal: how much of a hit is the round trip itself."""
    return sync_rows(run, "cache.hit.sync", "bare socket + loads", workerkit(run.url), bare(run.url))


def _sync_dogpile(run: Run) -> Iterator[Row]:
    ours, peer = workerkit(run.url), dogpile(run.url)
    return sync_rows(run, "cache.hit.sync", "dogpile.cache", ours, peer, pinned_goal={"ratio": 0.35})


def _async_cashews(run: Run) -> Iterator[Row]:
    need("cashews")
    return aio_rows(run, "cache.hit.async", "cashews", workerkit_aio(run.url), cashews(run.url), goal={"ratio": 0.6})


def _l1_cashews(run: Run) -> Iterator[Row]:
    need("cashews")
    return aio_rows(run, "cache.hit.l1", "cashews mem", workerkit_aio(run.url, l1=True), cashews("mem://"))


def _l1_locked(run: Run) -> Iterator[Row]:
    """The goal's peer: ours is thread-safe too. Unlike it we hand out a dict of one's own at every hit."""
    goal = {"ratio": 1.2, "ours": 1.5}
    ours, peer = workerkit(run.url, l1=True), cachetools(threading.Lock())
    return sync_rows(run, "cache.hit.l1", "cachetools @cached(LRUCache, lock)", ours, peer, goal=goal, pinned_goal=goal)


def _l1_text(run: Run) -> Iterator[Row]:
    """A value that cannot be changed: ours, as the peer's, is handed out as it is."""
    goal = {"ratio": 1.2, "ours": 1.5}
    ours, peer = workerkit_text(run.url, l1=True), cachetools(threading.Lock(), TEXT)
    name, peer_name = "cache.hit.l1.text", "cachetools @cached(LRUCache, lock)"
    return sync_rows(run, name, peer_name, ours, peer, goal=goal, pinned_goal=goal)


def _l1_unlocked(run: Run) -> Iterator[Row]:
    return sync_rows(run, "cache.hit.l1", "cachetools @cached(LRUCache)", workerkit(run.url, l1=True), cachetools())


def _l1_lru(run: Run) -> Iterator[Row]:
    return sync_rows(run, "cache.hit.l1", "functools.lru_cache", workerkit(run.url, l1=True), lru_cache())


def _tags(run: Run) -> Iterator[Row]:
    need("cashews")
    ours, peer = workerkit_aio(run.url, tags=TAGS), cashews(run.url, tags=TAGS)
    return aio_rows(run, "cache.hit.tags", "cashews tags", ours, peer, goal={"ratio": 0.8})


_ONE_COMPUTATION = {"ours": 10.0, "computations": 1}


def _stampede_threads(run: Run) -> Iterator[Row]:
    """The row without a cache tells how much of the wait is the waking of so many threads."""
    need("dogpile.cache")
    peers = {"dogpile.cache lock": _stampede.dogpile, "threads woken, no cache": _stampede.woken}
    goals = {"dogpile.cache lock": _ONE_COMPUTATION}
    return stampede_rows(run, "cache.stampede", _stampede.workerkit, peers, goals)


def _stampede_tasks(run: Run) -> Iterator[Row]:
    need("cashews")
    peers, goals = {"cashews lock": _stampede.cashews}, {"cashews lock": _ONE_COMPUTATION}
    return stampede_rows(run, "cache.stampede.async", _stampede.workerkit_aio, peers, goals)


def _submit(run: Run) -> Iterator[Row]:
    return submit_rows(run, "cache.submit", "Celery delay().get()", {"ratio": 0.3})


CASES = (
    Case("cache.hit.sync", "redis-py", _sync_redis),
    Case("cache.hit.sync", "bare socket", _sync_bare),
    Case("cache.hit.sync", "dogpile.cache", _sync_dogpile),
    Case("cache.hit.async", "cashews", _async_cashews),
    Case("cache.hit.l1", "cashews mem", _l1_cashews),
    Case("cache.hit.l1", "cachetools, with a lock", _l1_locked),
    Case("cache.hit.l1.text", "cachetools, with a lock", _l1_text),
    Case("cache.hit.l1", "cachetools, without a lock", _l1_unlocked),
    Case("cache.hit.l1", "lru_cache", _l1_lru),
    Case("cache.hit.tags", "cashews", _tags),
    Case("cache.stampede", "dogpile.cache", _stampede_threads),
    Case("cache.stampede.async", "cashews", _stampede_tasks),
    Case("cache.submit", "Celery", _submit),
    *_growth.cases(),
)
