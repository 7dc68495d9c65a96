"""What a soft time limit does to a client of Redis: plain redis-py and workerkit, hit in the middle of their GETs.

The handlers raise, as billiard's does for Celery's `soft_time_limit`. Half of the interrupts come from a timer
(SIGALRM), half as SIGUSR1 from a second thread of the same process; a third thread shares the client. Every value
names its key, so a reply that belongs to another call shows itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workerkit.testing.servers import RunningServer

HUNG = 75
PATIENCE = 3.0  # seconds without a single call, after which a thread hangs
POOL = 20
KEYS = 100
CLIENTS = {"plain": "redis-py", "workerkit": "workerkit"}
PAUSE = 2e-3  # seconds between two interrupts, on average: time enough for a connection that is off by one to do harm
ROWS = {
    "calls": "calls",
    "interrupts": "interrupts",
    "in_call": "... due in the middle of a call",
    "delivered": "... seen by the caller",
    "swallowed": "swallowed interrupts",
    "wrong": "wrong replies",
    "broken": "other errors",
    "leaked": "leaked connections",
    "exhausted": "pools emptied for good",
    "opened": "connections opened",
    "most_connections": "most connections at once",
    "crashed": "processes that crashed (SIGSEGV)",
    "hung": "processes that hung for ever",
    "seconds": "seconds",
}


class SoftLimit(Exception):
    """What the handlers raise."""


class Plain:
    """redis-py with an ordinary pool; a new one whenever it is empty for good, as restarting the worker would do."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.exhausted = self._most = 0
        self._open()

    def _open(self) -> None:
        import redis

        self._exhausted: type[Exception] = redis.exceptions.MaxConnectionsError
        self._pool = redis.ConnectionPool.from_url(self._url, max_connections=POOL, protocol=3, socket_timeout=1.0)
        self._client = redis.Redis(connection_pool=self._pool)

    def get(self, key: str) -> Any:
        client = self._client
        try:
            return client.get(key)
        except self._exhausted:
            if client is self._client:  # else the other thread was here first
                self.exhausted += 1
                self._open()
            raise

    def in_call(self, frame: FrameType | None) -> bool:
        while frame and frame.f_code is not Plain.get.__code__:
            frame = frame.f_back
        return frame is not None

    def most(self) -> int:
        self._most = max(self._most, self._pool._created_connections)  # noqa: SLF001 - redis-py has no public count
        return self._most

    def leaked(self) -> int:
        return POOL * self.exhausted + len(self._pool._in_use_connections)  # noqa: SLF001 - redis-py has no public count


class WorkerKit:
    """workerkit's sync runner."""

    exhausted = 0

    def __init__(self, url: str) -> None:
        from workerkit.core.call import Call, as_is
        from workerkit.core.events import Hooks
        from workerkit.io.address import parse_address
        from workerkit.io.runner import Runner
        from workerkit.io.server import PoolOptions, Server

        options = PoolOptions(maximum=POOL)
        server = Server("redis", parse_address(url, what="redis_url"), options=options, hooks=Hooks())
        self._runner = Runner({"cache": server}, 1.0)
        self._call: Callable[[str], Call[Any]] = lambda key: Call("get", "cache", as_is, args=("GET", key))
        self._most = 0

    def get(self, key: str) -> Any:
        return self._runner.call(self._call(key))

    def in_call(self, frame: FrameType | None) -> bool:
        return frame is None  # what a deferred handler gets

    def most(self) -> int:
        self._most = max(self._most, self._runner.pools["cache"].size)
        return self._most

    def leaked(self) -> int:
        return self._runner.pools["cache"].in_use


