"""`workerkit server`, as a user runs it: a Valkey in the foreground, which ends with its command."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

COMMAND = [sys.executable, "-m", "workerkit.cli.main", "server"]
PATIENCE = 30.0  # seconds


@pytest.fixture(autouse=True)
def valkey(require: Callable[..., None]) -> None:
    require("valkey")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command under way, and the URL that it has printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, *arguments], text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_it_prints_its_url_and_ends_with_ctrl_c(port: int, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{port}/0"
    kept = ["--port", str(port), "--dir", str(tmp_path / "data")]
    for starts in (1, 2):
        with running(*kept) as (process, said), redis.Redis.from_url(url) as client:
            assert said == url
            assert client.incr("starts") == starts, "--dir keeps the data"
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
            process.send_signal(signal.SIGINT)
            rest, hint = process.communicate(timeout=PATIENCE)
            assert (process.returncode, rest) == (0, "")
            assert f"its data stays in {tmp_path / 'data'}" in hint
        with pytest.raises(redis.ConnectionError):
            redis.Redis.from_url(url, retry=None).ping()


def test_without_a_folder_nothing_stays(port: int) -> None:
    with running("--port", str(port)) as (process, url):
        client = redis.Redis.from_url(url)
        home = Path(client.config_get("dir")["dir"])
        process.send_signal(signal.SIGINT)
        assert "its data goes with it" in process.communicate(timeout=PATIENCE)[1]
    assert not home.exists()


def test_a_server_that_ends_by_itself_ends_the_command(port: int) -> None:
    with running("--port", str(port)) as (process, url):
        redis.Redis.from_url(url, retry=None).shutdown(nosave=True)
        assert "is not running" in process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 2


def test_a_port_that_is_taken_is_named_with_another(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            [*COMMAND, "--port", str(port)], check=False, capture_output=True, text=True, timeout=PATIENCE
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"workerkit: port {port} is taken: ")
    assert f"--port {port + 1}" in done.stderr or port == 65535


def test_a_folder_that_another_process_uses_is_named(port: int, tmp_path: Path) -> None:
    user = "import sys; from workerkit.io.embedded import EmbeddedServer as S; S(sys.argv[1]).start(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", user, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        command = [*COMMAND, "--port", str(port), "--dir", str(tmp_path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
        other.communicate("\n")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == f"workerkit: another process runs the server of {tmp_path}; it listens on port 0 (0: none)"
    )
