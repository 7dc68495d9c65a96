"""The demo's processes are gone when it is, however it went; and it starts them with nobody's settings but its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from workerkit.demo.patience import Interrupted, Patience
from workerkit.demo.processes import Keeper, ProcessEnded, clean_environment
from workerkit.errors import WorkerKitError

ROOT = Path(__file__).parents[2]
# Deaf to SIGTERM, and with a child in its group: the two ways of outliving a polite request.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
os.write(int(sys.argv[1]), b"x")
time.sleep(600)
"""


def ended(reading: int) -> bool:
    """Whether every holder of the pipe's other end is gone; waits for it, 20 s at most."""
    while select.select([reading], [], [], 20)[0]:
        if not os.read(reading, 100):
            return True
    return False


def stubborn(keeper: Keeper, fifo: Path) -> int:
    """Start STUBBORN with a pipe that it and its child hold open; answers the end to watch them by."""
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    program = STUBBORN.replace("int(sys.argv[1])", f"os.open({str(fifo)!r}, os.O_WRONLY)")
    keeper.start("stubborn", [sys.executable, "-c", program], dict(os.environ))
    assert select.select([reading], [], [], 20)[0], "it never started"
    return reading


def test_leaving_the_block_ends_what_will_not_end(tmp_path):
    with Keeper() as keeper:
        reading = stubborn(keeper, tmp_path / "fifo")
    assert ended(reading)
    assert not keeper.home.exists()
    os.close(reading)


def test_a_killed_demo_takes_its_processes_along(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    program = STUBBORN.replace("int(sys.argv[1])", f"os.open({str(fifo)!r}, os.O_WRONLY)")
    demo = textwrap.dedent(f"""
        import os, sys, time
        from workerkit.demo.processes import Keeper
        with Keeper() as keeper:
            keeper.start("stubborn", [sys.executable, "-c", {program!r}], dict(os.environ))
            print(keeper.home, flush=True)
            time.sleep(600)
    """)
    environment = clean_environment(TMPDIR=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", demo], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        home = Path(process.stdout.readline().decode().strip())
        assert home.is_dir()
        assert select.select([reading], [], [], 20)[0], "it never started"
        process.send_signal(signal.SIGKILL)
    assert ended(reading)
    os.close(reading)


def test_output_goes_to_a_log_and_the_working_directory_is_the_home():
    with Keeper() as keeper, Patience() as patience:
        code = "import os; print(os.getcwd(), os.environ['SAID']); import time; time.sleep(600)"
        keeper.start("talker", [sys.executable, "-u", "-c", code], {"SAID": "it"})
        patience.until(lambda: "\n" in keeper.log("talker"), 20, "it did not talk", keeper.check)
        assert keeper.log("talker").split() == [str(keeper.home), "it"]


def test_a_process_that_ends_by_itself_is_told_with_the_end_of_its_log():
    with Keeper() as keeper, Patience() as patience:
        keeper.start("api", [sys.executable, "-c", "raise SystemExit('no port for me')"], dict(os.environ))
        with pytest.raises(ProcessEnded, match=r"api ended by itself with code 1;(.|\n)*no port for me"):
            patience.until(lambda: False, 20, "it went on", keeper.check)


def test_a_killed_keeper_is_told():
    with Keeper() as keeper:
        keeper._process.kill()
        with pytest.raises(ProcessEnded, match="keeper"):
            keeper._report()
    keeper.home.rmdir()


def test_nothing_leads_a_demo_to_real_servers(monkeypatch):
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "WORKERKIT_GUARD_URL", "DEMO_API_URL"):
        monkeypatch.setenv(name, "redis://production")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = clean_environment(WORKERKIT_REDIS_URL="unix:///mine")
    assert "redis://production" not in found.values()
    assert found["WORKERKIT_REDIS_URL"] == "unix:///mine"
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "elsewhere"]
    assert found["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_wait_and_nothing_else(number):
    before = signal.getsignal(number)
    with Patience() as patience:
        os.kill(os.getpid(), number)
        undisturbed = True
        with pytest.raises(Interrupted) as interrupted:
            patience.pause(600)
        with pytest.raises(Interrupted):
            patience.until(lambda: False, 600, "it", lambda: None)
    assert undisturbed
    assert interrupted.value.number == number
    assert not isinstance(interrupted.value, Exception)
    assert signal.getsignal(number) is before


def test_waiting_in_vain_says_for_what():
    with Patience() as patience, pytest.raises(WorkerKitError, match="the worker did not come up within 0 s"):
        patience.until(lambda: False, 0, "the worker did not come up", lambda: None)
