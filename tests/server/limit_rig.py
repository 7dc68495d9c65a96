"""What the tests of limiters on real servers share: engines, forked processes, the server's view of things."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter

from workerkit.api.engine import Engine
from workerkit.api.settings import load
from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks

FORK = multiprocessing.get_context("fork")
PATIENCE = 60.0  # seconds, for what must happen though the machine is slow


def make_engine(url, *hooks, **settings):
    """An engine of the test's own; its calls may take long, as a stalled machine is no server that is down."""
    return Engine(lambda: load({"redis_url": url, "timeout": 10.0, **settings}), Hooks(*hooks))


def command(engine, *words):
    return engine.runner.call(Call("command", "guard", as_is, args=words))


def server_us(engine):
    """The server's time, in us."""
    seconds, us = command(engine, "TIME")
    return int(seconds) * 1_000_000 + int(us)


def leases(limiter, key=""):
    """The name of the set of a key's leases."""
    return limiter.policy._leases(limiter.keys, limiter.part(key))


def decide(limiter, key=""):
    """One `try_acquire` with the server's time of it: the Answer."""
    call = limiter.policy.acquire(limiter.keys, limiter.part(key), limiter.definition.ones)
    call.parse = limiter.policy._answer
    return limiter.engine.runner.call(call)


def until(condition, seconds=PATIENCE):
    """Poll; answers what it came to. Fails when it takes longer than `seconds`."""
    start = time.monotonic()
    while not (answer := condition()):
        assert time.monotonic() - start < seconds, "it never came"
        time.sleep(0.005)
    return answer


def in_processes(count, work, *args):
    """Run `work(queue, number, *args)` in forked processes; answers what they put (one thing each)."""
    queue = FORK.Queue()
    processes = [FORK.Process(target=work, args=(queue, number, *args), daemon=True) for number in range(count)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=2 * PATIENCE) for _ in processes]
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return answers


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


def most_in_any(stamps, period):
    """The largest number of stamps in any half-open window [t, t + period)."""
    stamps, most, old = sorted(stamps), 0, 0
    for number, at in enumerate(stamps):
        while stamps[old] + period <= at:
            old += 1
        most = max(most, number - old + 1)
    return most


def largest_burst(stamps, spacing):
    """The smallest b for which no stretch of t us holds more than b + t / spacing of the stamps."""
    stamps = sorted(stamps)
    worst, level, last = 0.0, 0.0, stamps[0]
    for at in stamps:
        # A bucket that leaks one a spacing, and gets one a stamp: its highest level is the burst.
        level = 1 + max(0.0, level - (at - last) / spacing)
        worst, last = max(worst, level), at
    return worst


def used(stamps, period, limit):
    """How much of the limit was used in the whole periods that the stamps span."""
    stamps = sorted(stamps)
    periods = (stamps[-1] - stamps[0]) // period
    return sum(at < stamps[0] + periods * period for at in stamps) / (periods * limit)


def listen(limiter):
    """Have every answer of `limiter`'s noted: the list of them."""
    answers, parse = [], limiter.policy._answer

    def note(reply):
        answers.append(parse(reply))
        return answers[-1]

    limiter.policy._answer = note
    return answers


def listen_to_calls(limiter):
    """Have the Calls of `limiter`'s engine counted, by name: the counts."""
    calls, runner = Counter(), limiter.engine.runner
    run = runner.call

    def count(call, timeout=None):
        calls[call.name] += 1
        return run(call, timeout)

    runner.call = count
    return calls
