"""The demo's API under callers who do not care about its limit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.demo.referee import judge
from workerkit.demo.upstream import Limit

COMMAND = [sys.executable, "-m", "workerkit.demo.upstream", "--log"]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "arrivals.jsonl"


@pytest.fixture
def api(log):
    with subprocess.Popen([*COMMAND, str(log)], stdout=subprocess.PIPE) as process:
        process.port = json.loads(process.stdout.readline())["port"]
        yield process
        process.kill()


async def ask(reader, writer, path, method="GET", extra=""):
    """Send one request on a kept connection; returns (status, headers, body)."""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
    return await answer(reader)


async def answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers["Content-Length"]))
    return int(status.split()[1]), headers, json.loads(body)


def conversation(port, *requests):
    """The answers to requests (path, or (path, options)) sent one after the other on one connection."""

    async def talk():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = [await ask(reader, writer, *request) for request in requests]
        writer.close()
        return answers

    return asyncio.run(talk())


def test_a_connection_is_kept_and_the_answer_depends_on_the_name_only(api):
    (first, _, one), (_, _, two), (_, _, again) = conversation(
        api.port, ("/lookup/a",), ("/lookup/%C3%A9",), ("/lookup/a",)
    )
    assert first == 200
    assert one["name"] == "a"
    assert two["name"] == "é"
    assert one == again
    assert one["value"] != two["value"]


def test_the_limit_holds_exactly_under_a_burst(api, log):
    counts: Counter[int] = Counter()

    async def hammer(name):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        answers = []
        while counts[200] < 75:  # the burst must outlast a window
            answers.append(await ask(reader, writer, f"/lookup/{name}"))
            counts[answers[-1][0]] += 1
        writer.close()
        return answers

    async def burst():
        return await asyncio.gather(*(hammer(name) for name in range(20)))

    answers = [each for some in asyncio.run(burst()) for each in some]
    lines = log.read_text().splitlines()
    accepted = [line for line in lines if json.loads(line)["status"] == 200]
    verdict = judge(accepted)

    assert Counter(status for status, _, _ in answers) == Counter(json.loads(line)["status"] for line in lines)
    assert verdict.max_concurrent == 5
    assert verdict.max_in_any_second <= 50
    assert verdict.violations == 0
    refused = [(headers, body) for status, headers, body in answers if status == 429]
    assert len(refused) == judge(lines).rejected > 0
    assert all(headers["Retry-After"] == "1" and 0 < body["retry_after"] <= 1 for headers, body in refused)


def test_the_rate_binds_where_the_concurrency_does_not(log):
    with subprocess.Popen([*COMMAND, str(log), "--rate", "10", "--latency", "0"], stdout=subprocess.PIPE) as api:
        port = json.loads(api.stdout.readline())["port"]
        answers = conversation(port, *[("/lookup/a",)] * 30)
        api.terminate()
    verdict = judge([line for line in log.read_text().splitlines() if json.loads(line)["status"] == 200], rate=10)
    assert verdict.max_in_any_second == 10
    assert verdict.violations == 0
    assert Counter(status for status, _, _ in answers)[429] > 0


@given(st.lists(st.integers(0, 64), max_size=120), st.integers(1, 5))
def test_no_window_ever_holds_more_than_the_rate_and_refusals_are_honest(gaps, rate):
    limit, now, accepted = Limit(rate, concurrency=10_000, latency=0), 0.0, []
    for gap in gaps:
        now += gap / 128  # binary fractions: the arithmetic is exact
        in_window = sum(now - moment < 1 for moment in accepted)
        wait = limit.refusal(now)
        assert (wait == 0) == (in_window < rate)
        if wait:
            now += wait
            assert limit.refusal(now) == 0, "the wait that was told was not enough"
        accepted.append(now)


def test_refused_calls_do_not_lock_the_caller_out():
    limit = Limit(1, concurrency=10, latency=0)
    assert limit.refusal(0.0) == 0
    assert [limit.refusal(n / 8) for n in range(1, 8)] == [1 - n / 8 for n in range(1, 8)]
    assert limit.refusal(1.0) == 0


def test_a_place_is_given_back_when_the_call_ends():
    limit = Limit(100, concurrency=1, latency=0.04)
    assert limit.refusal(0.0) == 0
    assert limit.refusal(0.01) == 0.04
    limit.serving -= 1
    assert limit.refusal(0.02) == 0


def test_what_it_does_not_serve_is_said_and_logged(api, log):
    assert [status for status, _, _ in conversation(api.port, ("/",), ("/healthz",), ("/lookup/a", "POST"))] == [
        404,
        200,
        405,
    ]
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [404, 200, 405]


@pytest.mark.parametrize("extra", ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", f"X: {'x' * 20_000}\r\n"])
def test_a_request_with_a_body_or_a_huge_head_is_refused_and_the_connection_closed(api, extra):
    (answered,) = conversation(api.port, ("/lookup/a", "GET", extra))
    assert answered[0] == 400
    assert answered[1]["Connection"] == "close"


def test_connection_close_is_obeyed(api):
    async def talk():
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        status, _, _ = await ask(reader, writer, "/healthz", extra="Connection: close\r\n")
        rest = await reader.read()
        writer.close()
        return status, rest

    assert asyncio.run(talk()) == (200, b"")


def test_it_listens_on_loopback_only(api):
    listening = [each.laddr.ip for each in psutil.Process(api.pid).net_connections() if each.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_calls_under_way_are_answered(log, number):
    with subprocess.Popen([*COMMAND, str(log), "--latency", "0.5"], stdout=subprocess.PIPE) as api:
        port = json.loads(api.stdout.readline())["port"]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"GET /lookup/a HTTP/1.1\r\n\r\n")
            conversation(port, ("/healthz",))  # its answer comes behind the arrival of the first
            api.send_signal(number)
            assert caller.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert api.wait(10) == 0


def test_it_ends_with_its_parent(log):
    parent = f"import subprocess, sys, time; subprocess.Popen({[*COMMAND, str(log)]!r}); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        child.wait(10)
        assert not child.is_running()


def test_a_bad_option_is_named(log):
    done = subprocess.run([*COMMAND, str(log), "--rate", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--rate" in done.stderr
