"""`workerkit -A shop doctor`, as a user runs it: the right line within two seconds, whatever the server does."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

from tests.doctor_rig import Responder, bulk, clock

TWO_SECONDS = 2.0  # on a machine that does nothing else; what is asserted leaves a busy one time
BUSY = 10.0
SHOP = """
import os
from celery import Celery
from workerkit import WorkerKit
app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.workerkit_redis_url = os.environ["STORE"]
app.conf.task_time_limit = 600
exec(os.environ["LINES"])
print("the app's own words")
kit = WorkerKit(app)

@kit.task
@kit.throttle(kit.limiter("api", "100/s"))
def charge(account): ...
"""


class Run:
    """The command on an app of its own."""

    def __init__(self, directory, url, broker=""):
        (directory / "shop.py").write_text(SHOP)
        self.directory, self.lines, self.seconds = directory, [], 0.0
        self.urls = {"STORE": url, "BROKER": broker or url.replace("unix://", "redis+socket://")}

    def __call__(self, *options, entry=("workerkit.cli.main", "-A", "shop"), columns=80):
        path = os.pathsep.join([str(self.directory), *sys.path])
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *entry, "doctor", *options],
            env={
                **os.environ,
                **self.urls,
                "LINES": "\n".join(self.lines),
                "PYTHONPATH": path,
                "COLUMNS": str(columns),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        self.seconds = time.monotonic() - began
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *options):
        """The exit code, and the fixes by id."""
        done = self("--json", *options)
        print(f"{self.seconds:.2f} s: {done.stdout}")
        if self.seconds > TWO_SECONDS:
            print(f"longer than {TWO_SECONDS} s")
        assert self.seconds < BUSY
        return done.returncode, {each["id"]: each["fix"] for each in json.loads(done.stdout)["findings"]}


@pytest.fixture
def server(private_server):
    return private_server(args=("--appendonly", "yes"))


@pytest.fixture
def run(tmp_path, server):
    return Run(tmp_path, server.unix_url)


def test_a_deployment_with_nothing_wrong(run):
    done = run()
    assert (done.returncode, done.stdout.startswith("nothing found; looked at the app and unix:///")) == (0, True), done
    assert "the app's own words" in done.stderr


def test_an_evicting_server(run, server):
    server.cli("CONFIG", "SET", "maxmemory", "50mb")
    server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    code, fixes = run.json()
    assert (code, set(fixes)) == (1, {"guard-evicts", "broker-evicts", "results-evicted"})
    server.cli(*shlex.split(fixes["guard-evicts"]))
    assert run.json() == (0, {})


def test_a_server_of_an_old_version(tmp_path):
    info = bulk("redis_version:5.0.14\r\nmaxmemory:0\r\naof_enabled:1\r\n")
    hello = b"-ERR unknown command `HELLO`\r\n"
    with Responder(info=info, hello=hello, config=b"*0\r\n", client=bulk(""), time=clock(0)) as old:
        run = Run(tmp_path, old.url)
        assert run.json() == (1, {"server-old": "run Redis 6.2 or later, or Valkey 7.2 or later"})
        old.answers["info"] = bulk("redis_version:6.2.14\r\nmaxmemory:0\r\naof_enabled:1\r\n")
        assert run.json() == (0, {})


def test_a_visibility_timeout_shorter_than_a_task(run, server):
    week = int(time.time() // 604800)
    server.cli("HSET", "wk:t:{runs:all}:n", "shop.charge", f"{week} 5000000 0")
    ignored = ("prefetch-long", "time-limit-close", "results-expire-early", "soft-shutdown-off", "visibility-prefetch")
    ignore = [word for id_ in ignored for word in ("--ignore", id_)]
    code, fixes = run.json(*ignore)
    assert (code, set(fixes)) == (1, {"visibility-run"})
    run.lines.append(fixes["visibility-run"])
    assert run.json(*ignore) == (0, {})


def test_too_small_maxclients(run, server):
    server.cli("CONFIG", "SET", "maxclients", "300")
    code, fixes = run.json("--processes", "16")
    assert (code, set(fixes)) == (0, {"maxclients-low"})  # a warning: all of them at once are rare
    server.cli(*shlex.split(fixes["maxclients-low"]))
    assert run.json("--processes", "16") == (0, {})


def test_no_server(run, server, tmp_path):
    server.kill()
    code, fixes = run.json()
    assert (code, fixes) == (2, {"unreachable": f"valkey-server --unixsocket {server.socket} --port 0"})
    done = run()
    assert done.returncode == 2
    assert "cannot be reached" in done.stdout
    server.start()
    assert run.json() == (0, {})


def test_a_server_that_hangs(run, server):
    server.freeze()
    code, fixes = run.json()
    assert (code, fixes) == (2, {"unreachable": "restart the server"})
    server.thaw()
    server.restart()
    assert run.json() == (0, {})


def test_what_a_person_sees(run, server):
    server.cli("CONFIG", "SET", "appendonly", "no")
    server.cli("CONFIG", "SET", "maxmemory", "50mb")
    server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    done = run(entry=("celery", "-A", "shop", "workerkit"))
    print(done.stdout)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line != "the app's own words"]  # celery has imported it
    assert lines[0].split()[:2] == ["error", "guard-evicts"]
    assert "CONFIG SET maxmemory-policy noeviction" in done.stdout
    assert max(len(line) for line in lines) <= 80
    assert "2 errors, 2 warnings; looked at the app and unix:///" in done.stdout
    quiet = run("--ignore", "guard-evicts", "--ignore", "broker-evicts")
    assert quiet.returncode == 0
    assert "guard-evicts" not in quiet.stdout


def test_what_cannot_be_ignored_is_told(run):
    done = run("--ignore", "guard-evict")
    assert done.returncode == 2
    assert "there is no such finding" in done.stderr
    assert "guard-evicts" in done.stderr
