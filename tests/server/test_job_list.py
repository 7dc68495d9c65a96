"""Listings of jobs on real servers: what is found, in which order, and how a wrong index is repaired."""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.rig import until
from tests.server.limit_rig import make_engine
from workerkit.api.engine import Engine
from workerkit.api.job import beginning
from workerkit.api.joblist import JobPage
from workerkit.api.jobs import Jobs
from workerkit.core.events import BackgroundTrouble, Event
from workerkit.errors import JobFenced, JobPoisoned
from workerkit.jobs import policy
from workerkit.jobs.index import LOT, NUMBERS, Index, entry_of
from workerkit.jobs.policy import About, Terms
from workerkit.jobs.record import Shape, Status

if TYPE_CHECKING:
    from workerkit.jobs.attempt import Attempt
    from workerkit.testing.servers import RunningServer

BAND = 2**44
TEN_MINUTES = 600_000


class Import(BaseModel):
    rows: int = 0


SHAPE = Shape(Import)
LIFE = policy.terms("1h", "1d", None, None)


def record_of(job_id: str) -> str:
    return f"wk:j:{{job:{job_id}}}:r"


def key(name: str) -> str:
    return f"wk:j:{{jobs:index}}:{name}"


def ids(page: JobPage) -> list[str]:
    assert page.next == ""
    return [job.id for job in page.jobs]


def lost(page: JobPage) -> list[str]:
    assert page.next == ""
    assert page.jobs == []
    return [job.id for job in page.lost]


def members(server: RunningServer, name: str) -> set[str]:
    found = server.cli("ZRANGE", key(name), 0, -1)
    assert isinstance(found, list)
    return {str(each) for each in found}


def band(server: RunningServer, job_id: str, name: str = "all") -> int:
    score = server.cli("ZSCORE", key(name), job_id)
    assert score is not None
    return int(float(str(score))) // BAND


def all_keys(server: RunningServer) -> list[str]:
    found = server.cli("KEYS", "*")
    assert isinstance(found, list)
    return [str(each) for each in found]


def expire(server: RunningServer, job_id: str) -> None:
    """The record's time is over, and the index knows when that was to be."""
    server.cli("DEL", record_of(job_id))
    overdue(server, job_id)


