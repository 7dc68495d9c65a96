"""A fleet of real Celery workers under a supervisor, on servers that are killed too, and who gives the orders."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import redis
from celery import Celery
from kombu import Connection

APPS = Path(__file__).parent / "worker" / "apps"
WORKERS, CHILDREN = 3, 2
BACKLOG = 150  # tasks that wait, or are on their way: what a fleet without kills does in ten seconds
AT_ONCE = 3  # orders that nobody has carried out yet


class Server(Protocol):
    def kill(self) -> None: ...
    def start(self) -> None: ...


class Fleet:
    """Workers that are started again when they end, each in a process group of its own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._over = threading.Event()
        self.starts = 0
        self._keepers = [threading.Thread(target=self._keep, args=[f"w{n}"]) for n in range(WORKERS)]

    def __enter__(self) -> Self:
        for keeper in self._keepers:
            keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for keeper in self._keepers:
            keeper.join()

    def _keep(self, name: str) -> None:
        words = ["-A", "killed", "worker", "-P", "prefork", "-c", str(CHILDREN), "-n", f"{name}@test", "-l", "INFO"]
        environment = {**self._environment, "TEST_ARMED": "1", "TEST_WORKER": name}
        with (self._directory / f"{name}.log").open("ab") as log:
            while not self._over.is_set():
                self.starts += 1
                worker = subprocess.Popen(
                    [sys.executable, "-m", "celery", *words],
                    cwd=APPS, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                while worker.poll() is None and not self._over.wait(0.1):
                    pass
                self._end(worker)

    @staticmethod
    def _end(worker: subprocess.Popen[bytes]) -> None:
        """As systemd does: whatever is left of its group ends with it."""
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        worker.wait()


class Director:
    """Sends tasks, and has processes and servers killed, one after the other in the order that `seed` gives."""

    def __init__(self, url: str, socket: Path, servers: dict[str, Server], seed: int) -> None:
        self._url = url
        self.witness = redis.Redis(unix_socket_path=str(socket))
        self._servers = servers
        self._chance = random.Random(seed)
        self._sender = Celery(broker=url)
        if not self._keeps_books:  # and tells nobody but a publisher who asks for it that a message is safe
            self._sender.conf.broker_transport_options = {"confirm_publish": True}
        self.sent: list[str] = []
        self._app: Any = importlib.import_module("killed")

    @property
    def limit(self) -> tuple[float, int]:
        """In how many seconds how many calls of one key are allowed."""
        return self._app.PERIOD, self._app.LIMIT

    @property
    def parked(self) -> int:
        return int(self._app.kit.waitlist.count())

    @property
    def settled(self) -> bool:
        """Nothing is left to do: all was called, or what was not is neither parked nor in the broker any more."""
        return self.parked == 0 and (self.waiting == 0 or (self._keeps_books and self.in_broker() == 0))

    @property
    def _keeps_books(self) -> bool:
        return not self._url.startswith("amqp")

    @property
    def waiting(self) -> int:
        """What has been sent and not been called, if nothing was lost."""
        return len(self.sent) - int(self.witness.scard("called"))

    @property
    def log(self) -> list[bytes]:
        return self.witness.lrange("log", 0, -1)

    def deal(self, orders: list[tuple[str, str]], tasks: int, pause: float, seconds: float) -> None:
        """Kill all of `orders`, pairs of step and victim, while `tasks` and more are worked on; in so many seconds."""
        until = time.monotonic() + seconds
        self._chance.shuffle(orders)
        for step, victim in orders:
            self._feed()
            if victim == "server":
                self._crash(step)
            else:
                self.witness.rpush(f"orders:{step}", victim)
            time.sleep(self._chance.uniform(0, 2 * pause))
            while self._open_orders() > AT_ONCE and time.monotonic() < until:
                self._feed()
                time.sleep(0.1)
        while (self._open_orders() or len(self.sent) < tasks) and time.monotonic() < until:
            self._feed()
            time.sleep(0.1)

    def _open_orders(self) -> int:
        return sum(self.witness.llen(key) for key in self.witness.keys("orders:*"))

    def _feed(self) -> None:
        lack = BACKLOG - self.waiting
        if lack < 20:
            return
        with self._sender.connection_for_write() as connection:
            for _ in range(lack):
                task, account = f"t{len(self.sent)}", self._chance.randrange(self._app.ACCOUNTS)
                self._sender.send_task("killed.call", (account,), task_id=task, connection=connection)
                self.sent.append(task)

    def _crash(self, name: str) -> None:
        names = ["broker", "guard"] if name == "both" else [name]
        self._note(f"kill:{name}:server")
        for each in names:
            self._servers[each].kill()
        time.sleep(self._chance.uniform(0.2, 2.0))
        for each in names:
            self._servers[each].start()
        self._note("back")

    def _note(self, step: str) -> None:
        seconds, micros = self.witness.time()
        self.witness.rpush("log", f"{seconds * 1_000_000 + micros} {step} - director")

    def in_broker(self) -> int:
        """The messages that a Redis has as a broker, with those that workers hold."""
        with Connection(self._url) as link:
            client: Any = link.default_channel.client  # type: ignore[attr-defined]  # the Redis transport's
            return int(client.llen("celery") + client.hlen("unacked"))


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """The seconds until `condition` began to hold for good, at most so many."""
    began = time.monotonic()
    held = 0
    while held < 5 and time.monotonic() - began < seconds:
        held = held + 1 if condition() else 0
        time.sleep(0.2)
    return time.monotonic() - began
