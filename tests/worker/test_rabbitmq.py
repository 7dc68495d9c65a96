"""The private RabbitMQ node of the tests: durable over a crash, and gone with its owner; Celery on it in every pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from amqp.exceptions import NotFound
from kombu import Connection, Exchange, Queue

from workerkit.errors import StoreRefused, StoreUnavailable
from workerkit.testing import rabbitmq
from workerkit.testing.rabbitmq import RunningRabbitMQ, missing_rabbitmq, start_rabbitmq

if TYPE_CHECKING:
    from collections.abc import Callable

# Each test imports the app anew for a server of its own; Celery remembers the tasks of those before.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")

OWNER = """
import sys
from workerkit.testing.rabbitmq import start_rabbitmq
node = start_rabbitmq()
print(node.home, flush=True)
sys.stdin.read()
"""


def processes_of(home: Path | str) -> list[psutil.Process]:
    """Everything the node has started, down to epmd and Erlang's helpers, by the home in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home):
                found.append(process)
        except psutil.Error:
            pass
    return found


def publish(url: str, text: str, queue: str = "kept") -> None:
    """A persistent message in a durable queue, confirmed by the broker."""
    with Connection(url, transport_options={"confirm_publish": True}) as link:
        where = Queue(queue, Exchange(queue, durable=True), routing_key=queue, durable=True)
        link.Producer().publish(
            text, exchange=where.exchange, routing_key=queue, declare=[where], delivery_mode="persistent"
        )


def take(url: str, queue: str = "kept") -> Any:
    with Connection(url) as link, link.SimpleQueue(Queue(queue, no_declare=True)) as messages:
        message = messages.get(timeout=10)
        message.ack()
        return message.payload


@pytest.mark.heavy
def test_message_survives_a_crash(fresh_rabbit: RunningRabbitMQ) -> None:
    publish(fresh_rabbit.url, "first")
    publish(fresh_rabbit.add_vhost("other"), "second")
    fresh_rabbit.kill()
    with pytest.raises(ConnectionRefusedError):
        Connection(fresh_rabbit.url).ensure_connection(max_retries=1, reraise_as_library_errors=False)
    fresh_rabbit.restart()  # nothing is left to kill
    running = processes_of(fresh_rabbit.home)
    fresh_rabbit.start()  # and it runs already
    assert processes_of(fresh_rabbit.home) == running
    assert fresh_rabbit.queue_length("kept") == 1
    assert take(fresh_rabbit.url) == "first"
    assert fresh_rabbit.queue_length("kept") == 0
    assert take(fresh_rabbit.vhost_url("other")) == "second"


@pytest.mark.heavy
def test_stop_leaves_nothing_and_no_other_node_is_touched(
    rabbit: RunningRabbitMQ, eventually: Callable[..., None]
) -> None:
    before = processes_of(rabbit.home)
    with start_rabbitmq() as node:
        assert {"epmd", "beam.smp"} <= {process.name() for process in processes_of(node.home)}
        publish(node.url, "here", queue="beside")
        assert "beside" in node.ctl("list_queues")
        assert "beside" not in rabbit.ctl("list_queues")
        with pytest.raises(NotFound):
            rabbit.queue_length("beside")
    eventually(lambda: not processes_of(node.home))
    assert not node.home.exists()
    assert set(before) <= set(processes_of(rabbit.home))


@pytest.mark.heavy
def test_it_ends_with_its_owner(eventually: Callable[..., None], require: Callable[..., None]) -> None:
    require("rabbitmq")
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as owner:  # fmt: skip
        home = Path(owner.stdout.readline().strip())
        assert processes_of(home)
        owner.kill()
    eventually(lambda: not processes_of(home) and not home.exists())


@pytest.mark.heavy
def test_named_directory_keeps_its_messages(tmp_path: Path, require: Callable[..., None]) -> None:
    require("rabbitmq")
    with start_rabbitmq(tmp_path) as node:
        publish(node.url, "kept")
    with start_rabbitmq(tmp_path) as node:
        assert take(node.url) == "kept"


def test_it_listens_nowhere_else(rabbit: RunningRabbitMQ) -> None:
    listening = [
        link.laddr.ip
        for process in processes_of(rabbit.home)
        for link in process.net_connections()
        if link.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3  # clients, other nodes, epmd
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_ctl_tells_what_went_wrong(rabbit: RunningRabbitMQ) -> None:
    with pytest.raises(StoreRefused, match="delete_vhost"):
        rabbit.ctl("delete_vhost", "nobody")


def test_node_that_cannot_start_says_why(tmp_path: Path, require: Callable[..., None]) -> None:
    require("rabbitmq")
    node = RunningRabbitMQ(tmp_path)
    (tmp_path / "rabbitmq.conf").write_text("nonsense\n")
    with pytest.raises(StoreUnavailable, match=r"ended at once(.|\n)*failed_to_parse_configuration"):
        node.start()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "_found", lambda name: None if name == "epmd" else Path(name))
    assert missing_rabbitmq() == "no epmd on this machine: install Debian's rabbitmq-server"
    with pytest.raises(StoreUnavailable, match="no epmd"):
        start_rabbitmq()


def test_missing_node_skips_unless_servers_are_required(
    monkeypatch: pytest.MonkeyPatch, require: Callable[..., None]
) -> None:
    monkeypatch.setattr(rabbitmq, "_found", lambda name: None)
    monkeypatch.delenv("WORKERKIT_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="rabbitmq-server"):
        require("rabbitmq")
    monkeypatch.setenv("WORKERKIT_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="rabbitmq-server"):
        require("rabbitmq")


@pytest.mark.parametrize("turn", [1, 2])
def test_no_test_sees_the_messages_of_another(any_broker: Any, turn: int) -> None:
    app = any_broker.load("plain")
    assert any_broker.queued() == 0
    app.place.delay()
    assert any_broker.queued() == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_every_pool_on_every_broker(any_broker: Any, pool: str, eventually: Callable[..., None]) -> None:
    app = any_broker.load("plain")
    waiting = app.place.delay()
    any_broker.worker("plain", pool=pool)
    found = waiting.get(timeout=20)
    assert found["patched"] == (pool == "gevent"), json.dumps(found)
    assert found["process"].startswith("ForkPoolWorker") == (pool == "prefork")
    assert found["thread"].startswith("ThreadPoolExecutor") == (pool == "threads")
    eventually(lambda: any_broker.queued() == 0)
