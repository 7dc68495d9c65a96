"""The command line as processes of their own, in both spellings: exit codes, what goes where, readers that leave."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import at_once
from tests.server.cli_rig import command, rows
from workerkit import WorkerKit
from workerkit.cli.main import COMMANDS
from workerkit.cli.plugin import workerkit

MODULE = """
import os
from celery import Celery
from pydantic import BaseModel
from workerkit import Job, WorkerKit
print("the app's own words")
app = Celery("shop", broker="memory://")
kit = WorkerKit(app, url=os.environ["STORE"])
stripe = kit.limiter("stripe", "100/h", name_keys=True)

class Import(BaseModel):
    rows: int = 0

@kit.task
@kit.memoize("10m")
def price(sku: str) -> float:
    return 1.5
"""
BOTH = [["workerkit", "-A", "shop"], ["celery", "-A", "shop", "workerkit"]]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"


def test_both_spellings_serve_the_same(shop: Path, redis_url: str) -> None:
    verbs = [["cache", "ls"], ["jobs", "show", "x"]]
    done = at_once(
        [lambda line=[*both, *verb]: command(shop, *line, STORE=redis_url) for verb in verbs for both in BOTH]  # type: ignore[misc]  # one of them each
    )
    for ours, theirs, status in zip(done[::2], done[1::2], (0, 1), strict=True):
        assert (ours.returncode, theirs.returncode) == (status, status), ours.stderr + theirs.stderr
        assert ours.stdout == theirs.stdout.replace("the app's own words\n", "")
        assert ours.stderr.replace("the app's own words\n", "") == theirs.stderr
    assert rows(done[0].stdout)[1][:2] == ["shop.price", "10m"]
    assert workerkit.list_commands(None) == sorted(COMMANDS)  # type: ignore[arg-type]  # it looks at no context


def test_one_json_document_and_nothing_else(shop: Path, redis_url: str) -> None:
    verbs = [["cache", "stats"], ["limits", "ls"], ["waitlist", "ls"]]
    line = [*BOTH[0]]
    done = at_once([lambda verb=verb: command(shop, *line, *verb, "--json", STORE=redis_url) for verb in verbs])  # type: ignore[misc]  # one of them each
    found = [json.loads(each.stdout) for each in done]
    assert [type(each) for each in found] == [dict, list, list]
    assert (found[0], found[2]) == ({}, [])


def test_no_server_a_silent_one_and_no_app_are_one_line_and_2(shop: Path, silent: str, redis_url: str) -> None:
    (shop / "broken.py").write_text("import os\n\nos.environ['NO_SUCH_NAME']\n")
    (shop / "bare.py").write_text("from celery import Celery\n\napp = Celery('bare')\n")
    (shop / "late.py").write_text("from celery import Celery\n\napp = Celery('late', include=['broken'])\n")
    app = ["workerkit", "-A"]
    lines = [
        ("redis://localhost:1/0", [*BOTH[0], "limits", "ls"], "localhost:1/0 (workerkit_redis_url) cannot be reached"),
        (silent, [*BOTH[1], "cache", "ls"], "(workerkit_redis_url) "),
        (redis_url, [*app, "shap", "cache", "ls"], "-A shap: ModuleNotFoundError: No module named 'shap'"),
        (redis_url, [*app, "broken", "cache", "ls"], f"KeyError: 'NO_SUCH_NAME' ({shop / 'broken.py'}, line 3)"),
        (
            redis_url,
            [*app, "late", "cache", "ls"],
            f"cannot be imported: KeyError: 'NO_SUCH_NAME' ({shop / 'broken.py'}",
        ),
        (redis_url, [*app, "bare", "cache", "ls"], "bare has no workerkit: write kit = WorkerKit(app)"),
    ]
    for done, (_, line, why) in zip(
        at_once([lambda url=url, line=line: command(shop, *line, STORE=url) for url, line, _ in lines]),  # type: ignore[misc]  # one of them each
        lines,
        strict=True,
    ):
        told = done.stderr.replace("the app's own words\n", "")
        assert (done.returncode, told.count("\n")) == (2, 1), (line, done.stderr)
        assert told.startswith("workerkit: ")
        assert why in told
        assert done.stdout in ("", "the app's own words\n")


def test_a_reader_that_leaves_gets_no_traceback(shop: Path, redis_url: str) -> None:
    with WorkerKit(url=redis_url, hooks=[]) as kit:
        kit.cache.set("x", 1, ttl="1m")
        kit.limiter("stripe", "100/h", name_keys=True).try_acquire()
    verbs = [["limits", "ls"], ["limits", "ls", "--json"], ["cache", "explain", "price", "a"]]

    def without_reader(verb: list[str]) -> tuple[int, bytes]:
        reading, writing = os.pipe()
        os.close(reading)
        path = os.pathsep.join([str(shop), *sys.path])
        environment = {**os.environ, "STORE": redis_url, "PYTHONPATH": path}
        line = [sys.executable, "-m", "workerkit.cli.main", "-A", "shop", *verb]
        with os.fdopen(writing, "wb") as gone:
            done = subprocess.run(line, cwd=shop, env=environment, stdout=gone, stderr=subprocess.PIPE, check=False)
        return done.returncode, done.stderr.replace(b"the app's own words\n", b"")

    for status, stderr in at_once([lambda verb=verb: without_reader(verb) for verb in verbs]):  # type: ignore[misc]  # one of them each
        assert stderr == b""
        assert status == 141
    head = command(shop, *BOTH[0], "limits", "ls", shell="| head -n 1", STORE=redis_url)
    assert (head.returncode, head.stdout.split()[0]) == (0, "limiter")
    assert "Traceback" not in head.stderr


def test_ctrl_c_ends_a_watch_with_130(shop: Path, redis_url: str) -> None:
    sys.path.insert(0, str(shop))
    line = [sys.executable, "-m", "workerkit.cli.main", "-A", "shop", "jobs", "watch", "j1", "--wait", "60s"]
    environment = {**os.environ, "STORE": redis_url, "PYTHONPATH": os.pathsep.join([str(shop), *sys.path])}
    with (
        WorkerKit(url=redis_url, hooks=[]) as kit,
        subprocess.Popen(
            line, cwd=shop, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        from pydantic import BaseModel

        class Import(BaseModel):
            rows: int = 0

        kit.jobs.begin("j1", Import).progress(1, 2)
        assert process.stdout is not None
        assert "1/2 50%" in process.stdout.readline(), "each event is printed when it happens"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in stderr) == (130, False)


def test_plain_text_where_there_is_no_terminal_or_no_color(shop: Path, redis_url: str) -> None:
    done = command(shop, *BOTH[0], "limits", "ls", STORE=redis_url, NO_COLOR="1")
    assert (done.returncode, "\x1b" in done.stdout) == (0, False)
