"""Watching jobs on real servers: every event once and in order, whoever watches, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.server.limit_rig import make_engine
from workerkit.api.engine import Engine
from workerkit.api.job import Job
from workerkit.api.jobs import Jobs
from workerkit.api.watching import Updates
from workerkit.errors import DefinitionError, JobCancelled, JobMissing, StoreError
from workerkit.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerkit.jobs.events import JobUpdate
    from workerkit.testing.servers import RunningServer

WATCHERS = 50
RECORD, EVENTS = "wk:j:{job:j}:r", "wk:j:{job:j}:e"


class Import(BaseModel):
    rows: int = 0
    name: str = ""


def stream(server: RunningServer) -> list[str]:
    """The ids of the events kept."""
    entries = server.cli("XRANGE", EVENTS, "-", "+")
    assert isinstance(entries, list)
    return [entry[0] for entry in entries]


EVENTS_OF_WORK, CHUNK = 120, 20


def work(job: Job[Import], pause: Callable[[], object] = lambda: None) -> None:
    """120 events, then the end: every third changes data, the others say how far it is. A pause after each 20."""
    for number in range(EVENTS_OF_WORK):
        if number % CHUNK == 0:
            pause()
        if number % 3:
            job.progress(number, EVENTS_OF_WORK, f"at {number}")
        else:
            job.update(rows=number)
    pause()
    job.finish()


def seen_of_work() -> list[tuple[Any, ...]]:
    """What is to be told of `work`, and of how it stood then, to who watches from its beginning."""
    told: list[tuple[Any, ...]] = [("now", "RUNNING", (), (None, None, None))]
    progress: tuple[Any, ...] = (None, None, None)
    for number in range(EVENTS_OF_WORK):
        if number % 3:
            progress = (number, EVENTS_OF_WORK, f"at {number}")
            told.append(("progress", "RUNNING", (), progress))
        else:
            told.append(("changed", "RUNNING", ("rows",), progress))
    return [*told, ("ended", "SUCCESS", (), progress)]


def told(updates: list[JobUpdate]) -> list[tuple[Any, ...]]:
    return [(update.kind, update.status, update.fields, update.progress[:3]) for update in updates]


def test_fifty_threads_get_each_event_once_and_in_order(redis_server: RunningServer, redis_url: str) -> None:
    writer, watching = make_engine(redis_url), make_engine(redis_url, pool_min=1, pool_max=2)
    job, together = Jobs(writer).begin("j", Import), threading.Barrier(WATCHERS + 1)

    def watch() -> list[JobUpdate]:
        updates, found = Jobs(watching).watch("j", poll="5ms"), []
        try:
            for update in updates:
                found.append(update)
                if len(found) % CHUNK == 1:  # so that they read while it works, and nobody lags too far
                    together.wait(30)
        except BaseException:
            together.abort()
            raise
        return found

    with ThreadPoolExecutor(WATCHERS) as pool:
        found = [pool.submit(watch) for _ in range(WATCHERS)]
        with contextlib.suppress(threading.BrokenBarrierError):  # a watcher has the reason
            work(job, lambda: together.wait(30))
    for each in found:
        updates = each.result()
        assert [update.id for update in updates] == stream(redis_server)
        assert told(updates) == seen_of_work()
    writer.close()
    watching.close()


def test_fifty_coroutines_get_each_event_once_and_in_order(redis_server: RunningServer, redis_url: str) -> None:
    engine = make_engine(redis_url, pool_min=1, pool_max=2)

    async def watch(together: asyncio.Barrier) -> list[JobUpdate]:
        found: list[JobUpdate] = []
        async for update in Jobs(engine).aio.watch("j", poll="5ms"):
            found.append(update)
            if len(found) % CHUNK == 1:
                await together.wait()
        return found

    async def main() -> list[list[JobUpdate]]:
        together, loop = asyncio.Barrier(WATCHERS + 1), asyncio.get_running_loop()

        def pause() -> None:
            asyncio.run_coroutine_threadsafe(together.wait(), loop).result(30)

        job = await Jobs(engine).aio.begin("j", Import)
        try:
            async with asyncio.TaskGroup() as group:
                found = [group.create_task(watch(together)) for _ in range(WATCHERS)]
                await asyncio.to_thread(work, job, pause)
        finally:
            await engine.aclose()
        return [each.result() for each in found]

    for updates in asyncio.run(main()):
        assert [update.id for update in updates] == stream(redis_server)
        assert told(updates) == seen_of_work()
    engine.close()


def test_a_life_on_every_server(other_server: RunningServer) -> None:
    engine = make_engine(other_server.url)
    jobs = Jobs(engine)
    job = jobs.begin("j", Import)
    updates = jobs.watch("j", poll="1ms")
    assert told([next(updates)]) == [("now", "RUNNING", (), (None, None, None))]
    job.progress(1, 4, "é\udcff")
    job.update(name="a", rows=1)
    jobs.begin("j", Import).progress(2)
    jobs.cancel("j")
    found = list(islice(updates, 5))
    assert [update.kind for update in found] == ["progress", "changed", "began", "progress", "cancelling"]
    assert sorted(found[1].fields) == ["name", "rows"]
    assert [update.attempt for update in found] == [1, 1, 2, 2, 2]
    assert found[0].progress[:3] == (1, 4, "é\udcff")
    assert found[4].progress[:3] == (2, 4, "é\udcff")
    server_time = other_server.cli("TIME")
    assert isinstance(server_time, list)
    assert all(0 <= int(server_time[0]) + 1 - update.at < 60 for update in found)
    engine.close()


ENDS: dict[str, Callable[[Job[Import]], object]] = {
    "SUCCESS": lambda job: job.finish(),
    "FAILURE": lambda job: job.fail(ValueError("no")),
    "CANCELLED": lambda job: job.fail(JobCancelled(job_id=job.id)),
}


@pytest.mark.parametrize("status", ENDS)
def test_the_end_ends_it(jobs: Jobs, status: str) -> None:
    with contextlib.suppress(JobCancelled), jobs.begin("j", Import) as job:
        job.progress(1, 2)
        early = jobs.watch("j", poll="1ms")
        assert next(early).kind == "now"
        if status == "CANCELLED":
            raise JobCancelled(job_id="j")
        ENDS[status](job)
    [end] = early
    [found] = jobs.watch("j")
    error = {"SUCCESS": None, "FAILURE": ("ValueError", "no")}
    for update, kind in ((end, "ended"), (found, "now")):
        assert (update.kind, update.status, update.id) == (kind, status, end.id)
        assert (update.progress[:2], update.progress.eta) == ((1, 2), None)
        if status in error:
            assert update.error == error[status]
    assert list(jobs.watch("j", after=end.id)) == []
    assert next(early, None) is None


def test_who_comes_back_goes_on_behind_what_he_has_seen(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    job.progress(1, 9, "one")
    job.fail(ValueError("first"))
    job = jobs.begin("j", Import, retry=True)
    job.update(rows=1)
    job.progress(2)
    jobs.cancel("j")
    job.finish()
    whole = list(jobs.watch("j", after="0-0"))
    assert [(update.kind, update.attempt, update.progress[:3], update.error) for update in whole] == [
        ("began", 1, (None, None, None), None),
        ("progress", 1, (1, 9, "one"), None),
        ("ended", 1, (1, 9, "one"), ("ValueError", "first")),
    ]
    whole += jobs.watch("j", after=whole[-1].id)
    assert [(update.kind, update.attempt, update.progress[:3], update.error) for update in whole[3:]] == [
        ("began", 2, (1, 9, "one"), ("ValueError", "first")),
        ("changed", 2, (1, 9, "one"), ("ValueError", "first")),
        ("progress", 2, (2, 9, "one"), ("ValueError", "first")),
        ("cancelling", 2, (2, 9, "one"), ("ValueError", "first")),
        ("ended", 2, (2, 9, "one"), None),
    ]
    for number, update in enumerate(whole):
        end = 3 if number < 2 else len(whole)
        assert list(jobs.watch("j", after=update.id)) == whole[number + 1 : end]


def crowd(job: Job[Import], first: int, last: int) -> None:
    for number in range(first, last):
        job.progress(number)


def test_who_lags_behind_a_trimmed_stream_gets_one_now(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    job.progress(0, 999, "all")
    early = jobs.watch("j", poll="1ms")
    first = next(early)
    crowd(job, 1, 500)
    assert len(stream(redis_server)) < 400
    late = next(early)
    assert (late.kind, late.id, late.progress[:3]) == ("now", stream(redis_server)[-1], (499, 999, "all"))
    [back] = islice(jobs.watch("j", after=first.id, poll="1ms"), 1)
    assert (back.kind, back.id) == ("now", late.id)
    job.progress(500)
    assert [(update.kind, update.progress.done) for update in islice(early, 1)] == [("progress", 500)]
    kept = stream(redis_server)
    for number in (0, 1, 57):  # what is kept is told, each event once, with what only trimmed ones have told
        updates = list(islice(jobs.watch("j", after=kept[number], poll="1ms"), len(kept) - number - 1))
        assert [update.id for update in updates] == kept[number + 1 :]
        done = range(501 - len(updates), 501)
        assert [update.progress[:3] for update in updates] == [(each, 999, "all") for each in done]
        assert {(update.kind, update.status, update.attempt) for update in updates} == {("progress", "RUNNING", 1)}
    job.finish()
    assert [update.kind for update in early] == ["ended"]


def test_a_record_that_expires_ends_it(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    updates = jobs.watch("j", poll="1ms")
    assert next(updates).kind == "now"
    job.progress(1)
    assert next(updates).kind == "progress"
    redis_server.cli("PEXPIRE", RECORD, 1)
    redis_server.cli("PEXPIRE", EVENTS, 1)
    assert list(updates) == []
    with pytest.raises(JobMissing) as caught:
        next(jobs.watch("j"))
    assert caught.value.job_id == "j"
    with pytest.raises(JobMissing):
        next(jobs.watch("j", after="1-1"))
    assert redis_server.cli("EXISTS", RECORD) == 0


def now_ms(server: RunningServer) -> int:
    time = server.cli("TIME")
    assert isinstance(time, list)
    return int(time[0]) * 1000 + int(time[1]) // 1000


def test_another_life_begins_with_nothing_of_the_old(redis_server: RunningServer, jobs: Jobs) -> None:
    jobs.begin("j", Import).progress(5, 9, "old")
    updates = jobs.watch("j", poll="1ms")
    old = next(updates)
    assert redis_server.cli("DEL", RECORD, EVENTS) == 2  # and it is begun again between two polls
    while now_ms(redis_server) <= old.at * 1000:  # ids begin with the time
        pass
    job = jobs.begin("j", Import)
    job.progress(1)
    job.finish()
    found = list(updates)
    assert [(update.kind, update.progress[:3]) for update in found] == [
        ("began", (None, None, None)),
        ("progress", (1, None, None)),
        ("ended", (1, None, None)),
    ]
    assert list(jobs.watch("j", after=old.id)) == found
    [ahead] = jobs.watch("j", after="99999999999999-0")  # of a server whose clock was ahead
    assert (ahead.kind, ahead.id) == ("now", found[-1].id)


def test_a_stream_that_is_lost(redis_server: RunningServer, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    updates = jobs.watch("j", poll="1ms")
    assert next(updates).kind == "now"
    redis_server.cli("DEL", EVENTS)
    job.progress(1, 2)
    assert next(updates).kind == "progress"  # the version says that nothing is missing
    job.progress(2)
    redis_server.cli("DEL", EVENTS)
    found = next(updates)
    assert (found.kind, found.id, found.progress[:2]) == ("now", "0-0", (2, 2))
    job.update(rows=1)
    assert next(updates).kind == "changed"
    redis_server.cli("DEL", EVENTS)
    job.finish()
    back = next(jobs.watch("j", after="0-0"))
    assert (back.kind, back.status) == ("now", "SUCCESS")
    assert [update.kind for update in updates] == ["ended"]


def test_it_lasts_as_long_as_it_was_given(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    assert [update.kind for update in jobs.watch("j", timeout=0)] == ["now"]
    assert [update.kind for update in jobs.watch("j", timeout="20ms", poll="1h")] == ["now"]
    last = next(jobs.watch("j")).id
    job.progress(1)
    assert [update.kind for update in jobs.watch("j", after=last, timeout=0)] == ["progress"]


def test_a_job_that_is_to_begin_is_waited_for(jobs: Jobs) -> None:
    updates, begun = jobs.watch("j", poll="1ms", wait="30s"), threading.Event()

    def begin() -> None:
        begun.wait(30)
        jobs.begin("j", Import).finish()

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(begin)
        with pytest.raises(JobMissing):  # others do not wait
            next(jobs.watch("j"))
        begun.set()
        found = list(updates)
        work.result()
    assert found[0].kind == "now"
    assert found[-1].status == "SUCCESS"


@pytest.mark.parametrize("given", [{"wait": "5ms"}, {"wait": "1h", "timeout": "5ms"}, {"wait": "1h", "timeout": 0}])
def test_a_job_that_never_begins_is_not_waited_for_longer(jobs: Jobs, given: Any) -> None:
    with pytest.raises(JobMissing):
        next(jobs.watch("none", poll="1ms", **given))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"job_id": ""}, "a job's id is text"),
    "an id that is no text": ({"job_id": 7}, "a job's id is text"),
    "a long id": ({"job_id": "x" * 1001}, "a job's id is text"),
    "a poll of 0": ({"poll": 0}, "watch: poll: 0 must be at least"),
    "a negative poll": ({"poll": -1}, "watch: poll: -1 must be at least"),
    "a poll that is no duration": ({"poll": "soon"}, "watch: poll: 'soon' is no duration"),
    "a negative wait": ({"wait": -1}, "watch: wait: -1 must be 0 or at least"),
    "a negative timeout": ({"timeout": -1}, "watch: timeout: -1 must be 0 or at least"),
    "a timeout that is no duration": ({"timeout": "late"}, "watch: timeout: 'late' is no duration"),
    **{
        f"after {after!r:.30}": ({"after": after}, r"watch: after=.* write after=update\.id")
        for after in (
            None,
            7,
            "x",
            "1",
            "1-",
            "-",
            "+",
            "$",
            "(1-1",
            "1-1 ",
            "1-1\n",
            "\u0663-\u0661",
            "9" * 20 + "-0",
            b"1-1",
        )
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_one_clear_error(jobs: Jobs, wrong: str) -> None:
    given, message = WRONG[wrong]
    for verb in (jobs.watch, jobs.aio.watch):
        with pytest.raises(DefinitionError, match=message):
            verb(**{"job_id": "j", **given})


@pytest.mark.real
def test_trouble_with_redis_loses_nothing(redis_url: str) -> None:
    with FaultProxy(redis_url) as proxy:
        writer, engine = make_engine(redis_url), make_engine(proxy.url, timeout=0.5, breaker_failures=10**6)
        job = Jobs(writer).begin("j", Import)
        updates = Jobs(engine).watch("j", poll="1ms")
        found = [next(updates)]
        faults: list[Callable[[], None]] = [proxy.refuse, proxy.reset, lambda: proxy.half_reply(20)]
        for number, fault in enumerate(faults):
            fault()
            job.progress(number)
            with pytest.raises(StoreError):
                found.extend(updates)
            proxy.normal()
        job.finish()
        found += updates
        assert [(update.kind, update.progress.done) for update in found] == [
            ("now", None),
            *(("progress", number) for number in range(3)),
            ("ended", 2),
        ]
        engine.close()
        writer.close()


def test_a_wait_that_is_cancelled_loses_nothing(engine: Engine) -> None:
    async def main() -> None:
        jobs = Jobs(engine).aio
        job = await jobs.begin("j", Import)
        updates = jobs.watch("j", poll="2ms")
        kinds = [(await anext(updates)).kind]
        for number in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001 * (number % 5)):
                    await anext(updates)
            await job.aio.progress(number)
            kinds.append((await anext(updates)).kind)
        assert kinds == ["now", *["progress"] * 20]
        await engine.aclose()

    asyncio.run(main())


class Alarm(Exception):
    """What a time limit raises."""


def test_an_interrupted_sleep_ends_at_once_and_loses_nothing(engine: Engine, jobs: Jobs) -> None:
    def interrupt(*_: object) -> None:
        raise Alarm

    job = jobs.begin("j", Import)
    updates = Updates(engine, "j", after="", poll="1h", wait=0, timeout=None)
    assert next(updates).kind == "now"

    def wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        next(updates)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Alarm):
            wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    job.finish()
    updates._watcher._due = 0.0  # the hour is over
    assert [update.kind for update in updates] == ["ended"]


def test_every_version_of_a_record_has_its_event(redis_server: RunningServer, jobs: Jobs) -> None:
    """By this a watcher knows whether a stream is whole."""
    job = jobs.begin("j", Import)

    def in_step() -> bool:
        return int(str(redis_server.cli("HGET", RECORD, "version"))) == redis_server.cli("XLEN", EVENTS)

    acts: list[Callable[[], object]] = [
        lambda: job.update(rows=1),
        lambda: job.add(rows=1),
        lambda: job.progress(1, 2, "x"),
        job.heartbeat,
        lambda: list(job.each(lambda _: [1, 2], cursor=lambda item: item, total=2)),
        lambda: job.fail(ValueError()),
        lambda: jobs.begin("j", Import, retry=True),
        lambda: jobs.begin("j", Import),
        lambda: jobs.cancel("j"),
        lambda: jobs.cancel("j"),
    ]
    for act in acts:
        act()
        assert in_step()
