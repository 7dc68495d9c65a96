"""Job state on real servers: what the scripts promise."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.rig import until
from tests.server.limit_rig import make_engine
from tests.unit.job_rig import Store
from workerkit.api.engine import Engine
from workerkit.api.job import Job
from workerkit.api.jobs import Jobs
from workerkit.api.recording import job
from workerkit.errors import (
    CodecError,
    DefinitionError,
    JobCancelled,
    JobError,
    JobFenced,
    JobFinished,
    JobMissing,
    OutcomeUnknown,
    WorkerKitError,
)
from workerkit.jobs import policy
from workerkit.jobs.policy import About, Place, Write
from workerkit.jobs.record import Shape, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workerkit.testing.servers import RunningServer


class Import(BaseModel):
    rows: int = 0
    ratio: float = 0.0
    name: str = ""


LIFE = policy.terms("1h", "1d", None, None)
SHAPE = Shape(Import)


def key_of(job_id: str) -> str:
    return f"wk:j:{{job:{job_id}}}:r"


def keys_of(server: RunningServer) -> list[str]:
    """Of all records and what happened to them."""
    keys = server.cli("KEYS", "wk:j:{job:*}:*")
    assert isinstance(keys, list)
    return keys


def bytes_of(server: RunningServer, job_id: str = "j") -> object:
    """The record, and when it expires."""
    return server.cli("DUMP", key_of(job_id)), server.cli("PEXPIRETIME", key_of(job_id))


def numbers(upto: int) -> Callable[[int | None], range]:
    return lambda cursor: range(0 if cursor is None else cursor + 1, upto)


def test_one_life_on_every_server(other_server: RunningServer) -> None:
    jobs = Jobs(make_engine(other_server.url))
    with jobs.begin("j", Import, owner="me", tags=["a"], task="t") as job:
        job.update(name="é\x00")
        job.add(rows=2, ratio=0.1)
        job.add(rows=-5, ratio=0.2)
        job.progress(1, 2, "half")
        job.check()
        job.heartbeat()
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.data) == ("SUCCESS", Import(rows=-3, ratio=0.1 + 0.2, name="é\x00"))
    assert (found.progress[:3], found.owner, found.tags, found.task) == ((1, 2, "half"), "me", ("a",), "t")
    assert found.ended is not None
    assert found.created <= found.started <= found.ended
    assert 0 <= found.heartbeat < 60
    assert (found.attempt, found.version, found.fence) == (1, 6, job.fence)
    failed = jobs.begin("f", Import)
    failed.fail(ValueError("no"))
    again = jobs.begin("f", Import, retry=True)
    assert (again.attempt, again.fence) == (2, failed.fence + 1)
    assert jobs.cancel("f") is True
    with pytest.raises(JobCancelled):
        again.add(rows=1)
    found = jobs.get("f", Import)
    assert found is not None
    assert (found.status, found.error, found.cancelling) == ("RUNNING", ("ValueError", "no"), True)
    again.finish()
    found = jobs.get("f", Import)
    assert found is not None
    assert (found.status, found.error, found.data.rows) == ("SUCCESS", None, 1)


WRITES: dict[str, Callable[[Job[Import]], object]] = {
    "update": lambda job: job.update(name="zombie"),
    "add": lambda job: job.add(rows=1),
    "progress": lambda job: job.progress(done=99),
    "heartbeat": lambda job: job.heartbeat(),
    "check": lambda job: job.check(),
    "finish": lambda job: job.finish(),
    "fail": lambda job: job.fail(ValueError("zombie")),
    "each": lambda job: list(job.each(numbers(3), cursor=lambda item: item)),
    "each, total": lambda job: list(job.each(numbers(0), cursor=lambda item: item, total=9)),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_older_attempt_changes_nothing(redis_server: RunningServer, jobs: Jobs, write: str) -> None:
    old, new = jobs.begin("j", Import), jobs.begin("j", Import)
    new.add(rows=5)
    before = bytes_of(redis_server)
    with pytest.raises(JobFenced) as caught:
        WRITES[write](old)
    assert caught.value.job_id == "j"
    assert bytes_of(redis_server) == before
    new.finish()
    before = bytes_of(redis_server)
    with pytest.raises(JobFenced):
        WRITES[write](old)
    assert bytes_of(redis_server) == before


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("end", ["finish", "fail"])
def test_an_end_is_final(redis_server: RunningServer, jobs: Jobs, write: str, end: str) -> None:
    job = jobs.begin("j", Import)
    WRITES[end](job)
    before = bytes_of(redis_server)
    if write == end:
        WRITES[write](job)  # the same end once more, as after a lost answer: it stands, and nothing is written
    else:
        with pytest.raises(JobFinished):
            WRITES[write](job)
    assert bytes_of(redis_server) == before
    with pytest.raises(JobFinished):
        jobs.begin("j", Import)
    assert jobs.cancel("j") is False
    assert bytes_of(redis_server) == before


@pytest.mark.parametrize("write", [write for write in WRITES if write != "each"])
def test_an_expired_record_is_not_resurrected(redis_server: RunningServer, jobs: Jobs, write: str) -> None:
    job = jobs.begin("j", Import)
    for key in keys_of(redis_server):
        redis_server.cli("PEXPIRE", key, 1)
    until(lambda: keys_of(redis_server) == [])
    with pytest.raises(JobMissing):
        WRITES[write](job)
    assert jobs.cancel("j") is False
    assert keys_of(redis_server) == []


def test_a_record_that_was_lost_gets_a_higher_fence(redis_server: RunningServer, jobs: Jobs) -> None:
    old = jobs.begin("j", Import)
    for _ in range(3):
        last = jobs.begin("j", Import)
    redis_server.cli("FLUSHALL")
    new = jobs.begin("j", Import)
    assert new.fence > last.fence
    with pytest.raises(JobFenced):
        old.add(rows=1)
    assert (new.attempt, new.data.rows) == (1, 0)


def ttl_ms(server: RunningServer) -> int:
    left = server.cli("PTTL", key_of("j"))
    assert isinstance(left, int)
    return left


def test_every_write_moves_the_ttl_and_none_the_age(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import, ttl="1h", max_age="2h", keep="10m")
    age = redis_server.cli("HGET", key_of("j"), "expires")
    for write in ("update", "add", "progress", "heartbeat", "each", "each, total"):
        redis_server.cli("PEXPIRE", key_of("j"), 60_000)
        WRITES[write](job)
        assert 3_500_000 < ttl_ms(redis_server) <= 3_600_000, write
    now_us = int(time.time() * 1e6)
    redis_server.cli("HSET", key_of("j"), "expires", now_us + 60_000_000)  # as if it were nearly two hours old
    for write in ("update", "heartbeat"):
        WRITES[write](job)
        assert 0 < ttl_ms(redis_server) <= 60_000
    jobs.begin("j", Import, ttl="1h", max_age="2h")
    assert 0 < ttl_ms(redis_server) <= 60_000
    redis_server.cli("HSET", key_of("j"), "expires", str(age))
    job = jobs.begin("j", Import, ttl="1h", max_age="2h", keep="10m")
    assert 3_500_000 < ttl_ms(redis_server) <= 3_600_000
    job.finish()
    assert 500_000 < ttl_ms(redis_server) <= 600_000
    assert redis_server.cli("HGET", key_of("j"), "expires") == age


def test_the_age_is_the_longest_a_record_lives(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import, ttl=3600, max_age=3600, keep="1d")
    job.finish()
    assert 0 < ttl_ms(redis_server) <= 3_600_000


def test_a_tiny_ttl_is_never_none(redis_server: RunningServer, jobs: Jobs) -> None:
    jobs.begin("j", Import, ttl="1us", max_age="1us")
    until(lambda: keys_of(redis_server) == [])


def begin(jobs: Engine, token: str, *, job_id: str = "j", again: bool = False) -> int:
    where = policy.place(jobs.keys("j"), job_id)
    return int(jobs.runner.call(policy.begin(where, token, SHAPE, LIFE, About(), again=again)).get("fence", int))


def test_a_begin_is_idempotent_by_its_token(redis_server: RunningServer, engine: Engine) -> None:
    first = begin(engine, "a" * 22)
    before = bytes_of(redis_server)
    assert begin(engine, "a" * 22) == first
    assert bytes_of(redis_server) == before
    assert begin(engine, "b" * 22) == first + 1
    before = bytes_of(redis_server)
    with pytest.raises(JobFenced):  # repeated after a newer attempt has begun: that one must not be fenced
        begin(engine, "a" * 22)
    assert bytes_of(redis_server) == before


def test_many_attempts_keep_the_record_small(redis_server: RunningServer, engine: Engine) -> None:
    first = begin(engine, f"{0:022}")
    for number in range(1, 40):
        assert begin(engine, f"{number:022}") == first + number
    for number in range(32, 39):
        with pytest.raises(JobFenced):
            begin(engine, f"{number:022}")
    tokens = redis_server.cli("HGET", key_of("j"), "tokens")
    assert isinstance(tokens, str)
    assert len(tokens) <= 8 * 23


def test_a_late_begin_fences_nobody(fresh_server: RunningServer) -> None:
    engine = make_engine(fresh_server.url)
    jobs, late = Jobs(make_engine(fresh_server.url)), Jobs(engine)
    late.begin("warm", Import)  # the script is known, the connection is there
    engine.runner._timeout = 0.1
    live = jobs.begin("j", Import)
    fresh_server.freeze()
    with pytest.raises(OutcomeUnknown):
        late.begin("j", Import)
    fresh_server.thaw()
    live.add(rows=1)
    assert jobs.get("j", Import).attempt == 1  # type: ignore[union-attr]  # it is there


def test_all_begins_at_once_get_fences_of_their_own(engine: Engine) -> None:
    jobs = Jobs(engine)
    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(lambda _: jobs.begin("j", Import).fence, range(40)))
    assert len(set(fences)) == 40
    assert max(fences) - min(fences) == 39


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_resumed_loop_loses_nothing_and_counts_once(jobs: Jobs, every: int) -> None:
    for crash in range(8):
        handled: list[int] = []
        name = f"j{crash}"
        job = jobs.begin(name, Import)
        dead = job.each(numbers(7), cursor=lambda item: item, total=7, every=every, within=3600)
        for item in dead:
            handled.append(item)
            job.add(rows=1, ratio=0.5)
            if len(handled) == crash:
                break  # killed here: `dead` is kept, so the generator does not hear of it
        again = jobs.begin(name, Import)
        for item in again.each(numbers(7), cursor=lambda item: item, total=7, every=every, within=3600):
            handled.append(item)
            again.add(rows=1, ratio=0.5)
        again.finish()
        found = jobs.get(name, Import)
        assert found is not None
        assert set(handled) == set(range(7))
        assert len(handled) - 7 <= every
        assert (found.data.rows, found.data.ratio, found.progress[:3]) == (7, 3.5, (7, 7, None))


def test_a_batch_that_is_sent_twice_counts_once(redis_server: RunningServer, engine: Engine) -> None:
    begin(engine, "a" * 22)
    fence = begin(engine, "b" * 22)
    where = policy.place(engine.keys("j"), "j")
    batch = Write({"cursor": "5"}, {":rows": ("i", 3), "done": ("i", 3)}, batch=1)
    for _ in range(3):
        assert engine.runner.call(policy.write(where, fence, 60_000, batch)) is False
    engine.runner.call(policy.write(where, fence, 60_000, batch._replace(sets={"cursor": "8"}, batch=2)))
    engine.runner.call(policy.write(where, fence, 60_000, batch))
    assert redis_server.cli("HMGET", key_of("j"), ":rows", "done", "cursor", "batch") == ["6", "6", "8", "2"]


def test_adds_from_many_threads_lose_nothing(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: job.add(rows=1, ratio=0.25), range(400)))
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.data.ratio) == (400, 100.0)
    assert job.data == found.data


@pytest.mark.parametrize(
    ("stored", "amount"), [(2**53 - 1, 1), (-(2**53) + 1, -1), (2**60, 0), ('"x"', 1), ("null", 1)]
)
def test_a_counter_that_would_be_inexact_is_refused(
    redis_server: RunningServer, jobs: Jobs, stored: object, amount: int
) -> None:
    job = jobs.begin("j", Import)
    redis_server.cli("HSET", key_of("j"), ":rows", str(stored))
    before = bytes_of(redis_server)
    with pytest.raises(CodecError, match="rows"):
        job.add(ratio=1.0, rows=amount)
    assert bytes_of(redis_server) == before


def test_counters_are_exact_to_the_end(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    job.add(rows=2**53 - 2, ratio=1e300)
    job.add(rows=1, ratio=-1e300)
    job.add(ratio=0.1)
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.data.ratio) == (2**53 - 1, 0.1)
    job.add(ratio=1.7e308)
    with pytest.raises(CodecError, match="ratio"):
        job.add(ratio=1.7e308)


def test_fields_of_a_newer_deploy_survive(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    redis_server.cli("HSET", key_of("j"), ":newer", '{"a": [1]}')
    job.update(name="old", rows=1)
    job.add(rows=1)
    jobs.begin("j", Import).finish()
    assert redis_server.cli("HGET", key_of("j"), ":newer") == '{"a": [1]}'


def test_a_record_of_another_model_is_left_alone(redis_server: RunningServer, jobs: Jobs) -> None:
    class Export(BaseModel):
        rows: int = 0

    jobs.begin("j", Import).fail(ValueError())
    before = bytes_of(redis_server)
    for act in (
        lambda: jobs.begin("j", Export),
        lambda: jobs.begin("j", Export, retry=True),
        lambda: jobs.get("j", Export),
    ):
        with pytest.raises(DefinitionError, match="Import, not Export"):
            act()
    assert bytes_of(redis_server) == before


@pytest.mark.parametrize(
    "job_id", ["a", "a b", "a:r", "{a}", "}:r", "a\nb", "a\x00b", "*", "é", "\udcff", "%", "~", "x" * 500, "..", "A"]
)
def test_any_text_is_an_id(redis_server: RunningServer, jobs: Jobs, job_id: str) -> None:
    for other in ("other", job_id + "x", job_id.swapcase() + "y"):
        jobs.begin(other, Import)
    jobs.begin(job_id, Import, owner=job_id[:200], tags=[job_id[:200]]).fail(ValueError(job_id))
    found = jobs.get(job_id, Import)
    assert found is not None
    assert (found.id, found.owner, found.tags, found.status) == (job_id, job_id[:200], (job_id[:200],), "FAILURE")
    assert found.error == ("ValueError", job_id)
    keys = keys_of(redis_server)
    assert len(keys) == 2 * 4
    assert all(len(key) < 120 for key in keys)
    assert all(redis_server.cli("PTTL", key) != -1 for key in keys)


def test_cancel_reaches_a_running_function_by_its_heartbeat(redis_url: str) -> None:
    engine = make_engine(redis_url, heartbeat="20ms")
    jobs = Jobs(engine)
    seen: list[int] = []

    def endless(cursor: int | None) -> Iterator[int]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            yield len(seen)

    @job(engine, Import)
    def work(job: Job[Import]) -> None:
        for item in job.each(endless, cursor=lambda item: item, every=10**9, within=3600):
            if not seen:
                jobs.cancel(job.id)
            seen.append(item)
            job.add(rows=1)

    def id_of(error: JobError) -> str:
        return error.job_id

    with pytest.raises(JobCancelled) as caught:
        work()
    found = jobs.get(id_of(caught.value), Import)
    assert found is not None
    assert (found.status, found.data.rows) == ("CANCELLED", len(seen))
    engine.close()


def test_the_heartbeat_keeps_a_silent_job_alive(redis_server: RunningServer, redis_url: str) -> None:
    engine = make_engine(redis_url, heartbeat="20ms")
    with Jobs(engine).begin("j", Import, ttl="50s"):
        first = redis_server.cli("HGET", key_of("j"), "heartbeat")
        redis_server.cli("PEXPIRE", key_of("j"), 30_000)
        until(lambda: redis_server.cli("HGET", key_of("j"), "heartbeat") != first and ttl_ms(redis_server) > 40_000)
    engine.close()


def test_a_job_from_coroutines(engine: Engine) -> None:
    @job(engine, Import, owner="{account}")
    async def work(job: Job[Import], account: str) -> str:
        async for _ in job.aio.each(numbers(250), cursor=lambda item: item, total=250):
            await job.aio.add(rows=1)
        await asyncio.gather(*(job.aio.add(ratio=1.0) for _ in range(20)))
        return job.id

    async def main() -> None:
        jobs = Jobs(engine).aio
        found = await jobs.get(await work("acct"), Import)
        assert found is not None
        assert (found.status, found.data.rows, found.data.ratio) == ("SUCCESS", 250, 20.0)
        assert (found.owner, found.progress[:3]) == ("acct", (250, 250, None))
        await engine.aclose()

    asyncio.run(main())


def test_a_cached_result_closes_in_one_write(redis_server: RunningServer, engine: Engine) -> None:
    where = policy.place(engine.keys("j"), "j")
    life = policy.terms("1h", "1d", "5m", None)
    call = policy.close_cached(where, "a" * 22, SHAPE, life, About("t", "me"))
    assert engine.runner.call(call) is not None
    found = Jobs(engine).get("j", Import)
    assert found is not None
    assert (found.status, found.cached, found.owner, found.data) == ("SUCCESS", True, "me", Import())
    assert 0 < ttl_ms(redis_server) <= 300_000
    before = bytes_of(redis_server)
    assert engine.runner.call(call) is not None  # sent again after a lost answer
    other = policy.close_cached(where, "b" * 22, SHAPE, life, About("t", "me"))
    assert engine.runner.call(other) is None
    assert bytes_of(redis_server) == before


# The model that the unit tests rely on against the scripts


_who = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("begin"), _who, st.sampled_from("abcd"), st.booleans()),
    st.tuples(st.just("close"), _who, st.sampled_from("abcd")),
    st.tuples(st.just("add"), _who, st.integers(-5, 5), st.integers(0, 3)),
    st.tuples(st.just("set"), _who, st.text(max_size=3)),
    st.tuples(st.just("status"), _who, st.sampled_from(["SUCCESS", "FAILURE", "CANCELLED", "RETRY"])),
    st.tuples(st.just("check"), _who),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("expire")),
)


def calls(step: tuple[Any, ...], fences: dict[int, int]) -> Any:
    """The Call of one step by attempt `step[1]`, whose fence is known to this side."""
    where, (what, *rest) = Place("j", key_of("j"), key_of("j")[:-1] + "e"), step
    if what == "begin":
        return policy.begin(where, rest[1] * 22, SHAPE, LIFE, About(), again=rest[2])
    if what == "close":
        return policy.close_cached(where, rest[1] * 22, SHAPE, LIFE, About())
    if what == "cancel":
        return policy.cancel(where)
    fence = fences.get(rest[0], 1)
    if what == "check":
        return policy.check(where, fence)
    writes = {
        "add": lambda: Write({}, {":rows": ("i", rest[1])}, batch=rest[2]),
        "set": lambda: Write({":name": SHAPE.patch(Import(), {"name": rest[1]}, "update")[1]["name"]}),
        "status": lambda: Write(status=rest[1]),
    }
    return policy.write(where, fence, 60_000, writes[what]())


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(STEPS, max_size=25))
def test_the_scripts_do_what_the_model_does(redis_server: RunningServer, engine: Engine, steps: list[Any]) -> None:
    store, runner = Store(), engine.runner
    redis_server.cli("DEL", key_of("j"))
    sides: list[tuple[Any, dict[int, int]]] = [(runner, {}), (store, {})]

    def read(side: Any) -> Any:
        found = side.call(policy.read(Place("j", key_of("j"), key_of("j")[:-1] + "e"), SHAPE, view))
        return found and (
            found.status,
            found.data,
            found.attempt,
            found.version,
            found.cached,
            found.cancelling,
            found.ended is None,
        )

    def answer(side: Any, fences: dict[int, int], step: tuple[Any, ...]) -> Any:
        try:
            found = side.call(calls(step, fences))
        except WorkerKitError as error:
            return type(error)
        if step[0] != "begin":
            return found is not None if step[0] == "close" else found
        assert found.get("fence", int) >= max(fences.values(), default=0)  # no fence ever goes back
        fences[step[1]] = found.get("fence", int)
        return found.get("attempt", int)

    for step in steps:
        if step[0] == "expire":
            redis_server.cli("DEL", key_of("j"))
            store.records.clear()
            continue
        answers = [answer(side, fences, step) for side, fences in sides]
        assert answers[:1] == answers[1:]
        assert read(runner) == read(store)
        assert redis_server.cli("PTTL", key_of("j")) != -1


def test_a_flow_interrupted_by_an_error_of_the_user_keeps_the_record(jobs: Jobs, redis_server: RunningServer) -> None:
    job = jobs.begin("j", Import)

    def source(cursor: int | None) -> Iterator[int]:
        yield from range(5)
        raise LookupError("gone")

    def work() -> None:
        for _ in job.each(source, cursor=lambda item: item):
            job.add(rows=1)

    with pytest.raises(LookupError):
        work()
    assert redis_server.cli("HMGET", key_of("j"), ":rows", "cursor", "status") == ["5", "4", "RUNNING"]