def overdue(server: RunningServer, *job_ids: str) -> None:
    for job_id in job_ids:
        score = int(float(str(server.cli("ZSCORE", key("expiring"), job_id))))
        server.cli("ZADD", key("expiring"), score // BAND * BAND + 1, job_id)


def silent(server: RunningServer, job_id: str, ms: int = TEN_MINUTES) -> None:
    """Its last heartbeat was `ms` ago."""
    server.cli("HINCRBY", record_of(job_id), "heartbeat", -1000 * ms)
    server.cli("ZINCRBY", key("alive"), -ms, job_id)


def begin(engine: Engine, job_id: str, root_id: str | None = None, life: Terms = LIFE, **about: Any) -> Attempt[Import]:
    where = policy.place(engine.keys("j"), job_id)
    flow = beginning(engine, where, SHAPE, life, About("shop.work", root_id=root_id, **about), again=True)
    return engine.runner.run(flow)


def test_listings_on_every_server(other_server: RunningServer) -> None:
    engine = make_engine(other_server.url)
    jobs = Jobs(engine)
    for number in range(12):
        owner, tags = f"o{number % 2}", ["even", f"t{number % 3}"] if number % 2 == 0 else [f"t{number % 3}"]
        job = jobs.begin(f"j{number:02}", Import, owner=owner, tags=tags, task="t")
        if number % 4 == 1:
            job.finish()
        if number % 4 == 2:
            job.fail(ValueError("no"))
    everything = [f"j{number:02}" for number in reversed(range(12))]
    assert ids(jobs.list()) == everything
    assert ids(jobs.list(owner="o0")) == everything[1::2]
    assert ids(jobs.list(tag="t1")) == ["j10", "j07", "j04", "j01"]
    assert ids(jobs.list(status="SUCCESS")) == ["j09", "j05", "j01"]
    assert ids(jobs.list(owner="o0", status="FAILURE")) == ["j10", "j06", "j02"]
    assert ids(jobs.list(owner="o1", status="FAILURE")) == []
    assert ids(jobs.list(owner="o0", tag="t1")) == ["j10", "j04"]
    assert ids(jobs.list(owner="o0", tag="t1", status="FAILURE")) == ["j10"]
    assert ids(jobs.list(tag="even", status="RUNNING")) == ["j08", "j04", "j00"]
    assert ids(jobs.list(owner="nobody")) == ids(jobs.list(tag="nothing")) == ids(jobs.list(status="RETRY")) == []
    found = jobs.list(owner="o0", tag="t1", status="FAILURE").jobs[0]
    assert (found.status, found.owner, found.tags, found.task, found.attempt) == (
        "FAILURE",
        "o0",
        ("even", "t1"),
        "t",
        1,
    )
    assert (found.error, 0 <= found.heartbeat < 60) == (("ValueError", "no"), True)
    silent(other_server, "j08")
    assert ids(jobs.list(stuck=True)) == ids(jobs.list(owner="o0", tag="even", stuck=True)) == ["j08"]
    expire(other_server, "j04")
    assert lost(jobs.list(lost=True)) == lost(jobs.list(owner="o0", tag="t1", lost=True)) == ["j04"]
    assert all(other_server.cli("PTTL", each) != -1 for each in all_keys(other_server))
    engine.close()


@pytest.mark.real
def test_no_listing_scans(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    for number in range(30):
        begin(engine, f"j{number}", "root", owner="me", tags=("a",))
    redis_server.cli("CONFIG", "RESETSTAT")
    jobs.list(owner="me", tag="a", most=7)
    jobs.list(status="RUNNING")
    jobs.list(stuck=True)
    jobs.list(lost=True)
    jobs.tree("root")
    stats = str(redis_server.cli("INFO", "commandstats"))
    assert "cmdstat_zrevrangebyscore" in stats
    assert not any(f"cmdstat_{verb}:" in stats for verb in ("scan", "zscan", "hscan", "sscan", "keys", "hgetall"))


LABELS = [
    "a",
    "a b",
    "a:r",
    "{a}",
    "}:o.a",
    "a\nb",
    "a\x00b",
    "*",
    "é",
    "e\u0301",
    "日本",
    "\udcff",
    "%",
    "%61",
    "~",
    "A",
    ".",
    "x" * 200,
]


@pytest.mark.parametrize("label", LABELS)
def test_any_text_is_an_owner_and_a_tag(redis_server: RunningServer, jobs: Jobs, label: str) -> None:
    for number, other in enumerate(LABELS):
        jobs.begin(f"owned {number}", Import, owner=other)
        jobs.begin(f"tagged {number}", Import, tags=[other])
    at = LABELS.index(label)
    assert ids(jobs.list(owner=label)) == [f"owned {at}"]
    assert ids(jobs.list(tag=label)) == [f"tagged {at}"]
    jobs.begin(label, Import, owner=label, tags=[label]).finish()
    assert ids(jobs.list(owner=label, tag=label, status="SUCCESS")) == [label]
    assert all(name.startswith("wk:j:{job") and len(name) < 130 for name in all_keys(redis_server))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("status", [None, "RUNNING", "SUCCESS"])
def test_pages_while_jobs_change(engine: Engine, jobs: Jobs, seed: int, status: Status | None) -> None:
    chance = random.Random(seed)
    running = {f"j{number:02}": jobs.begin(f"j{number:02}", Import, owner="me") for number in range(60)}
    for job_id in chance.sample(sorted(running), 25):
        running.pop(job_id).finish()
    before = {job.id: job.status for job in jobs.list(owner="me", most=100).jobs}
    seen: list[str] = []
    moved: set[str] = set()
    after = ""
    while True:
        page = jobs.list(owner="me", status=status, after=after, most=7)
        assert len(page.jobs) == 7 or not page.next
        seen += [job.id for job in page.jobs]
        assert all(status in (None, job.status) for job in page.jobs)
        after = page.next
        if not after:
            break
        for job_id in chance.sample(sorted(running), min(4, len(running))):
            moved.add(job_id)
            running.pop(job_id).finish()
        new = f"new{len(seen)}"
        moved.add(new)
        running[new] = jobs.begin(new, Import, owner="me")
    assert len(seen) == len(set(seen))
    stayed = {job_id for job_id, was in before.items() if status in (None, was)} - (moved if status else set())
    assert stayed <= set(seen) <= set(before) | moved
    assert len(stayed) > 10
    created = [int(job_id.removeprefix("j")) for job_id in seen if job_id in before]
    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize("most", [1, 3, 50])
@pytest.mark.parametrize("status", [None, "RUNNING"])
def test_pages_through_jobs_of_the_same_millisecond(
    redis_server: RunningServer, jobs: Jobs, most: int, status: Status | None
) -> None:
    names = ["a", "B", "b", "A", "ab", "a b", "é", "~", "z", "Z", "\udcff", "日", "a\x00", "_", "1", "10", "2"]
    for number, name in enumerate(names):
        job = jobs.begin(name, Import, owner="me")
        if status is None and number % 3 == 0:
            job.finish()
    for index in ("all", "o.me"):
        for name in names:
            score = band_of(redis_server, name, index) * BAND + 1_700_000_000_000
            redis_server.cli("ZADD", key(index), score, name.encode("utf-8", "surrogatepass"))
    for asked in ({}, {"owner": "me"}):
        seen, after = [], ""
        while True:
            page = jobs.list(**asked, status=status, most=most, after=after)
            seen += [job.id for job in page.jobs]
            after = page.next
            if not after:
                break
        assert seen == sorted(names, key=lambda name: name.encode("utf-8", "surrogatepass"), reverse=True)


def band_of(server: RunningServer, name: str, index: str) -> int:
    score = server.cli("ZSCORE", key(index), name.encode("utf-8", "surrogatepass"))
    return int(float(str(score))) // BAND


@pytest.mark.real
def test_a_page_that_must_be_sought_far_is_found(
    redis_server: RunningServer, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    monkeypatch.setattr("workerkit.jobs.index.MOST_LOOKS", 5)
    for number in range(40):
        job = jobs.begin(f"j{number:02}", Import, owner="me", tags=["rare"] if number in (3, 20, 21) else [])
        if number == 20:
            job.finish()
    assert ids(jobs.list(owner="me", tag="rare")) == ["j21", "j20", "j03"]
    first = jobs.list(owner="me", tag="rare", most=2)
    assert [job.id for job in first.jobs] == ["j21", "j20"]
    assert ids(jobs.list(owner="me", tag="rare", most=2, after=first.next)) == ["j03"]
    redis_server.cli("CONFIG", "RESETSTAT")
    jobs.list(owner="me", tag="rare", status="RUNNING")
    assert calls(redis_server, "evalsha") == 8  # of 39 jobs, 5 at most in one script
    assert calls(redis_server, "hmget") == 2


@pytest.mark.real
def test_who_is_not_stuck_is_not_read(redis_server: RunningServer, jobs: Jobs) -> None:
    for number in range(5):
        jobs.begin(f"j{number}", Import)
    silent(redis_server, "j2")
    redis_server.cli("CONFIG", "RESETSTAT")
    assert ids(jobs.list(stuck=True)) == ["j2"]
    assert calls(redis_server, "hmget") == 1


def calls(server: RunningServer, verb: str) -> int:
    """How many of a command the server has executed, those of scripts too."""
    found = re.search(rf"cmdstat_{verb}:calls=(\d+)", str(server.cli("INFO", "commandstats")))
    return int(found[1]) if found else 0


# Repair


def test_a_job_whose_record_is_gone_leaves_the_index(redis_server: RunningServer, jobs: Jobs) -> None:
    for number in range(5):
        jobs.begin(f"j{number}", Import, owner="me", tags=["a"]).finish()
    redis_server.cli("DEL", record_of("j1"), record_of("j3"))
    assert ids(jobs.list(tag="a", most=3)) == ["j4", "j2", "j0"]
    for name in ("all", "o.me", "t.a", "expiring"):
        assert members(redis_server, name) == {"j4", "j2", "j0"}
    assert redis_server.cli("HLEN", key("infos")) == 3


@pytest.mark.parametrize("asked", [{}, {"owner": "me"}, {"status": "RUNNING"}, {"stuck": True}])
def test_a_job_whose_status_is_another_moves(
    redis_server: RunningServer, engine: Engine, jobs: Jobs, asked: dict[str, Any]
) -> None:
    attempt = begin(engine, "j", owner="me")
    silent(redis_server, "j")
    attempt._listed = None  # as if the index could not be told
    engine.runner.run(attempt.finish())
    assert band(redis_server, "j") == NUMBERS["RUNNING"]
    assert ids(jobs.list(**asked)) == ([] if {"status", "stuck"} & asked.keys() else ["j"])
    assert band(redis_server, "j") == band(redis_server, "j", "o.me") == NUMBERS["SUCCESS"]
    assert members(redis_server, "alive") == set()
    assert ids(jobs.list(owner="me", status="SUCCESS")) == ["j"]


def test_a_new_owner_and_new_tags_replace_the_old(redis_server: RunningServer, jobs: Jobs) -> None:
    jobs.begin("j", Import, owner="old", tags=["a", "b"])
    jobs.begin("j", Import, owner="new", tags=["b", "c"])
    assert ids(jobs.list(owner="new")) == ids(jobs.list(tag="b")) == ids(jobs.list(tag="c")) == ["j"]
    assert {"o.old", "t.a"}.isdisjoint(name.rpartition(":")[2] for name in all_keys(redis_server))
    redis_server.cli("ZADD", key("o.old"), NUMBERS["RUNNING"] * BAND, "j")  # as if that had failed
    assert ids(jobs.list(owner="old")) == []
    assert redis_server.cli("EXISTS", key("o.old")) == 0
    assert ids(jobs.list(owner="new")) == ["j"]


def test_a_lost_index_heals_by_heartbeats_and_ends(redis_server: RunningServer, redis_url: str) -> None:
    engine = make_engine(redis_url, heartbeat="20ms")
    jobs = Jobs(engine)
    ending = jobs.begin("ending", Import, owner="me", tags=["a"])
    with jobs.begin("beating", Import, owner="me", tags=["a"]):
        flush(redis_server)
        until(lambda: ids(jobs.list(owner="me", tag="a", status="RUNNING")) == ["beating"])
        ending.finish()
        assert sorted(ids(jobs.list(owner="me"))) == ["beating", "ending"]
        assert ids(jobs.list(tag="a", status="SUCCESS")) == ["ending"]
    flush(redis_server)
    jobs.begin("third", Import, owner="me")
    assert ids(jobs.list(owner="me")) == ["third"]
    assert all(redis_server.cli("PTTL", each) != -1 for each in all_keys(redis_server))
    engine.close()


def flush(server: RunningServer) -> None:
    for name in all_keys(server):
        if "{jobs:index}" in name:
            server.cli("DEL", name)


@pytest.mark.parametrize("gone", ["all", "infos", "alive", "expiring", "o.me"])
def test_a_part_of_the_index_that_is_lost_heals(
    redis_server: RunningServer, engine: Engine, jobs: Jobs, gone: str
) -> None:
    attempt, ended = begin(engine, "j", owner="me"), begin(engine, "gone", owner="me")
    engine.runner.run(ended.finish())
    redis_server.cli("DEL", record_of("gone"))
    redis_server.cli("DEL", key(gone))
    engine.runner.run(attempt.list_as("RUNNING"))
    assert ids(jobs.list(owner="me")) == ids(jobs.list()) == ["j"]
    assert members(redis_server, "o.me") == members(redis_server, "all") == {"j"}
    silent(redis_server, "j")
    assert ids(jobs.list(stuck=True)) == ["j"]
    expire(redis_server, "j")
    assert lost(jobs.list(lost=True)) == ["j"]


def test_trouble_with_the_index_is_no_trouble_of_the_job(redis_server: RunningServer, redis_url: str) -> None:
    events: list[Event] = []
    engine = make_engine(redis_url, events.append, heartbeat="20ms")
    jobs = Jobs(engine)
    redis_server.cli("SET", key("all"), "no index", "PX", 60_000)

    def told() -> int:
        return sum(isinstance(event, BackgroundTrouble) and event.what == "job index" for event in events)

    with jobs.begin("j", Import) as job:
        assert told() == 1
        until(lambda: told() >= 3)
        job.add(rows=1)
    assert told() >= 4
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.data.rows) == ("SUCCESS", 1)
    engine.close()


# The order of what the index is told


def test_what_comes_late_changes_nothing(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    old = begin(engine, "j", owner="me")
    new = begin(engine, "j", owner="me")
    with pytest.raises(JobFenced):
        engine.runner.run(old.end("FAILURE", ValueError()))
    engine.runner.run(old.list_as("FAILURE"))  # as if it had been on its way
    assert band(redis_server, "j") == NUMBERS["RUNNING"]
    engine.runner.run(new.finish())
    engine.runner.run(new.list_as("RUNNING"))  # a heartbeat that was on its way
    engine.runner.run(old.list_as("RUNNING"))
    assert band(redis_server, "j") == band(redis_server, "j", "o.me") == NUMBERS["SUCCESS"]
    assert members(redis_server, "alive") == set()


def test_each_way_to_end_is_listed(engine: Engine, jobs: Jobs) -> None:
    for status in ("SUCCESS", "FAILURE", "CANCELLED", "RETRY"):
        engine.runner.run(begin(engine, status).end(status, None))
    assert {job.id: job.status for job in jobs.list().jobs} == {
        status: status for status in ("SUCCESS", "FAILURE", "CANCELLED", "RETRY")
    }
    for status in ("SUCCESS", "FAILURE", "CANCELLED", "RETRY"):
        assert ids(jobs.list(status=status)) == [status]  # type: ignore[arg-type]  # those of the tuple
    again = begin(engine, "RETRY")
    assert ids(jobs.list(status="RUNNING")) == ["RETRY"]
    engine.runner.run(again.finish())
    assert sorted(ids(jobs.list(status="SUCCESS"))) == ["RETRY", "SUCCESS"]


def test_a_poisoned_job_is_listed(engine: Engine, jobs: Jobs) -> None:
    life = LIFE._replace(crashes=2)
    for _ in range(2):
        begin(engine, "j", owner="me", life=life)
    with pytest.raises(JobPoisoned):
        begin(engine, "j", owner="me", life=life)
    assert ids(jobs.list(owner="me", status="POISONED")) == ["j"]
    assert ids(jobs.list(stuck=True)) == ids(jobs.list(status="RUNNING")) == []


# Stuck and lost


def test_a_heartbeat_of_ten_minutes_ago_is_stuck(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    for job_id in ("old", "older", "fresh", "slow", "told", "ended"):
        begin(engine, job_id, owner="me" if job_id != "older" else "you")
    jobs.begin("slow", Import, owner="me", heartbeat="5m")
    for job_id in ("old", "slow", "ended"):
        silent(redis_server, job_id)
    silent(redis_server, "older", 2 * TEN_MINUTES)
    redis_server.cli("ZINCRBY", key("alive"), -TEN_MINUTES, "told")  # it wrote, but did not tell the index
    engine.runner.run(begin(engine, "ended", owner="me").finish())
    assert ids(jobs.list(stuck=True)) == ["old", "older"]
    assert ids(jobs.list(stuck=True, owner="me")) == ids(jobs.list(stuck=True, status="RUNNING", owner="me")) == ["old"]
    page = jobs.list(stuck=True, most=1)
    assert ([job.id for job in page.jobs], page.jobs[0].stuck) == (["old"], True)
    assert ids(jobs.list(stuck=True, most=1, after=page.next)) == ["older"]
    # Found alive, it is not looked at again.
    score = redis_server.cli("ZSCORE", key("alive"), "told")
    heard = redis_server.cli("HGET", record_of("told"), "heartbeat")
    assert int(float(str(score))) == int(str(heard)) // 1000 + 15_000
    begin(engine, "old", owner="me")
    assert ids(jobs.list(stuck=True)) == ["older"]


def test_who_never_ended_and_whose_record_expired_is_lost(
    redis_server: RunningServer, engine: Engine, jobs: Jobs
) -> None:
    for job_id in ("a-running", "b-retry", "ended", "there"):
        begin(engine, job_id, "root", owner="me", tags=("a", "b"))
    retry = begin(engine, "b-retry", "root", owner="me", tags=("a", "b"))
    engine.runner.run(retry.end("RETRY", None))
    engine.runner.run(begin(engine, "ended", "root", owner="me").finish())
    for job_id in ("a-running", "b-retry", "ended"):
        expire(redis_server, job_id)
    overdue(redis_server, "there")  # written to since the index heard of it
    page = jobs.list(lost=True)
    assert lost(page) == ["b-retry", "a-running"]
    found = page.lost[1]
    assert (found.task, found.owner, found.tags, found.root_id) == ("shop.work", "me", ("a", "b"), "root")
    assert abs(found.created - time.time()) < 60
    assert found.created <= found.heard
    assert lost(jobs.list(lost=True, owner="me", tag="b")) == ["b-retry", "a-running"]
    assert lost(jobs.list(lost=True, owner="you")) == []
    assert ids(jobs.list(owner="me")) == ids(jobs.list(status="RUNNING")) == ["there"]
    first = jobs.list(lost=True, most=1)
    assert [job.id for job in first.lost] == ["b-retry"]
    assert lost(jobs.list(lost=True, most=1, after=first.next)) == ["a-running"]
    begin(engine, "a-running", "root", owner="me")
    assert lost(jobs.list(lost=True)) == ["b-retry"]
    left = int(float(str(redis_server.cli("ZSCORE", key("expiring"), "b-retry")))) - time.time() * 1000
    assert 86_000_000 < left <= 86_400_000


def test_a_listing_that_meets_a_lost_job_remembers_it(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    begin(engine, "j", owner="me")
    redis_server.cli("DEL", record_of("j"))
    assert ids(jobs.list(owner="me")) == []
    assert band(redis_server, "j") == band(redis_server, "j", "o.me") == NUMBERS["LOST"]
    assert lost(jobs.list(lost=True, owner="me")) == ["j"]


def test_what_is_over_is_tidied_up_in_lots(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    ended = [f"ended{number}" for number in range(LOT - 3)]
    for job_id in ended:
        engine.runner.run(begin(engine, job_id, owner=job_id).finish())
    begin(engine, "lost", owner="me")
    begin(engine, "there", owner="me")
    for job_id in (*ended, "lost"):
        redis_server.cli("DEL", record_of(job_id))
    overdue(redis_server, *ended, "lost")
    begin(engine, "one", owner="me")
    assert members(redis_server, "all") == {*ended, "lost", "there", "one"}  # too few yet
    overdue(redis_server, "there")
    begin(engine, "another", owner="me")
    assert members(redis_server, "all") == {*ended, "lost", "there", "one", "another"}
    overdue(redis_server, "one")
    begin(engine, "last", owner="me")
    left = {"lost", "there", "one", "another", "last"}
    assert members(redis_server, "all") == members(redis_server, "o.me") == members(redis_server, "expiring") == left
    assert redis_server.cli("HLEN", key("infos")) == len(left)
    assert not any("o.ended" in name for name in all_keys(redis_server))
    assert band(redis_server, "lost") == NUMBERS["LOST"]
    assert band(redis_server, "one") == band(redis_server, "there") == NUMBERS["RUNNING"]
    later = redis_server.cli("ZCOUNT", key("expiring"), BAND, BAND + time.time() * 1000)
    assert later == 0  # those that are there are looked at again when their records may have expired


def test_one_that_began_again_is_not_tidied_up(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    engine.runner.run(begin(engine, "j", owner="me").end("FAILURE", None))
    index = Index(engine.keys("j"))
    known = redis_server.cli("HGET", key("infos"), "j")
    begin(engine, "j", owner="me")
    assert engine.runner.call(index.drop("j", str(known).encode())) is False
    assert ids(jobs.list(owner="me", status="RUNNING")) == ["j"]


# Lifetimes


def test_every_key_of_the_index_outlives_the_records(redis_server: RunningServer, jobs: Jobs) -> None:
    jobs.begin("long", Import, ttl="1h", max_age="10d", owner="long", tags=["both"])
    jobs.begin("short", Import, ttl="1m", max_age="1m", keep="1m", owner="short", tags=["both"]).finish()
    day = 86_400_000
    for name, least in (
        ("all", 11),
        ("infos", 11),
        ("alive", 11),
        ("expiring", 11),
        ("o.long", 11),
        ("t.both", 11),
        ("o.short", 1),
    ):
        left = redis_server.cli("PTTL", key(name))
        assert isinstance(left, int)
        assert least * day - 60_000 < left <= least * day + 60_000, name
    assert all(redis_server.cli("PTTL", each) != -1 for each in all_keys(redis_server))


def test_a_tiny_life_is_never_none(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import, ttl=60, max_age=60, keep="1us")
    flush(redis_server)
    redis_server.cli("HSET", record_of("j"), "expires", 1)
    job.finish()
    assert all(redis_server.cli("PTTL", each) != -1 for each in all_keys(redis_server))


# Trees


def test_a_tree_adds_up(redis_server: RunningServer, engine: Engine, jobs: Jobs) -> None:
    assert jobs.tree("root") == jobs.tree("\udcff") == (jobs.tree("no\nbody"))
    assert (jobs.tree("root").jobs, jobs.tree("root").total) == ([], None)
    begin(engine, "root", "root")  # says nothing of its progress
    for number in range(3):
        child = begin(engine, f"s{number}", "root")
        engine.runner.run(child.progress(number, 10, None))
        if number == 1:
            engine.runner.run(child.finish())
    begin(engine, "other", "root2")
    tree = jobs.tree("root")
    assert [job.id for job in tree.jobs] == ["root", "s0", "s1", "s2"]
    assert (tree.done, tree.total, tree.counts, tree.lost) == (3, 30, {"RUNNING": 3, "SUCCESS": 1}, [])
    engine.runner.run(begin(engine, "s3", "root").progress(4, None, None))
    redis_server.cli("DEL", record_of("s0"))
    tree = jobs.tree("root")
    assert [job.id for job in tree.jobs] == ["root", "s1", "s2", "s3"]
    assert (tree.done, tree.total, [job.id for job in tree.lost]) == (7, None, ["s0"])
    assert [job.id for job in jobs.tree("root").lost] == ["s0"]


def test_a_large_tree_is_whole(monkeypatch: pytest.MonkeyPatch, engine: Engine, jobs: Jobs) -> None:
    monkeypatch.setattr("workerkit.api.joblist._LOOKS", 4)
    for number in range(11):
        engine.runner.run(begin(engine, f"j{number:02}", "root").progress(1, 1, None))
    tree = jobs.tree("root")
    assert [job.id for job in tree.jobs] == [f"j{number:02}" for number in range(11)]
    assert (tree.done, tree.total) == (11, 11)


def test_the_same_from_coroutines(redis_server: RunningServer, engine: Engine) -> None:
    async def main() -> None:
        jobs = Jobs(engine).aio
        for number in range(5):
            job = await jobs.begin(f"j{number}", Import, owner="me")
            if number == 2:
                await job.aio.finish()
        redis_server.cli("DEL", record_of("j0"))
        page = await jobs.list(owner="me", most=2)
        assert [job.id for job in page.jobs] == ["j4", "j3"]
        assert ids(await jobs.list(owner="me", after=page.next)) == ["j2", "j1"]
        assert lost(await jobs.list(lost=True)) == ["j0"]
        assert (await jobs.tree("nothing")).jobs == []
        async with jobs.begin("held", Import, heartbeat="20ms") as job:
            flush(redis_server)
            while ids(await jobs.list()) != ["held"]:  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.005)
        assert ids(await jobs.list(status="SUCCESS")) == ["held"]
        await engine.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_an_entry_is_what_its_record_says(redis_server: RunningServer, engine: Engine) -> None:
    attempt = begin(engine, "j", "root", owner="me", tags=("a",))
    index = Index(engine.keys("j"))
    head = engine.runner.call(index._head(attempt.where, 1))
    assert head is not None
    assert entry_of("j", head) == attempt._entry
