"""P7: a guard store that evicts what it holds is refused, or at least warned about."""

from __future__ import annotations

import asyncio

import pytest

from tests.rig import CHARGE, Rig, aio_outcome, command, outcome
from workerkit.core.call import Call, as_is
from workerkit.core.events import GuardWarning
from workerkit.errors import GuardEvicts, StoreRefused

EVICTING = [f"{keys}-{way}" for keys in ("allkeys", "volatile") for way in ("lru", "lfu", "random")] + ["volatile-ttl"]
ADVICE = ("noeviction", "workerkit_guard_url", "workerkit_guard_eviction")


def charge(key, store="guard"):
    return Call("charge", store, as_is, script=CHARGE, keys=(key,))


@pytest.fixture
def small_server(fresh_server):
    fresh_server.cli("CONFIG", "SET", "maxmemory", "50mb")
    return fresh_server


def test_every_policy_that_evicts_is_refused(small_server):
    for policy in EVICTING:
        small_server.cli("CONFIG", "SET", "maxmemory-policy", policy)
        rig = Rig(small_server.url, guards=True)
        answers = [outcome(lambda rig=rig: rig.runner.call(charge("count"))) for _ in range(3)]
        answers.append(asyncio.run(aio_outcome(rig.aio.call(charge("count")))))
        assert [type(answer) for answer in answers] == [GuardEvicts] * 4, policy
        assert [answer.policy for answer in answers] == [policy] * 4
        assert all(word in str(answers[0]) for word in ADVICE)
        assert rig.pool.size == 0
    assert small_server.cli("EXISTS", "count") == 0


def test_a_policy_that_does_not_evict_or_no_memory_limit_is_accepted(small_server):
    assert Rig(small_server.url, guards=True).runner.call(charge("count")) == 1
    small_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    small_server.cli("CONFIG", "SET", "maxmemory", "0")
    rig = Rig(small_server.url, guards=True)
    assert rig.runner.call(charge("count")) == 2
    assert rig.events == []


def test_a_cache_may_evict(small_server):
    small_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert Rig(small_server.url, guards=False).runner.call(charge("count", "cache")) == 1


def test_on_one_server_for_both_the_cache_is_served_and_the_guard_refused(small_server):
    small_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    rig = Rig(small_server.url, guards=True)
    assert rig.runner.call(charge("count", "cache")) == 1
    assert isinstance(outcome(lambda: rig.runner.call(charge("count"))), GuardEvicts)
    assert rig.runner.call(charge("count", "cache")) == 2
    small_server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    rig.pool.drop_free()
    assert rig.runner.call(charge("count")) == 3
    assert rig.pool.in_use == 0


def test_eviction_can_be_accepted_with_one_warning_a_process(small_server):
    small_server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    rig = Rig(small_server.url, guards=True, eviction="warn")
    for count in range(1, 4):
        rig.pool.drop_free()
        assert rig.runner.call(charge("count")) == count
    assert [type(event) for event in rig.events] == [GuardWarning]
    assert "volatile-lru" in rig.events[0].reason


def test_a_user_without_info_gets_a_warning_that_names_the_permission(small_server):
    small_server.cli("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-info")
    rig = Rig(small_server.unix_url.replace("unix://", "unix://app:secret@"), guards=True)
    assert [rig.runner.call(charge("count")) for _ in range(3)] == [1, 2, 3]
    assert [type(event) for event in rig.events] == [GuardWarning]
    assert "+info" in rig.events[0].reason
    assert "secret" not in rig.events[0].reason


def test_a_guard_that_is_full_says_so_and_changes_nothing(small_server):
    rig = Rig(small_server.url, guards=True)
    assert rig.runner.call(charge("count")) == 1
    small_server.cli("CONFIG", "SET", "maxmemory", "1")
    calls = (charge("count"), command("SET", "key", "value"))
    answers = [outcome(lambda call=call: rig.runner.call(call)) for call in calls]
    small_server.cli("CONFIG", "SET", "maxmemory", "50mb")
    assert [type(answer) for answer in answers] == [StoreRefused] * 2
    assert all("memory is full" in str(answer) for answer in answers)
    assert rig.runner.call(charge("count")) == 2
