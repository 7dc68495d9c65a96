"""`workerkit top` as a user has it: on the command line, and in a real terminal, by its keys."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from workerkit import WorkerKit
from workerkit.cli.plugin import workerkit
from workerkit.testing.proxy import FaultProxy

PATIENCE = 60.0  # seconds
SHOP = """
import os, threading, time
from celery import Celery
from workerkit import WorkerKit

def chatter():
    while True:
        print("the app's own words", flush=True)
        time.sleep(0.1)

if "CHATTER" in os.environ:
    threading.Thread(target=chatter, daemon=True).start()

app = Celery("shop", broker="memory://")
kit = WorkerKit(app, url=os.environ["STORE"], timeout=1)
stripe = kit.limiter("stripe", "50/h", name_keys=True)

@kit.memoize("10m")
def price(sku: str) -> float:
    return 1.5

kit.warmup(price, every="5m", args=["a"])
"""
# What a shell does: the terminal's signals go to the command, which may be stopped. Ends with 128 + a signal's number.
LEADER = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, sys.argv[1:])
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
os._exit(code if code >= 0 else 128 - code)
"""


class Pty:
    """`workerkit -A shop top` in a terminal of its own; `rows` are what is on its screen."""

    def __init__(self, folder: Path, url: str, *options: str, main: tuple[str, ...] | None = None) -> None:
        self._ours, self._its = os.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self._its)
        words = main or ("-P", "-m", "workerkit.cli.main", "-A", "shop", "top", *options)
        path = os.pathsep.join([str(folder), *sys.path])
        environment = {**os.environ, "STORE": url, "PYTHONPATH": path, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADER, sys.executable, *words],
            cwd=folder, env=environment, start_new_session=True, stdin=self._its, stdout=self._its, stderr=self._its,
        )  # fmt: skip
        self.seen = ""
        self.rows: dict[int, str] = {}
        self._cut = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._its)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds: float = 0.05) -> bool:
        """Whether there was something."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        data = self._decode(os.read(self._ours, 65536))
        self.seen += data
        *whole, self._cut = re.split(r"(?=\x1b\[\d+;1H|\x1b\[2J)", self._cut + data)
        for part in [*whole, self._cut]:
            if part.startswith("\x1b[2J"):
                self.rows.clear()
            elif found := re.match(r"\x1b\[(\d+);1H(.*)", part, re.DOTALL):
                self.rows[int(found[1])] = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found[2])
        return True

    @property
    def screen(self) -> str:
        return "\n".join(self.rows[number] for number in sorted(self.rows))

    def until(self, condition: Callable[[], Any]) -> Any:
        ends = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < ends, self.screen or self.seen
            self.read()
        return found

    def shows(self, *words: str) -> None:
        self.until(lambda: all(word in self.screen for word in words))

    def shows_not(self, word: str) -> None:
        self.until(lambda: word not in self.screen)

    def press(self, *keys: bytes) -> None:
        for key in keys:
            os.write(self._ours, key)

    @property
    def pid(self) -> int:
        leader = self.process.pid
        return int(Path(f"/proc/{leader}/task/{leader}/children").read_text())

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was: its mode, its cursor, its own screen."""
        return (
            termios.tcgetattr(self._its) == self.before
            and self.seen.rfind("\x1b[?25h") > self.seen.rfind("\x1b[?25l")
            and self.seen.rfind("\x1b[?1049l") > self.seen.rfind("\x1b[?1049h")
        )

    def ended(self) -> int:
        self.until(lambda: self.process.poll() is not None)
        while self.read():
            pass
        return self.process.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def work(url: str) -> None:
    with WorkerKit(url=url, hooks=[]) as kit:
        limiter = kit.limiter("stripe", "50/h", name_keys=True)
        for _ in range(20):
            limiter.try_acquire("acct_7")
        limiter.stats()


