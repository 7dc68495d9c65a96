"""A private RabbitMQ node for tests: on free ports of 127.0.0.1, with an `epmd` of its own, gone with its owner.

A test may kill and restart it; no node that the test did not start is ever touched.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from workerkit.errors import StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_POLL = 0.02  # seconds
_ENDING = 10.0  # seconds that a killed node may take to be gone
_PORTS = range(20000, 32768)  # below what clients connect from: a worker that calls a dead node cannot take its port
_ONLY_HERE = "-kernel inet_dist_use_interface {127,0,0,1}"
_SETTINGS = """
listeners.tcp.1 = 127.0.0.1:{port}
log.console = true
log.file = false
disk_free_limit.absolute = 1MB
"""


def missing_rabbitmq() -> str:
    """Why no RabbitMQ can be started here, and what to install; empty when it can."""
    gone = [name for name in ("rabbitmq-server", "rabbitmqctl", "epmd") if _found(name) is None]
    return f"no {' and no '.join(gone)} on this machine: install Debian's rabbitmq-server" if gone else ""


def start_rabbitmq(directory: Path | None = None) -> RunningRabbitMQ:
    """Start a private node and return when it answers (some 5 s). It ends with `stop()`, its `with` block or with you.

    directory: what it writes is kept there; by default in a temporary one, which is removed with the node.
    Raises StoreUnavailable when RabbitMQ is missing or does not come up.
    """
    if reason := missing_rabbitmq():
        raise StoreUnavailable(reason)
    node = RunningRabbitMQ(directory)
    try:
        node.start()
    except BaseException:
        node.stop()
        raise
    return node


class RunningRabbitMQ:
    """A private node; `start_rabbitmq` makes it."""

    def __init__(self, directory: Path | None = None) -> None:
        self.home = directory or Path(tempfile.mkdtemp(prefix="wk-rabbitmq-"))
        self._temporary = directory is None
        self.port, *others = _free_ports(3)
        self._environment = _environment(self.home, *others)
        (self.home / "rabbitmq.conf").write_text(_SETTINGS.format(port=self.port))
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address with the default virtual host."""
        return self.vhost_url("/")

    def vhost_url(self, vhost: str) -> str:
        """Its address with this virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    @property
    def pid(self) -> int:
        """The node's process id; StoreUnavailable when it does not run."""
        if not self._running():
            raise StoreUnavailable(f"the RabbitMQ in {self.home} is not running")
        return int((self.home / "node.pid").read_text())

    def start(self, timeout: float = 30.0) -> None:
        """Start it (again), on the same address and data; harmless when it runs.

        Raises StoreUnavailable when it does not answer within timeout seconds.
        """
        if self._running():
            return
        self._launch()
        deadline = time.monotonic() + timeout
        while not self._answers():
            ended = not self._running()
            if ended or time.monotonic() >= deadline:
                fate = "ended at once" if ended else "did not answer in time"
                self.kill()
                raise StoreUnavailable(f"the RabbitMQ in {self.home} {fate}; the end of its log:\n{self.log()}")
            time.sleep(_POLL)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; its data stay. Harmless when it does not run."""
        if self._guard is None:
            return
        self._guard.communicate(b"k", timeout=_ENDING)
        self._guard = None

    def restart(self) -> None:
        """Crash it, unless it has crashed already, and start it on the same address and data."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it and remove all it has left; what is in a directory that you named stays."""
        self.kill()
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def ctl(self, *words: str) -> str:
        """What `rabbitmqctl` says to these words (some 0.5 s); StoreRefused when it fails."""
        done = subprocess.run(  # noqa: S603 - RabbitMQ's own program; the words are arguments, no shell
            [str(_found("rabbitmqctl")), "--quiet", *words],
            env=self._environment, cwd=self.home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StoreRefused(f"rabbitmqctl {words[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def add_vhost(self, name: str) -> str:
        """Make a virtual host, whose queues and exchanges nobody else sees; gives its address."""
        self.ctl("add_vhost", name)
        self.ctl("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
        return self.vhost_url(name)

    def queue_length(self, name: str, *, vhost: str = "/") -> int:
        """The messages that wait in the queue, without those that a consumer holds; kombu's error if there is none."""
        from kombu import Connection

        with Connection(self.vhost_url(vhost)) as link:
            channel: Any = link.default_channel  # py-amqp's; the stubs know only what all transports have
            return int(channel.queue_declare(name, passive=True).message_count)

    def log(self, lines: int = 20) -> str:
        """The end of the node's log."""
        return "\n".join((self.home / "node.log").read_text(errors="replace").splitlines()[-lines:])

    def _launch(self) -> None:
        guard = f"{inspect.getsource(_guard)}\n_guard()"
        programs = [str(_found("epmd")), str(_found("rabbitmq-server"))]
        with (self.home / "node.log").open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own program; the paths are arguments, no shell
                [sys.executable, "-I", "-S", "-c", guard, str(self.home) if self._temporary else "", *programs],
                env=self._environment,
                cwd=self.home,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for the tests, not for their broker
            )

    def _running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def _answers(self) -> bool:
        """It greets a client that speaks AMQP 0-9-1: the listener opens last, after all queues are recovered."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as link:
                link.sendall(b"AMQP\x00\x00\x09\x01")
                return link.recv(1) == b"\x01"
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"RunningRabbitMQ('127.0.0.1:{self.port}')"


def _found(name: str) -> Path | None:
    """RabbitMQ's own script or Erlang's program.

    Debian has a wrapper on root's PATH that changes the user and the directories; beside that is the script.
    """
    on_path = shutil.which(name, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))
    if on_path is None:
        return None
    beside = Path(on_path).resolve().with_name(name)
    return beside if os.access(beside, os.X_OK) else Path(on_path)


def _environment(home: Path, node_port: int, epmd_port: int) -> Mapping[str, str]:
    """The node's whole environment, and its tools': nothing of another node on this machine may leak in."""
    return {
        "PATH": os.pathsep.join(os.get_exec_path()),
        "LC_ALL": "C.UTF-8",
        "HOME": str(home),  # where the cookie is made
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_ZFLAGS": f"-start_epmd false {_ONLY_HERE}",  # or an epmd that nobody ends is left behind
        "RABBITMQ_NODENAME": "rabbit@127.0.0.1",
        "RABBITMQ_USE_LONGNAME": "true",
        "RABBITMQ_DIST_PORT": str(node_port),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "no-plugins"),
        "RABBITMQ_PID_FILE": str(home / "node.pid"),
        "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the node, instead of waiting beside it
    }


def _free_ports(number: int) -> list[int]:
    """That many different ports that nobody listens on."""
    free: list[int] = []
    while len(free) < number:
        port = secrets.choice(_PORTS)  # a test's seed must not give two sessions the same
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            free += [port] if port not in free else []
    return free


def _guard() -> None:
    """The whole program of the guard: its source is run by a bare interpreter, with no import of workerkit.

    It is the parent of the node and of its epmd. A byte on its standard input ends both, and so does the end of that
    input, which is the owner's; then the owner cannot clean up any more, and the guard does.
    """
    import os
    import shutil
    import signal
    import socket
    import subprocess
    import sys
    import threading
    import time

    scratch, epmd_program, server_program = sys.argv[1:]
    epmd = subprocess.Popen([epmd_program], stdin=subprocess.DEVNULL)  # noqa: S603 - RunningRabbitMQ found it

    def epmd_listens() -> bool:
        with socket.socket() as link:
            return not link.connect_ex(("127.0.0.1", int(os.environ["ERL_EPMD_PORT"])))

    while epmd.poll() is None and not epmd_listens():
        time.sleep(0.01)
    server = subprocess.Popen([server_program], stdin=subprocess.DEVNULL)  # noqa: S603 - as above
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # after the start: a child would inherit the deaf ear

    orphaned = threading.Event()

    def end_when_told() -> None:
        if not os.read(0, 1):
            orphaned.set()
        server.kill()

    threading.Thread(target=end_when_told, daemon=True).start()
    code = server.wait()
    epmd.kill()
    epmd.wait()
    if orphaned.is_set() and scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(code & 0xFF)
