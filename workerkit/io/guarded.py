"""A real server process that its users share, and that is gone with the last of them.

Every user holds a share of one `flock`; a guard process beside the server waits for the exclusive lock, gets it when
the last user has let go or died (however it died), and ends the server. Linux's PR_SET_PDEATHSIG was not taken: it
fires when the *thread* that started the server ends, it would end a server that other processes have joined, and
macOS has no such thing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import hiredis

from workerkit.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_POLL = 0.005  # seconds
_TOGETHER, _ALONE = fcntl.LOCK_SH, fcntl.LOCK_EX
_SOCKET_PATH_MAX = 103  # bytes: sun_path is 104 on macOS and 108 on Linux, with the closing NUL


class ServerProcess:
    """One server program on a unix socket in `home`, under a guard, shared by all who hold `users.lock` there.

    command: the program and its options. `home`, socket and pid file are added here.
    temporary: end it with SIGKILL and remove `home` with it; otherwise SIGTERM, so that it writes its data first.
    """

    def __init__(self, command: Sequence[str], *, home: Path, temporary: bool) -> None:
        self.home = home
        self.socket, scratch = _socket_in(home)
        self._scratch = home if temporary else scratch
        self._ending = signal.SIGKILL if temporary else signal.SIGTERM
        self._command = [*command, "--dir", str(home), "--pidfile", str(home / "server.pid"), "--daemonize", "no"]
        self._command += ["--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        if "--port" not in command:
            self._command += ["--port", "0"]
        self._hold: IO[bytes] | None = None
        self._holder = 0
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def held(self) -> bool:
        """This very process (not the one it was forked from) has a share in the server."""
        return self._hold is not None and self._holder == os.getpid()

    @property
    def pid(self) -> int:
        """The server's process id; StoreUnavailable when it does not run."""
        if not _listening(self.socket):  # what a crashed server has written down may be anybody's number by now
            raise StoreUnavailable(f"the server in {self.home} is not running")
        return int((self.home / "server.pid").read_text())

    def start(self, timeout: float = 10.0) -> None:
        """Join the running server, or launch one; StoreUnavailable when none answers within timeout seconds."""
        deadline, rejoining = time.monotonic() + timeout, self.held
        try:
            with _locked(self.home / "start.lock", deadline):
                self._join(deadline)
                if not _listening(self.socket):
                    self._launch()
                self._await_answer(deadline)
        except BaseException:
            if not rejoining:
                self.stop()
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """Give up this process's share, and if it was the last, wait until the server is gone."""
        if not self.held:
            return
        if not self.home.exists():  # somebody has removed it under the server: the guard still holds the old lock
            self._leave()
            return
        deadline = time.monotonic() + timeout
        with _locked(self.home / "start.lock", deadline):
            self._leave()
            while not self._others():
                if self._gone():
                    if self._scratch:  # the guard's work, unless the server had crashed before
                        shutil.rmtree(self._scratch, ignore_errors=True)
                    return
                if time.monotonic() >= deadline:
                    return
                time.sleep(_POLL)
            self._forget_guard()

    def wait(self) -> None:
        """After its end was brought about from outside: until the server this process launched is reaped."""
        if self._guard is not None:
            self._guard.wait(10.0)

    def log(self, lines: int = 5) -> str:
        """The end of the server's log."""
        try:
            return "\n".join((self.home / "server.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def _join(self, deadline: float) -> None:
        if self.held:
            return
        self._hold, self._holder, self._guard = (self.home / "users.lock").open("wb"), os.getpid(), None
        if not _flock(self._hold, _TOGETHER, deadline):
            raise StoreUnavailable(f"the server in {self.home} has been stopping for too long")

    def _leave(self) -> None:
        if self._hold is not None:
            fcntl.flock(self._hold, fcntl.LOCK_UN)  # closing is not enough: forked children share the open file
            self._hold.close()
        self._hold = None

    def _launch(self) -> None:
        if self.socket.parent != self.home:
            _own_directory(self.socket.parent)
        guard = f"{inspect.getsource(_guard)}\n_guard()"
        settings = [str(self.home / "users.lock"), str(int(self._ending)), str(self._scratch or "")]
        with (self.home / "server.log").open("wb") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own program; the paths are arguments, no shell
                [sys.executable, "-I", "-S", "-c", guard, *settings, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for the user's program, not for its server
            )

    def _await_answer(self, deadline: float) -> None:
        while not _answers(self.socket, deadline):
            died = self._guard is not None and self._guard.poll() is not None
            if died or time.monotonic() >= deadline:
                fate = "ended at once" if died else "did not answer in time"
                raise StoreUnavailable(f"the server in {self.home} {fate}; the end of its log:\n{self.log()}")
            time.sleep(_POLL)

    def _forget_guard(self) -> None:
        if self._guard is not None:
            self._guard.returncode = 0  # it lives on for others; Popen would warn of a process still running

    def _gone(self) -> bool:
        """The guard has ended, and the server before it."""
        return self._guard.poll() is not None if self._guard else not _listening(self.socket) and self._lockable(_ALONE)

    def _others(self) -> bool:
        return not self._lockable(_ALONE) and self._lockable(_TOGETHER)  # the guard, too, wants to be alone

    def _lockable(self, kind: int) -> bool:
        try:
            with (self.home / "users.lock").open("rb") as users:
                return _flock(users, kind)
        except FileNotFoundError:
            return True  # a temporary home, and it is gone


def _guard() -> None:
    """The whole program of the guard: its source is run by a bare interpreter, with no import of workerkit.

    The guard is the server's parent, so there is no moment at which the server runs unguarded.
    """
    import fcntl
    import os
    import shutil
    import signal
    import subprocess
    import sys
    import threading

    users, ending, scratch, *command = sys.argv[1:]
    lock, unused = os.open(users, os.O_RDONLY), threading.Event()
    server = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL)  # noqa: S603 - ServerProcess wrote it
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server has its own ways with them, and then the guard ends as well

    def end_when_unused() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)  # and keep it until this process ends, behind the last clean-up
        unused.set()
        server.send_signal(signal.SIGCONT)  # a frozen server would not hear the next one
        server.send_signal(int(ending))
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)

    threading.Thread(target=end_when_unused, daemon=True).start()
    code = server.wait()
    if unused.is_set() and scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(code & 0xFF)