class Storm:
    """Interrupts one client `wanted` times, and counts what becomes of its calls."""

    def __init__(self, client: Plain | WorkerKit, wanted: int, chance: random.Random) -> None:
        self._client = client
        self._wanted = wanted
        self._chance = chance
        self._over = threading.Event()
        self._between = False
        self._tally: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()

    def run(self) -> None:
        for signum in (signal.SIGALRM, signal.SIGUSR1):
            signal.signal(signum, self._interrupt)
        threads = [threading.Thread(target=target) for target in (self._snipe, self._call_beside)]
        for thread in (*threads, threading.Thread(target=self._watch, daemon=True)):
            thread.start()
        self._shielded(self._call_under_fire)
        self._over.set()
        for thread in threads:
            self._shielded(thread.join)
        self._report(self._client.leaked())

    def _report(self, leaked: int) -> None:
        """Print the counts so far; the last line of a process that crashed is what is known of it."""
        tally = self._tally + self._beside
        tally["swallowed"] = tally["interrupts"] - tally["delivered"]
        tally["leaked"] = leaked
        tally["exhausted"] = self._client.exhausted
        tally["most_connections"] = self._client.most()
        print(json.dumps({row: tally[row] for row in ROWS}), flush=True)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._over.is_set():
            return
        in_call = self._client.in_call(frame)
        # Nothing is called from here on: a second one that struck now would take this one's place.
        self._tally["interrupts"] += 1
        if self._between:
            self._tally["delivered"] += 1
            return
        self._tally["in_call"] += in_call
        raise SoftLimit

    def _shielded(self, step: Callable[[], object]) -> None:
        """Run `step` to its end although the last interrupts may strike between any two calls."""
        while True:
            try:
                self._between = False
                step()
                return
            except SoftLimit:
                self._between = True  # first: on the way back to the try nothing would catch a second one
                self._tally["delivered"] += 1

    def _call_under_fire(self) -> None:
        """The main thread: calls, until enough interrupts came back out of them."""
        while self._tally["interrupts"] < self._wanted:
            if self._tally["interrupts"] < self._wanted // 2:
                signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(0, 2 * PAUSE))
            self._check(f"key:{self._chance.randrange(KEYS)}", self._tally)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _snipe(self) -> None:
        """A second thread that is alive, and the source of the SIGUSR1s."""
        chance = random.Random(self._chance.random())
        while not self._over.is_set():
            struck = self._tally["interrupts"]
            if struck % 10 == 0:
                self._report(POOL * self._client.exhausted)
            if struck >= self._wanted // 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            while self._tally["interrupts"] == struck and not self._over.is_set():
                time.sleep(1e-4)  # one at a time: a handler that interrupts a handler would hide it from the count
            time.sleep(chance.uniform(0, 2 * PAUSE))

    def _call_beside(self) -> None:
        """A third thread, with calls of its own on the same client."""
        chance = random.Random(self._chance.random())
        while not self._over.is_set():
            self._check(f"key:{chance.randrange(KEYS)}", self._beside)
            self._client.most()

    def _watch(self) -> None:
        """End a process of which a thread gets no further: an interrupt left a lock behind."""
        before = (-1, -1)
        while (now := (self._tally["calls"], self._beside["calls"])) and now[0] > before[0] and now[1] > before[1]:
            before = now
            time.sleep(PATIENCE)
        os._exit(HUNG)

    def _check(self, key: str, tally: Counter[str]) -> None:
        tally["calls"] += 1
        try:
            tally["wrong"] += self._client.get(key) != key.encode()
        except SoftLimit:
            tally["delivered"] += 1
        except Exception:  # noqa: BLE001 - whatever an interrupt left behind is counted
            tally["broken"] += 1


def storm(client: str, url: str, wanted: int, seed: int) -> None:
    """One client under fire, in this process; prints the counts again and again."""
    made = Plain(url) if client == "plain" else WorkerKit(url)
    made.get("key:0")  # an interrupt in the middle of a first import is another story
    Storm(made, wanted, random.Random(seed)).run()


def measure(client: str, server: RunningServer, wanted: int, seed: int) -> dict[str, float]:
    """One client under fire in a process of its own, and in another one where that crashes."""
    total: Counter[str] = Counter()
    most = 0
    began = time.perf_counter()
    opened = connections(server)
    while total["interrupts"] < wanted:
        arguments = ["--client", client, "--url", server.url, "--interrupts", str(wanted - total["interrupts"])]
        arguments += ["--seed", str(seed + total["crashed"] + total["hung"])]
        done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, check=False)
        if done.returncode not in {0, HUNG, -signal.SIGSEGV}:
            sys.exit(f"{done.stderr.decode()}\n{CLIENTS[client]}: exit code {done.returncode}")
        counts = Counter(json.loads(done.stdout.splitlines()[-1]))
        most = max(most, counts.pop("most_connections"))
        total += counts
        total["crashed"] += done.returncode == -signal.SIGSEGV
        total["hung"] += done.returncode == HUNG
    total["most_connections"] = most
    total["opened"] = connections(server) - opened - 1
    return {**{row: total[row] for row in ROWS}, "seconds": round(time.perf_counter() - began, 1)}


def connections(server: RunningServer) -> int:
    """How many the server has taken so far; asking costs one."""
    stats = str(server.cli("INFO", "stats"))
    return int(stats.partition("total_connections_received:")[2].split()[0])


def run(interrupts: int, seed: int) -> dict[str, dict[str, float]]:
    """Every client under fire, one after the other, on a private server; what was counted, by client."""
    from workerkit.testing.servers import start_server

    with start_server("valkey", tcp=True) as server:  # by TCP, as most are: redis-py's checks differ on a unix socket
        for number in range(KEYS):
            server.cli("SET", f"key:{number}", f"key:{number}")
        return {client: measure(client, server, interrupts, seed) for client in CLIENTS}


def show(counted: dict[str, dict[str, float]], seed: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Soft time limits in the middle of GETs: RESP3, pools of 20", caption=f"seed {seed}")
    table.add_column("")
    for title in CLIENTS.values():
        table.add_column(title, justify="right")
    for row, label in ROWS.items():
        table.add_row(label, *(f"{counted[client][row]:,}" for client in CLIENTS))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench interrupts", description=__doc__.splitlines()[0])
    parser.add_argument("--interrupts", type=int, default=3000, help="for each client (default 3000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts to FILE")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        storm(arguments.client, arguments.url, arguments.interrupts, arguments.seed)
        return
    counted = run(arguments.interrupts, arguments.seed)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, **counted}, indent=2) + "\n")
    show(counted, arguments.seed)


if __name__ == "__main__":
    main()