def test_the_screen_is_driven_by_keys_and_survives_all_that_terminals_do(
    folder: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(redis_url)
    monkeypatch.setenv("CHATTER", "1")
    with FaultProxy(redis_url) as proxy, Pty(folder, proxy.url) as top:
        top.shows("1 Limits", "stripe acct_7", "30/50", "2 Jobs", "3 Cache", "4 Warmups", "price", "5 Events", "q end")
        assert len(top.rows) == 24
        assert not termios.tcgetattr(top._its)[3] & (termios.ICANON | termios.ECHO)
        top.press(b"?")
        top.shows("one pane alone on the screen")
        top.press(b"x", b"4")
        top.shows("4 Warmups", "every 5m")
        top.shows_not("1 Limits")
        top.press(b"\x1b")
        top.shows("1 Limits")
        top.press(b"p")
        top.shows("PAUSED", "the figures are")
        top.press(b"p", b"+")
        top.shows("every 2s")
        top.press(b"-", b"-", b"-")
        top.shows("every 250ms")
        top.shows_not("figures are")
        # Another size.
        top.resize(200, 60)
        top.until(lambda: len(top.rows) == 60 and all(len(row.rstrip("\r\n")) == 200 for row in top.rows.values()))
        top.resize(80, 24)
        top.until(lambda: len(top.rows) == 24)
        # Redis goes, and comes back.
        proxy.refuse()
        top.shows("Redis DOWN for", "stripe acct_7", "old")
        top.press(b"1")
        top.shows_not("2 Jobs")
        proxy.normal()
        top.shows("round trip")
        top.shows_not("DOWN")
        top.press(b"1")
        top.shows("2 Jobs")
        # The shell takes the terminal for a while.
        top.press(b"\x1a")
        top.until(lambda: top.state() == "T")
        top.until(lambda: top.restored)
        top.rows.clear()
        top.signal(signal.SIGCONT)
        top.shows("stripe acct_7", "5 Events")
        assert not top.restored
        top.press(b"q")
        assert top.ended() == 0, top.seen[-3000:]
        assert top.restored
        # What the app printed meanwhile is not lost, and not on the screen.
        assert "the app's own words" in top.seen[top.seen.rfind("\x1b[?1049l") :]
        during = top.seen[top.seen.rfind("\x1b[?1049h") : top.seen.rfind("\x1b[?1049l")]
        assert "the app's own words" not in during


FAILS = """
import sys
from workerkit.cli import main
from workerkit.cli.live import feed

def fail(kit):
    raise RuntimeError("a bug")

feed.snapshot = fail
main.main(["-A", "shop", "top"])
"""


def test_every_end_leaves_the_terminal_as_it_was(folder: Path, redis_url: str) -> None:
    with Pty(folder, redis_url) as one, Pty(folder, redis_url) as two, Pty(folder, redis_url) as three:
        broken = three.__class__(folder, redis_url, main=("-P", "-c", FAILS))
        with broken:
            for top in (one, two, three):
                top.shows("q end", "round trip")
            one.press(b"\x03")
            two.signal(signal.SIGTERM)
            three.signal(signal.SIGHUP)
            assert [top.ended() for top in (one, two, three)] == [0, 128 + signal.SIGTERM, 128 + signal.SIGHUP]
            assert broken.ended() == 1
            assert "RuntimeError: a bug" in broken.seen
            for top in (one, two, three, broken):
                assert top.restored


# Without a terminal


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    work(redis_url)
    app = Celery("shop", broker="memory://", set_as_current=False)
    kit = WorkerKit(app, url=redis_url, hooks=[print])
    app.stripe = kit.limiter("stripe", "50/h", name_keys=True)  # type: ignore[attr-defined]  # or nobody holds it
    yield app
    kit.close()


def run(app: Celery | None, *words: str) -> Result:
    obj = SimpleNamespace(app=app) if app is not None else None
    return CliRunner(env={"COLUMNS": "80"}).invoke(workerkit, ["top", *words], obj=obj)


@pytest.mark.parametrize("words", [["--once", "--interval", "100ms"], ["--interval", "0.1"]])
def test_one_page_without_a_terminal(app: Celery, words: list[str]) -> None:
    done = run(app, *words)
    assert (done.exit_code, done.stderr) == (0, "")
    for what in (
        "workerkit top  shop wk",
        "round trip",
        "stripe acct_7",
        "30/50",
        "Jobs: 0 running",
        "Warmups: no warmup",
    ):
        assert what in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_one_json_document(app: Celery) -> None:
    done = run(app, "--json")
    (found,) = json.loads(done.stdout)
    assert found["namespace"] == "wk"
    assert found["limits"][0]["keys"][0] | {"usage": None} == {
        "key": "acct_7", "admitted": 20, "refused": 0, "usage": None, "waiting": [], "parked": 0, "bound_by": "",
    }  # fmt: skip
    assert found["limits"][0]["keys"][0]["usage"]["rates"][0]["remaining"] == 30


def test_json_lines_go_on_until_the_reader_goes(folder: Path, redis_url: str) -> None:
    words = ["-P", "-m", "workerkit.cli.main", "-A", "shop", "top", "--json", "--interval", "100ms"]
    path = os.pathsep.join([str(folder), *sys.path])
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env={**os.environ, "STORE": redis_url, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [line[0]["namespace"] for line in lines] == ["wk"] * 3
    assert lines[0][0]["at"] < lines[1][0]["at"] < lines[2][0]["at"]
    process.stdout.close()
    assert process.wait(PATIENCE) == 141


def test_wrong_use_and_no_server_are_one_line_and_2(app: Celery) -> None:
    for interval in ("0", "5ms", "2h", "soon"):
        done = run(app, "--interval", interval, "--once")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("workerkit: --interval")
        assert done.stderr.count("\n") == 1
    away = Celery("away", broker="memory://", set_as_current=False)
    WorkerKit(away, url="redis://someone:s3cret@localhost:1/0", hooks=[])
    for words in (["--once"], ["--json"]):
        done = run(away, *words)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "localhost:1/0 (workerkit_redis_url) cannot be reached" in done.stderr
        assert "s3cret" not in done.stderr
    assert run(None).exit_code == 2