def ask(socket: Path, *words: str | int | bytes, timeout: float = 5.0) -> object:
    """One raw command on a connection of its own; an error reply is returned as `hiredis.ReplyError`.

    timeout: seconds for the connection and for each read. Raises OSError when there is no server or no answer.
    """
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape", notEnoughData=Ellipsis)
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as link:
        link.settimeout(timeout)
        link.connect(str(socket))
        link.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        while (reply := reader.gets()) is Ellipsis:
            received = link.recv(65536)
            if not received:
                raise ConnectionResetError("the server closed the connection before it had answered")
            reader.feed(received)
    return reply


def short_directory() -> Path:
    """A fresh private directory (mode 0700) whose path leaves room for a socket's name."""
    home = Path(tempfile.mkdtemp(prefix="wk-"))
    if _fits(home / "valkey.sock"):
        return home
    home.rmdir()
    return Path(tempfile.mkdtemp(prefix="wk-", dir="/tmp"))


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= _SOCKET_PATH_MAX


def _socket_in(home: Path) -> tuple[Path, Path | None]:
    """The socket for `home`, and the directory made for it when `home` itself is too long a path for one.

    The same home always gives the same address, so that clients find a restarted server again.
    """
    if _fits(home / "valkey.sock"):
        return home / "valkey.sock", None
    name = f"wk-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    places = [Path(tempfile.gettempdir(), name), Path("/tmp", name)]  # noqa: S108 - _own_directory checks whose it is
    scratch = next(place for place in places if _fits(place / "valkey.sock"))
    return scratch / "valkey.sock", scratch


def _own_directory(place: Path) -> None:
    """Make the directory, or check that the one with this guessable name is ours and closed to others."""
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise StoreUnavailable(f"{place} belongs to somebody else: choose a shorter embedded:/// path")


def _listening(socket: Path) -> bool:
    """Somebody has the socket open, be it frozen or still loading: no second server may be started there."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as link:
        link.setblocking(False)
        try:
            link.connect(str(socket))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


def _answers(socket: Path, deadline: float) -> bool:
    try:
        reply = ask(socket, "PING", timeout=max(_POLL, deadline - time.monotonic()))
    except OSError:
        return False
    return reply == "PONG" or str(reply).startswith("NOAUTH")  # not LOADING


def _flock(file: IO[bytes], kind: int, deadline: float = 0.0) -> bool:
    """Try for the lock until the deadline (on the monotonic clock), at least once."""
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Generator[None]:
    with path.open("wb") as file:
        if not _flock(file, _ALONE, deadline):
            raise StoreUnavailable(f"{path} has been locked by another process for too long")
        yield
