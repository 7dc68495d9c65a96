"""`workerkit jobs ...` on a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, SecretStr

from tests.rig import until
from tests.server.cli_rig import Shop, rows
from workerkit import Job
from workerkit.cli import jobs
from workerkit.errors import JobCancelled


class Import(BaseModel):
    rows: int = 0
    token: SecretStr = SecretStr("")


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    yield shop
    shop.close()


def begin(shop: Shop, name: str, **about: object) -> Job[Import]:
    return shop.kit.jobs.begin(name, Import, **{"task": "shop.load", **about})  # type: ignore[arg-type]  # as they come


def test_no_job(shop: Shop) -> None:
    assert shop("jobs", "ls") == "there is no job: put @kit.job(Model) on a task\n"
    assert shop("jobs", "ls", "--owner", "x") == "no such job\n"
    assert shop.json("jobs", "ls") == []


def test_jobs_newest_first(shop: Shop) -> None:
    begin(shop, "first", owner="[red]\x1b").progress(3, 10)
    begin(shop, "second", tags=["nightly"]).fail(ValueError("no"))
    begin(shop, "third").progress(5)
    header, *lines = rows(shop("jobs", "ls"))
    assert header == ["id", "task", "status", "progress", "age", "owner"]
    assert [line[:4] for line in lines] == [
        ["third", "shop.load", "RUNNING", "5"],
        ["second", "shop.load", "FAILURE", "-"],
        ["first", "shop.load", "RUNNING", "3/10 30%"],
    ]
    assert lines[2][-1] == "[red]\\x1b"
    assert [each["id"] for each in shop.json("jobs", "ls", "--status", "failure")] == ["second"]
    assert [each["id"] for each in shop.json("jobs", "ls", "--tag", "nightly")] == ["second"]
    (first,) = shop.json("jobs", "ls", "--owner", "[red]\x1b")
    assert (first["progress"]["done"], first["error"], first["kit"]) == (3, None, "wk")
    assert shop.json("jobs", "ls", "--status", "FAILURE")[0]["error"] == {"type": "ValueError", "message": "no"}
    assert [each["id"] for each in shop.json("jobs", "ls", "--most", "2")] == ["third", "second"]


def test_more_jobs_than_a_page_has(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MOST", 5)
    for number in range(12):
        begin(shop, f"job-{number}")
    for most in (11, 100):
        found = shop.json("jobs", "ls", "--most", str(most))
        assert [each["id"] for each in found] == [f"job-{number}" for number in reversed(range(12))][:most]


def test_stuck_and_lost_ones(shop: Shop) -> None:
    begin(shop, "quiet", heartbeat="1ms")
    begin(shop, "gone", ttl="1ms")
    until(lambda: [each["id"] for each in shop.json("jobs", "ls", "--stuck")] == ["quiet"])
    assert rows(shop("jobs", "ls", "--stuck"))[1][2] == "RUNNING (stuck)"
    (lost,) = until(lambda: shop.json("jobs", "ls", "--lost"))
    assert (lost["id"], lost["task"]) == ("gone", "shop.load")
    assert rows(shop("jobs", "ls", "--lost"))[1][2].startswith("lost ")


@pytest.mark.parametrize("words", [["--status", "STARTED"], ["--most", "0"]])
def test_what_cannot_be_asked(shop: Shop, words: list[str]) -> None:
    assert shop.run("jobs", "ls", *words).exit_code == 2


def test_stuck_jobs_have_no_other_status(shop: Shop) -> None:
    assert "a stuck job is RUNNING" in shop.refused("jobs", "ls", "--stuck", "--status", "SUCCESS")


def test_one_job(shop: Shop) -> None:
    job = begin(shop, "j1", owner="acct_7", tags=["a", "b"])
    job.update(rows=7, token=SecretStr("s3cret"))
    job.progress(3, 10, "reading")
    told = shop("jobs", "show", "j1").splitlines()
    assert told[:4] == ["j1: RUNNING", "  task      shop.load", told[2], "  message   reading"]
    assert told[2].startswith("  progress  3/10 30%")
    assert {"  owner     acct_7", "  tags      a, b", "  attempt   1"} <= set(told)
    assert not any("data" in line for line in told), "whose model the app does not know"
    job.fail(ValueError("no"))
    assert "  error     ValueError: no" in shop("jobs", "show", "j1").splitlines()
    assert shop.refused("jobs", "show", "x", status=1) == (
        "there is no job 'x': it has not begun, has expired, or its task has no @kit.job"
    )


def test_the_data_of_a_task_that_the_app_has_without_its_secrets(shop: Shop) -> None:
    @shop.kit.task(name="shop.load")
    @shop.kit.throttle(shop.kit.limiter("api", "100/s"))
    @shop.kit.job(Import, traceback=True)
    def load(job: Job[Import]) -> None:
        raise AssertionError

    job = begin(shop, "j1", traceback=True)
    job.update(rows=7, token=SecretStr("s3cret"))
    assert "  data      rows=7" in shop("jobs", "show", "j1").splitlines()
    assert shop.json("jobs", "show", "j1")["data"] == {"rows": 7, "token": ""}
    assert "s3cret" not in shop("jobs", "show", "j1") + shop("jobs", "show", "j1", "--json")
    try:
        raise ValueError("no")
    except ValueError as error:
        job.fail(error)
    assert "  ValueError: no" in shop("jobs", "show", "j1").splitlines()

    class Other(BaseModel):
        size: int = 0

    shop.kit.jobs.begin("j2", Other, task="shop.load")
    assert "data" not in shop.json("jobs", "show", "j2"), "of another version"


def test_watching_to_the_end(shop: Shop) -> None:
    job = begin(shop, "good")
    job.progress(3, 10, "[red]\x1breading")
    watched: list[str] = []
    watching = threading.Thread(target=lambda: watched.append(shop("jobs", "watch", "good")))
    watching.start()
    job.update(rows=3)
    job.progress(10, 10)
    job.finish()
    watching.join(30)
    *_, last = rows(watched[0])
    assert (last[1] in {"ended", "now"}, last[2]) == (True, "SUCCESS")
    assert "\x1b" not in watched[0]


def test_how_it_ended_is_the_exit_code(shop: Shop) -> None:
    begin(shop, "good").finish()
    begin(shop, "bad").fail(ValueError("no"))
    begin(shop, "open").progress(3, 10, "[red]\x1b")
    assert rows(shop("jobs", "watch", "good"))[0][1:] == ["now", "SUCCESS"]
    assert shop("jobs", "watch", "bad", status=1).endswith("FAILURE  ValueError: no\n")
    (line,) = shop("jobs", "watch", "good", "--json").splitlines()
    assert json.loads(line)["status"] == "SUCCESS"
    done = shop.run("jobs", "watch", "open", "--timeout", "0")
    assert (done.exit_code, done.stderr) == (
        1,
        "workerkit: job 'open' has not ended: it was RUNNING when time was up, or its record expired\n",
    )
    assert done.stdout.endswith("RUNNING  3/10 30%  [red]\\x1b\n")
    assert "there is no job 'x'" in shop.refused("jobs", "watch", "x", status=1)
    for words in (["--wait", "soon"], ["--timeout", "soon"]):
        assert "'soon' is no duration" in shop.refused("jobs", "watch", "good", *words)


def test_a_job_that_is_still_in_its_queue_is_waited_for(shop: Shop) -> None:
    later = threading.Timer(0.3, lambda: begin(shop, "later").finish())
    later.start()
    assert shop("jobs", "watch", "later", "--wait", "30s").endswith("SUCCESS\n")
    later.join()


def test_cancelling(shop: Shop) -> None:
    job = begin(shop, "j1")
    begin(shop, "done").finish()
    assert shop("jobs", "cancel", "j1") == "j1: asked to stop\n"
    with pytest.raises(JobCancelled):
        job.check()
    assert shop("jobs", "cancel", "j1", "done", "x", status=1).splitlines()[1:] == [
        "done: has ended, or is not there",
        "x: has ended, or is not there",
    ]
    assert shop.json("jobs", "cancel", "x", status=1) == [{"id": "x", "cancelled": False}]


def test_jobs_of_several_kits(shop: Shop) -> None:
    second = shop.another(namespace="second")
    begin(shop, "here")
    second.jobs.begin("there", Import)
    for each in (shop.kit, second):
        each.jobs.begin("both", Import).finish()
    assert {each["id"]: each["kit"] for each in shop.json("jobs", "ls") if each["id"] != "both"} == {
        "here": "wk",
        "there": "second",
    }
    assert shop("jobs", "show", "there").startswith("there: RUNNING")
    assert shop("jobs", "cancel", "there") == "there: asked to stop\n"
    assert "write --kit NAMESPACE" in shop.refused("jobs", "show", "both")
    assert shop("jobs", "watch", "both", "--kit", "second").endswith("SUCCESS\n")


def test_a_store_that_is_down_is_one_line() -> None:
    lonely = Shop("redis://localhost:1/0")
    for verb in (["ls"], ["show", "a"], ["watch", "a"], ["cancel", "a"]):
        assert "redis://localhost:1/0 (workerkit_redis_url) " in lonely.refused("jobs", *verb)
    lonely.close()
