"""J1 and J2 with real processes: attempts that were replaced while they stood still, killed ones, cancelled ones."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psutil
import pytest
from pydantic import BaseModel

from tests.rig import Child
from tests.worker.conftest import Broker, any_broker, eventually, rabbit
from workerkit import WorkerKit
from workerkit.testing.drill import FOLDER, WRITES, ZombieDrill, zombie_point
from workerkit.testing.servers import start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["any_broker", "eventually", "rabbit"]  # fixtures
pytest_plugins = ["workerkit.testing.fixtures"]
# Each test imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")

FENCED = dict.fromkeys(WRITES, "JobFenced")
MARGIN = 0.4  # seconds that a busy machine may add to what takes a heartbeat


class Rows(BaseModel):
    rows: int = 0


class Floor:
    """The app of these tests and where it runs."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.app = broker.load("jobs")
        self.gate = uuid4().hex  # what holds the tasks of a test
        # What a failed test leaves behind would try for 20 s to be forgotten by a server that is gone.
        self.app.app.backend.remove_pending_result = lambda result: result

    def start_worker(self, children: int = 1) -> Any:
        return self.broker.worker("jobs", "--without-mingle", "--without-gossip", concurrency=children)

    def open_gate(self) -> None:
        (self.broker.directory / self.gate).touch()

    def notes(self, name: str) -> list[int]:
        return [int(text) for _, text in self.broker.notes(name)]

    def view(self, job_id: str) -> Any:
        return self.app.kit.jobs.get(job_id, self.app.Import)

    def bytes_of(self, job_id: str) -> list[object]:
        """The record and its events, and when they expire."""
        keys = [f"wk:j:{{job:{job_id}}}:{kind}" for kind in "re"]
        found = [(self.broker.server.cli("DUMP", key), self.broker.server.cli("PEXPIRETIME", key)) for key in keys]
        assert None not in found[0]
        return list(found)

    def server_time(self) -> float:
        now: Any = self.broker.server.cli("TIME")
        return int(now[0]) + int(now[1]) / 1e6

    def await_heartbeat(self, job_id: str, eventually: Callable[..., None]) -> None:
        def last() -> object:
            return self.broker.server.cli("HGET", f"wk:j:{{job:{job_id}}}:r", "heartbeat")

        before = last()
        eventually(lambda: last() != before)

    def keys_without_ttl(self) -> list[object]:
        keys: Any = self.broker.server.cli("KEYS", "wk:*")
        assert keys
        return [key for key in keys if self.broker.server.cli("PTTL", key) == -1]


@pytest.fixture(scope="module")
def module_floor(tmp_path_factory: pytest.TempPathFactory, main_kind: str) -> Iterator[Floor]:
    """One worker with two children for the tests of this module; with Redis as a broker that delivers again soon."""
    with start_server(main_kind) as server, pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("jobs")
        patch.setenv(FOLDER, str(directory / "zombie"))
        broker = Broker(server, directory, patch)
        floor = Floor(broker)
        try:
            floor.start_worker(children=2)
            yield floor
        finally:
            floor.app.kit.close()
            broker.kill()


@pytest.fixture
def floor(module_floor: Floor) -> Iterator[Floor]:
    for name in ("begun", "fenced", "endless", "rows-1", "rows-2"):
        (module_floor.broker.directory / name).unlink(missing_ok=True)
    module_floor.gate = uuid4().hex
    yield module_floor
    module_floor.open_gate()  # what a failed test leaves behind must not hold the worker


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def test_zombie_is_refused_while_its_successor_works(
    floor: Floor, zombie_drill: ZombieDrill, eventually: Callable[..., None]
) -> None:
    result = floor.app.quiet.delay(floor.gate)
    pid = zombie_drill.stop()
    eventually(lambda: is_stopped(pid))
    eventually(lambda: floor.notes("begun") == [1, 2])  # delivered again
    before = floor.bytes_of(result.id)
    assert floor.view(result.id).status == "RUNNING"
    assert zombie_drill.wake() == FENCED
    assert floor.bytes_of(result.id) == before
    floor.open_gate()
    assert result.get(timeout=30) == 2
    done = floor.view(result.id)
    assert (done.status, done.attempt, done.data.rows, done.data.by) == ("SUCCESS", 2, 2, 2)
    assert floor.keys_without_ttl() == []


