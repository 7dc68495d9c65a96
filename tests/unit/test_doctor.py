"""What each check finds in facts, at its edges."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workerkit.cli.doctor import _indented
from workerkit.doctor import acks, clients, clock, durability, memory, reach, timing, visibility
from workerkit.doctor.examine import KINDS, judge
from workerkit.doctor.facts import AppFacts, Facts, ServerFacts, TaskFacts

LATE = {"acks_late": True, "reject_on_worker_lost": True}


def server(*, roles=("cache", "guard", "broker", "results"), info=None, config=None, **facts):
    return Facts(servers=(ServerFacts("redis://s", roles, info=info or {}, config=config or {}, **facts),))


def app(*tasks, **facts):
    return Facts(AppFacts(tasks=tasks, **facts))


def ids(check, facts):
    return [finding.id for finding in check(facts)]


def test_ids_are_unique_and_every_kind_has_its_line():
    assert len({kind.id for kind in KINDS}) == len(KINDS)
    assert all(kind.about and not kind.about.endswith(".") for kind in KINDS)


def test_the_worst_comes_first_and_what_is_ignored_is_left_out():
    facts = Facts(
        AppFacts(eager=True, tasks=(TaskFacts("a", ("memoize",)),)),
        (ServerFacts("redis://s", ("guard",), info={"maxmemory": "1", "maxmemory_policy": "allkeys-lru"}),),
    )
    found = [(finding.severity, finding.id) for finding in judge(facts)]
    assert found == [("error", "guard-evicts"), ("warning", "always-eager"), ("note", "time-limit-missing")]
    assert [finding.id for finding in judge(facts, ["guard-evicts", "time-limit-missing"])] == ["always-eager"]


@pytest.mark.parametrize(("used", "found"), [("89", []), ("90", ["memory-full"])])
def test_memory_is_full_at_nine_tenths(used, found):
    assert ids(memory.check, server(info={"maxmemory": "100", "used_memory": used})) == found


@pytest.mark.parametrize("role", ["guard", "broker", "results", "cache"])
def test_eviction_is_judged_by_what_is_held(role):
    found = ids(memory.check, server(roles=(role,), info={"maxmemory": "9", "maxmemory_policy": "volatile-ttl"}))
    assert (
        found
        == {
            "guard": ["guard-evicts"],
            "broker": ["broker-evicts"],
            "results": ["results-evicted"],
            "cache": [],
        }[role]
    )


def test_what_could_not_be_read_is_not_judged():
    facts = server(unread=("info", "config|get", "client|list", "time"))
    assert [finding.id for finding in judge(facts)] == ["unreadable"]
    assert ids(durability.check, server(info={"aof_enabled": "0"})) == []  # whether there are snapshots is not known


def test_a_server_that_was_not_seen_is_judged_by_nothing_else():
    facts = server(info={"maxmemory": "9", "maxmemory_policy": "allkeys-lru", "role": "slave"}, trouble="gone")
    assert [finding.id for finding in judge(facts)] == ["unreachable"]


def test_a_server_elsewhere_cannot_be_started_from_here():
    (far,) = reach.check(server(trouble="refused", port=6379))
    (near,) = reach.check(server(trouble="refused", port=6379, local=True))
    assert far.fix == 'app.conf.workerkit_redis_url = "redis://<the right host>:6379/0"'
    assert near.fix == "valkey-server --port 6379"


def test_a_server_that_loads_is_waited_for():
    (finding,) = reach.check(server(trouble="LOADING it is loading the dataset in memory", refused=True))
    assert (finding.id, finding.fix) == ("refused", "wait until it has read its data")


@pytest.mark.parametrize(
    ("skew", "error", "found"), [(1.2, 0.3, []), (1.4, 0.3, ["clock-skew"]), (-1.4, 0.3, ["clock-skew"])]
)
def test_a_clock_is_wrong_when_it_is_for_certain(skew, error, found):
    assert ids(clock.check, server(skew=skew, skew_error=error)) == found


def test_the_larger_of_told_and_seen_processes_counts():
    facts = server(info={"connected_clients": "5"}, config={"maxclients": "100"}, processes=3)
    assert ids(clients.check, facts) == ["maxclients-low"]
    assert ids(clients.check, Facts(AppFacts(pool_max=10), facts.servers)) == []
    assert ids(clients.check, Facts(AppFacts(pool_max=10), facts.servers, processes=11)) == ["maxclients-low"]
    assert ids(clients.check, Facts(AppFacts(pool_max=10), facts.servers, processes=2)) == []


def test_only_redis_has_a_visibility_timeout_that_runs_pass():
    task = TaskFacts("a", longest=9999.0, **LATE)
    assert ids(visibility.check, app(task, broker="amqp")) == []
    assert ids(visibility.check, app(task, prefetch=1)) == ["visibility-run"]
    assert ids(visibility.check, app(TaskFacts("a", longest=9999.0), prefetch=1)) == []  # acknowledged when it begins


@pytest.mark.parametrize(("seconds", "found"), [(3599.9, []), (3600.0, ["visibility-run"])])
def test_a_run_as_long_as_the_timeout_is_too_long(seconds, found):
    assert ids(visibility.check, app(TaskFacts("a", longest=seconds, **LATE), prefetch=1)) == found


def test_one_line_mends_all_that_the_visibility_timeout_is_too_short_for():
    facts = app(TaskFacts("a", longest=4000.0, countdown=5000.0, time_limit=6000, **LATE), prefetch=4)
    findings = [*visibility.check(facts)]
    assert [finding.id for finding in findings] == [kind.id for kind in visibility.KINDS]
    (fix,) = {finding.fix for finding in findings}
    assert fix.endswith('"visibility_timeout": 32400}')  # twice 16,000 s, in whole hours


@pytest.mark.parametrize(("seconds", "up"), [(1, 60), (60, 60), (61, 120), (3600, 3600), (3601, 7200)])
def test_durations_are_rounded_as_people_write_them(seconds, up):
    assert visibility.rounded(seconds) == up


@pytest.mark.parametrize("missing", LATE)
def test_both_options_of_late_acknowledgement_are_needed(missing):
    task = TaskFacts("a", ("job",), **{**LATE, missing: False})
    assert ids(acks.check, app(task)) == ["acks-early"]
    assert ids(acks.check, app(TaskFacts("a", ("memoize",)))) == []


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "prefork", "threads"])
def test_prefetching_is_judged_by_the_pool(pool):
    long = TaskFacts("a", longest=10.0, acks_late=True)
    green = pool in {"gevent", "eventlet"}
    assert ids(acks.check, app(long, pool=pool, soft_shutdown=1)) == (["gevent-prefetch"] if green else [])
    assert ids(acks.check, app(long, pool=pool, soft_shutdown=1, prefetch=4)) == ([] if green else ["prefetch-long"])
    brief = TaskFacts("a", acks_late=True)
    assert ids(acks.check, app(brief, pool=pool, prefetch=4)) == []


def test_a_tasks_own_time_limit_is_mended_at_the_task():
    task = TaskFacts("a", longest=80.0, time_limit=100)
    (finding,) = timing.check(app(task, time_limit=600))
    assert (finding.id, finding.at, finding.fix) == ("time-limit-close", "the options of a", "time_limit=180")
    assert ids(timing.check, app(TaskFacts("a", longest=79.0, time_limit=100), time_limit=600)) == []


def test_a_long_word_is_not_cut():
    line = "unix:///" + "x" * 90
    assert line in _indented(f"it holds all of it at {line} and more", 80)


def test_the_reference_lists_every_kind_as_it_is():
    page = Path(__file__).parents[2] / "docs" / "reference" / "doctor.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \| (.+?) \| (.+) \|$", page.read_text(), re.MULTILINE)
    assert [row[:3] for row in rows] == [(kind.id, kind.severity, kind.about) for kind in KINDS]
    assert all(row[3] for row in rows)
