"""Four processes, each with another client library, under a limiter nobody here wrote: Flask-Limiter's moving window.

The windows are long for the tests' sake: what a machine loses by standing still for a while is then a small part.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import random
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.server.apps.api import CLIENTS
from tests.stalls import Stalls
from workerkit.api.engine import Engine
from workerkit.api.limiter import Limiter
from workerkit.api.settings import load
from workerkit.core.events import Hooks

pytestmark = pytest.mark.heavy
FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def referee(limit, *options):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.server.apps.referee", limit, *options], stdout=subprocess.PIPE
    ) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


def drive(stalled, kind, url, redis_url, rate, end, think):
    """Send one request after another until `end`."""
    stalls = Stalls()
    stalls.start()
    engine = Engine(lambda: load({"redis_url": redis_url}), Hooks())
    client = kind(Limiter(engine, "api", rate), wait="200s")
    while time.time() < end:
        client.get(f"{url}?who={kind.__name__}")
        time.sleep(random.uniform(0, think))
    stalled.put(stalls.longest)
    client.close()


def fleet(url, redis_url, rate, seconds, think=0.0):
    """Drive it from four processes; answers what the referee saw, and for how long anybody was kept from running."""
    stalled = FORK.Queue()
    args = (url, redis_url, rate, time.time() + seconds, think)
    processes = [FORK.Process(target=drive, args=(stalled, kind, *args), daemon=True) for kind in CLIENTS]
    for process in processes:
        process.start()
    stalls = [stalled.get(timeout=seconds + 100) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    with urllib.request.urlopen(url + "judged") as answer:
        judged = json.load(answer)
    return judged["seen"], sum(stalls) + judged["stall"]


def used(seen, limit, start, seconds, period):
    """The share of the limit that was let in, from `start` for so many seconds."""
    return sum(start <= at < start + seconds for at, status, _ in seen if status == 200) / (limit * seconds / period)


def test_nothing_is_rejected_at_95_percent_of_the_limit(redis_url):
    with referee("1000 per 10 second") as url:
        seen, stalled = fleet(url, redis_url, "1000/10s", 45)
    share = used(seen, 1000, seen[0][0], 40, 10)
    rejected = sum(status != 200 for _, status, _ in seen)
    print(f"\n{len(seen)} requests, {rejected} rejected, {share:.1%} of the limit; stalled for {stalled:.2f} s")
    assert {who for _, _, who in seen} == {kind.__name__ for kind in CLIENTS}
    assert rejected == 0
    assert share >= 0.95 - stalled / 40


def test_a_limit_set_too_high_is_found_out_by_its_first_rejection(redis_url):
    with referee("200 per 4 second", "silent") as url:
        seen, stalled = fleet(url, redis_url, "400/4s", 48, think=0.05)
    rejections = [at for at, status, _ in seen if status == 429]
    after = [at for at, _, _ in seen if at >= rejections[0]]
    gap, late = next((later - at, n) for n, (at, later) in enumerate(itertools.pairwise(after)) if later - at > 0.5)
    settled = min(at for at, _, _ in seen if at > rejections[-1])
    seconds = (seen[-1][0] - settled) // 4 * 4
    share = used(seen, 200, settled, seconds, 4)
    print(
        f"\n{len(rejections)} of {len(seen)} rejected, the last after {rejections[-1] - seen[0][0]:.1f} s; after the "
        f"first {late} more requests came, within {1000 * (after[late] - after[0]):.1f} ms, then none for {gap:.2f} s; "
        f"{share:.1%} of the limit in the last {seconds:.0f} s; stalled for {stalled:.2f} s"
    )
    assert late < len(CLIENTS)  # what was under way; nobody asks again
    assert len(rejections) <= 4 * len(CLIENTS)
    assert seconds >= 16
    assert 0.5 - stalled / seconds <= share < 1.0