def test_loop_that_wakes_up_saves_nothing(
    floor: Floor, zombie_drill: ZombieDrill, eventually: Callable[..., None]
) -> None:
    result = floor.app.looping.delay(300, stop_at=150)
    zombie_drill.stop()
    assert result.get(timeout=30) == 300
    before = floor.bytes_of(result.id)
    zombie_drill.wake()
    eventually(lambda: floor.notes("fenced") == [1])
    assert floor.bytes_of(result.id) == before
    assert floor.view(result.id).data.rows == 300
    assert floor.notes("rows-2") == list(range(101, 301))
    assert floor.notes("rows-1") in (list(range(1, 151)), list(range(1, 152)))


@pytest.mark.heavy
def test_worker_that_was_frozen_as_a_whole(
    any_broker: Broker, zombie_drill: ZombieDrill, eventually: Callable[..., None]
) -> None:
    """As a machine that was suspended: the broker gives its worker up, and another worker does the job."""
    any_broker.environment[FOLDER] = str(zombie_drill.folder)
    floor = Floor(any_broker)
    frozen = floor.start_worker()
    result = floor.app.beating.delay(floor.gate)
    pid = zombie_drill.stop()
    os.killpg(frozen.process.pid, signal.SIGSTOP)
    eventually(lambda: is_stopped(pid) and is_stopped(frozen.process.pid))
    try:
        floor.start_worker()
        floor.open_gate()
        assert result.get(timeout=60) == 2
        before = floor.bytes_of(result.id)
    finally:
        os.killpg(frozen.process.pid, signal.SIGCONT)
    assert zombie_drill.wake() == FENCED
    assert floor.bytes_of(result.id) == before
    assert floor.keys_without_ttl() == []
    any_broker.kill()


def test_cancel_reaches_a_running_job_within_one_heartbeat(floor: Floor, eventually: Callable[..., None]) -> None:
    result, beat = floor.app.endless.delay(floor.gate), floor.app.BEAT
    eventually(lambda: floor.notes("endless"))
    floor.await_heartbeat(result.id, eventually)  # the next one is as far away as can be
    assert floor.view(result.id).version == 1  # it writes nothing else, and so has no other way to hear of it
    asked = floor.server_time()
    assert floor.app.kit.jobs.cancel(result.id)
    eventually(lambda: floor.view(result.id).status == "CANCELLED")
    assert floor.view(result.id).ended - asked <= beat + MARGIN
    assert floor.view(result.id).data.rows > 0


def test_killed_job_is_stuck_within_three_heartbeats(floor: Floor, eventually: Callable[..., None]) -> None:
    result, beat = floor.app.endless.delay(floor.gate), floor.app.BEAT
    eventually(lambda: floor.notes("endless"))
    while (view := floor.view(result.id)).started + 4 * beat > floor.server_time():
        assert not view.stuck
    os.kill(floor.notes("endless")[0], signal.SIGKILL)
    killed = floor.server_time()
    eventually(lambda: floor.view(result.id).stuck)
    assert floor.server_time() - killed <= 3 * beat + MARGIN
    view = floor.view(result.id)
    assert (view.status, view.attempt) == ("RUNNING", 1)
    assert view.heartbeat > 3 * beat


def test_drill_without_celery(redis_url: str, zombie_drill: ZombieDrill) -> None:
    kit = WorkerKit(url=redis_url, hooks=[])
    child = Child(lambda: zombie_point(WorkerKit(url=redis_url, hooks=[]).jobs.begin("j", Rows)))
    zombie_drill.stop()
    with kit.jobs.begin("j", Rows) as job:
        job.update(rows=7)
    assert zombie_drill.wake() == FENCED
    assert child.answer() is None
    view = kit.jobs.get("j", Rows)
    assert view is not None
    assert (view.status, view.data.rows, view.version) == ("SUCCESS", 7, 4)
    kit.close()


def test_drill_shows_what_is_not_refused(redis_url: str, zombie_drill: ZombieDrill) -> None:
    child = Child(lambda: zombie_point(WorkerKit(url=redis_url, hooks=[]).jobs.begin("j", Rows)))
    zombie_drill.stop()
    assert zombie_drill.wake() == {**dict.fromkeys(WRITES, ""), "finish": "JobFinished"}
    assert child.answer() is None
