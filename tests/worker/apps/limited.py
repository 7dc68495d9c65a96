"""Tasks under soft time limits, in the middle of calls to Redis."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

from billiard.pool import soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded
from setup import app, kit

from workerkit.core.call import Call, as_is
from workerkit.io.interrupts import SHIELD, Deferring

KEYS = 100


def right(key: str) -> bool:
    """Whether the value of this key is its own."""
    value: bytes = kit.engine.runner.call(Call("get", "cache", as_is, args=("GET", key)))
    return value == key.encode()


def state() -> dict[str, Any]:
    pool = kit.engine.runner.pools["cache"]
    installed = signal.getsignal(signal.SIGUSR1)
    return {
        "in_use": pool.in_use,
        "size": pool.size,
        "depth": SHIELD.depth,
        "billiards": isinstance(installed, Deferring) and installed.original is soft_timeout_sighandler,
        "pid": os.getpid(),
    }


class Sniper(threading.Thread):
    """A second thread of the pool's child, and the source of SIGUSR1s: each waits until the last one came through."""

    def __init__(self, seed: int) -> None:
        super().__init__(daemon=True)
        self.chance = random.Random(seed)
        self.over = False
        self.sent = self.delivered = self.swallowed = 0

    def run(self) -> None:
        while not self.over:
            time.sleep(self.chance.uniform(0, 1e-3))
            self.sent += 1
            os.kill(os.getpid(), signal.SIGUSR1)
            patience = time.monotonic() + 10.0  # more than a machine stalls
            while self.delivered + self.swallowed < self.sent and not self.over:
                if time.monotonic() > patience:
                    self.swallowed += 1
                time.sleep(1e-4)


@app.task
def storm(interrupts: int, seed: int) -> dict[str, Any]:
    """Calls under fire; every interrupt is raised by billiard's own handler."""
    chance = random.Random(seed)
    over = threading.Event()
    counts = {"calls": 0, "wrong": 0}

    def beside() -> None:
        while not over.is_set():
            counts["wrong"] += not right("key:7")

    sniper, caller = Sniper(seed), threading.Thread(target=beside)
    right("key:0")
    caller.start()
    sniper.start()
    while not sniper.over:
        try:
            while sniper.delivered < interrupts:
                counts["calls"] += 1
                counts["wrong"] += not right(f"key:{chance.randrange(KEYS)}")
            sniper.over = True
        except SoftTimeLimitExceeded:
            sniper.delivered += 1
    sniper.join()
    over.set()
    caller.join()
    return {**counts, **state(), "delivered": sniper.delivered, "swallowed": sniper.swallowed}


@app.task(soft_time_limit=1)
def overrun() -> dict[str, Any]:
    """Calls for ever; the soft time limit must end them."""
    calls = wrong = 0
    began = time.monotonic()
    try:
        while time.monotonic() < began + 10:
            calls += 1
            wrong += not right(f"key:{calls % KEYS}")
    except SoftTimeLimitExceeded:
        took = time.monotonic() - began
        wrong += sum(not right(f"key:{number}") for number in range(KEYS))
        return {**state(), "calls": calls, "wrong": wrong, "took": took}
    return {"calls": calls, "took": 10}


@app.task(soft_time_limit=1)
def overrun_for_good() -> None:
    """As most tasks are: nobody catches it."""
    number = 0
    while True:
        number += 1
        right(f"key:{number % KEYS}")


@app.task
def checked() -> dict[str, Any]:
    """What a later task of the same child finds."""
    return {**state(), "wrong": sum(not right(f"key:{number}") for number in range(KEYS))}
