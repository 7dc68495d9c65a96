"""The nodes themselves: their verbs, what goes from test to test, and pytest-celery's own ways with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from pytest_celery import CeleryWorkerContainer, RedisContainer

from tests.nodes import app as project
from tests.nodes.conftest import queued
from workerkit.errors import StoreUnavailable
from workerkit.testing.nodes.process import number_of
from workerkit.testing.nodes.servers import RedisProcess
from workerkit.testing.nodes.shared import Shared
from workerkit.testing.nodes.worker import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_celery import CeleryTestSetup

ROOT = Path(__file__).parents[2]
CONFTEST = 'pytest_plugins = ["workerkit.testing.nodes"]\n'
on_threads = pytest.mark.parametrize("pool", ["threads"], indirect=True, scope="session")


@pytest.fixture
def worker(celery_setup: CeleryTestSetup) -> Any:
    return celery_setup.worker.container


@on_threads
def test_pytest_celery_finds_everything_ready(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=False, control=True, docker=True)
    assert celery_setup.worker.hostname() in celery_setup.worker.logs()
    assert {each["pid"] for each in celery_setup.worker.get_running_processes_info(["pid"])} == {
        celery_setup.worker.container.pid
    }
    assert (
        celery_setup.worker.container.exec_run("echo $CELERY_BROKER_URL")[1].decode().strip()
        == (celery_setup.broker.config()["url"])
    )


@on_threads
def test_a_worker_with_something_left_to_do_is_not_lent_again(worker: Any, eventually: Callable[..., None]) -> None:
    assert worker.recover()
    project.place.apply_async(countdown=3600)
    eventually(lambda: queued(project.app) == 0)
    eventually(lambda: not worker.recover())


@on_threads
def test_a_signal_goes_to_the_worker_itself(worker: Any, eventually: Callable[..., None]) -> None:
    pid = worker.pid
    worker.kill("SIGTERM")
    eventually(lambda: worker.status == "exited")
    assert "Warm shutdown" in worker.logs()
    with pytest.raises(StoreUnavailable, match="does not run"):
        worker.ready()
    assert not worker.recover()
    worker.kill()  # harmless
    worker.restart()
    assert worker.pid != pid


@on_threads
def test_fresh_nodes_are_nobody_elses(fresh_nodes: None, celery_setup: CeleryTestSetup, request: Any) -> None:
    shared: Shared = request.getfixturevalue("_shared_nodes")
    containers = {node.container for node in (celery_setup.broker, celery_setup.backend, celery_setup.worker)}
    assert containers == {node for _, node in shared._lent}
    assert containers.isdisjoint(node for _, node in shared._free)


class Small(RedisContainer):
    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        return super().command("--maxmemory", "10mb", *args)


class Named(CeleryWorkerContainer):
    @classmethod
    def worker_name(cls) -> str:
        return "named"


def test_container_classes_of_ones_own_go_for_processes() -> None:
    kind = RedisProcess.under(Small)
    assert issubclass(kind, Small)
    assert RedisProcess.under(RedisContainer) is RedisProcess
    assert WorkerProcess.under(Named).worker_name() == "named"
    node = kind("small", Small.command())
    try:
        assert node.ready()
        assert node.client.config_get("maxmemory") == {"maxmemory": str(10 * 2**20)}
        node.client.sadd("_kombu.binding.q", "q")
        node.client.set("old", 1)
        node.kill()
        assert node.status == "exited"
        node.restart()
        node.client.sadd("_kombu.binding.q", "q")
        node.client.set("old", 1)
        assert node.recover()
        assert node.client.keys() == ["_kombu.binding.q"]
    finally:
        node.remove()
    assert not node.folder.exists()


def test_nodes_are_lent_to_one_test_at_a_time(tmp_path: Path) -> None:
    class Node:
        url, broker = "redis://one", "redis://one"
        ended = False
        fit = True

        def ready(self) -> bool:
            return True

        def recover(self) -> bool:
            return self.fit

        def remove(self) -> None:
            self.ended = True

    shared = Shared(tmp_path)
    lend: Any = shared.lend
    first, second = lend("a", Node, fresh=False), lend("a", Node, fresh=False)
    assert first is not second
    shared.take_back(first, fresh=False)
    assert lend("b", Node, fresh=False) is not first
    assert lend("a", Node, fresh=True) is not first
    assert lend("a", Node, fresh=False) is first
    first.fit = False
    shared.take_back(first, fresh=False)
    assert lend("a", Node, fresh=False) is not first
    assert first.ended
    shared.take_back(second, fresh=True)
    assert second.ended


@pytest.mark.parametrize(("given", "number"), [(None, 9), ("SIGTERM", 15), ("TERM", 15), ("15", 15), (2, 2)])
def test_signals_are_written_as_for_docker(given: str | int | None, number: int) -> None:
    assert number_of(given) == number


def collected(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text("def test_it(celery_setup): ...\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--fixtures", "-v"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_docker_s_nodes_are_pytest_celery_s_own(tmp_path: Path) -> None:
    """Only the switch is seen here: no container is started."""
    for nodes, ours in {"process": True, "docker": False}.items():
        said = collected(tmp_path, WORKERKIT_NODES=nodes).stdout
        assert ("workerkit/testing/nodes/processes.py" in said) == ours
        assert "celery_embedded_worker" in said
        assert "celery_project" in said
    wrong = collected(tmp_path, WORKERKIT_NODES="podman")
    assert wrong.returncode != 0
    assert "write process (the default) or docker" in wrong.stderr + wrong.stdout


OWNER = """
import sys, time
from pathlib import Path
from workerkit.testing.nodes.worker import WorkerProcess
node = WorkerProcess("worker", ["python", "-c", "print('ready.', flush=True); import time; time.sleep(600)"], {}, {},
                     Path(sys.argv[1]))
node.ready()
print(node.pid, flush=True)
time.sleep(600)
"""


def test_a_worker_ends_with_its_owner(tmp_path: Path, eventually: Callable[..., None]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as owner:  # fmt: skip
        worker = psutil.Process(int(owner.stdout.readline()))
        assert worker.is_running()
        owner.kill()
    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    node = WorkerProcess("worker", ["python", "-c", "raise SystemExit('no such app')"], {}, {}, tmp_path)
    with pytest.raises(StoreUnavailable, match="no such app"):
        node.ready()
    node.remove()


@pytest.fixture(scope="session")
def celery_includes() -> Iterator[str]:
    return iter(())


def test_celery_s_own_worker_is_still_there(celery_app: Any, celery_embedded_worker: Any) -> None:
    assert celery_embedded_worker.app is celery_app
