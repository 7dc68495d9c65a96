"""Throttled tasks whose processes die at named steps: wherever the witness has an order for one of them.

The witness is a Redis that is never killed: it notes every step, by its own clock, and hands out the orders. Nothing
in the product knows of it: what is watched is every call to the guard store, and what the pump publishes.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import redis
from celery import current_task
from setup import app, kit

from workerkit.celery.host import CeleryHost
from workerkit.celery.pump import Pump
from workerkit.errors import StoreError
from workerkit.io.runner import Runner
from workerkit.waitlist.ticket import GENERATION, Ticket
from workerkit.waitlist.waitlist import Entry

VISIBLE = 6  # seconds until Redis as a broker gives out again what a killed worker had
PERIOD, LIMIT, ACCOUNTS = 2.0, 10, 3

app.conf.update(
    # The mutex may be held by whoever is killed, and then nothing is restored for as long.
    broker_transport_options={
        "visibility_timeout": VISIBLE,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 2,
    }
    if app.conf.broker_url.startswith("redis")
    else {},
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
# The margin is for what lies between an admission and the call's arrival, on a machine where workers are booting.
api = kit.limiter("api", f"{LIMIT}/{PERIOD:g}s", margin="250ms")
witness = redis.Redis(unix_socket_path=os.environ["TEST_WITNESS"])
STEP = witness.register_script("""
local now = redis.call('TIME')
local at = now[1] * 1000000 + now[2]
redis.call('RPUSH', 'log', string.format('%.0f %s %s %s', at, ARGV[1], ARGV[2], ARGV[3]))
local victim = redis.call('LPOP', 'orders:' .. ARGV[1])
if string.sub(ARGV[1], 1, 7) == 'called-' then
  redis.call('SADD', 'called', ARGV[2])
end
if victim then
  redis.call('RPUSH', 'log', string.format('%.0f kill:%s:%s %s %s', at, ARGV[1], victim, ARGV[2], ARGV[3]))
end
return victim""")
ARMED = os.environ.get("TEST_ARMED") == "1"


def step(name: str, *tasks: str) -> None:
    """Note that this process has come to `name` with these tasks, and die here if that is the order."""
    if not ARMED:
        return
    victim = STEP(args=[name, ",".join(tasks) or "-", f"{os.environ['TEST_WORKER']}:{os.getpid()}"])
    if victim == b"child":
        os.kill(os.getpid(), signal.SIGKILL)
    elif victim == b"main":  # its children are left behind
        os.kill(os.getppid() if current_task else os.getpid(), signal.SIGKILL)
    elif victim == b"worker":
        os.killpg(0, signal.SIGKILL)


def watched(execute: Any) -> Any:
    def watching(self: Runner, calls: Any, timeout: float | None = None) -> Any:
        names = [call.name for call in calls]
        task = current_task.request.id if current_task else None
        if task and "waitlist.park" in names:
            step("before-park", task)
        try:
            found = execute(self, calls, timeout)
        except StoreError:
            alone()
            raise
        if task and "waitlist.park" in names:
            step("parked", task)
        if task and "waitlist.enter" in names:
            come = "back" if getattr(current_task.request, GENERATION, 0) else "first"
            step("dropped" if found[0].entry is Entry.DROP else f"entered-{come}", task)
        return found

    return watching


def published(publish: Any) -> Any:
    def publishing(self: Pump, producer: Any, turn: Any, *more: Any) -> Any:
        task = Ticket.load(turn.ticket).task_id
        step("claimed", task)
        found = publish(self, producer, turn, *more)
        step("published", task)
        return found

    return publishing


def postponed(publish: Any) -> Any:
    def postponing(self: CeleryHost, ticket: Ticket, *more: Any) -> Any:
        step("postponed", ticket.task_id)
        return publish(self, ticket, *more)

    return postponing


def alone() -> None:
    """End with the test, if somebody has killed that: then its witness is gone, as the other servers are."""
    try:
        witness.ping()
    except redis.ConnectionError:
        os.killpg(0, signal.SIGKILL)


if ARMED:
    Runner._execute = watched(Runner._execute)
    Pump._publish = published(Pump._publish)
    CeleryHost.publish = postponed(CeleryHost.publish)


@app.task(max_retries=0)
@kit.throttle(api, key="{account}")
def call(account: int) -> int:
    """The API that must never be called too often: the witness."""
    step(f"called-{account}", current_task.request.id)
    step("body", current_task.request.id)
    return account
