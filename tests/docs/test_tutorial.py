r"""The tutorial is followed as a reader would: its files are written, its commands run, its outputs compared.

A block `python title="NAME"` is the file NAME, written when the reader comes to it. A `sh` block is run and ends,
unless `<!-- terminal: NAME -->` stands before it: then it runs on in that terminal, and what ran there before gets
Ctrl+C. A `text` block is what was printed; `<!-- varies: REGEX | REGEX -->` before it says what of it differs from run
to run. Ports are replaced by free ones, and nothing is installed.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Beside the tutorials a how-to that makes a project of its own.
TUTORIALS = [*sorted((ROOT / "docs" / "tutorials").glob("*.md")), ROOT / "docs" / "how-to" / "test-on-real-workers.md"]
PATIENCE = 60.0  # seconds for anything that is waited for

_BLOCK = re.compile(
    r'^```python title="(?P<file>[\w.]+)"\n(?P<code>.*?)^```$'
    r"|^(?:<!-- terminal: (?P<terminal>\w+) -->\n\n)?```sh\n(?P<sh>.*?)^```$"
    r"|^(?:<!-- varies: (?P<varies>[^\n]+) -->\n\n)?```text\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")


class Reader:
    """Somebody who follows a page in a folder, with a shell and some terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WORKERKIT_", "CELERY_"))}
        self.environment = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
        self.terminals: dict[str, subprocess.Popen[bytes]] = {}
        self.printed: Callable[[], str] = str

    def write(self, name: str, code: str) -> None:
        (self.folder / name).write_text(code)

    def run(self, command: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.printed = lambda: done.stdout

    def open(self, terminal: str, command: str) -> None:
        self.interrupt(terminal)
        log = self.folder / f"{terminal}.log"
        with log.open("wb") as output:
            self.terminals[terminal] = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.printed = log.read_text

    def interrupt(self, terminal: str) -> None:
        """Ctrl+C, as a terminal gives it to all that runs in it, until that has ended."""
        process = self.terminals.pop(terminal, None)
        if process is None:
            return
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def reads(self, said: list[str], as_said: Callable[[str], list[str]], *, all_of_it: bool) -> None:
        """What was printed is what the page says; in a terminal, the page's lines are among what comes in time."""
        if all_of_it:
            assert as_said(self.printed()) == said
            return
        until = time.monotonic() + PATIENCE
        while missing := set(said) - set(as_said(self.printed())):
            assert time.monotonic() < until, f"never printed: {missing}; but\n{self.printed()}"
            time.sleep(0.05)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    for terminal in reversed([*reader.terminals]):
        reader.interrupt(terminal)


def with_free_ports(page: str) -> str:
    """The page with each of its ports replaced; one that a command takes by default is given to it."""
    ports = sorted(set(_PORT.findall(page)))
    held = [socket.socket() for _ in ports]
    for each in held:
        each.bind(("127.0.0.1", 0))
    free = {port: str(each.getsockname()[1]) for port, each in zip(ports, held, strict=True)}
    for each in held:
        each.close()
    page = re.sub(r"^workerkit server$", f"workerkit server --port {free.get('6379', '')}", page, flags=re.MULTILINE)
    page = re.sub(r"(?<=127\.0\.0\.1\", )\d+", lambda port: free[port[0]], page)
    return _PORT.sub(lambda port: free[port[0]], page)


def lines(varies: str | None) -> Callable[[str], list[str]]:
    """A text's lines, with what varies replaced by dots, and spaces by one: columns are as wide as what is in them."""
    pattern = re.compile("|".join(f"(?:{each})" for each in (varies or "(?!)").split(" | ")))
    return lambda text: [pattern.sub("...", " ".join(line.split())) for line in text.splitlines()]


@pytest.mark.worker
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_what_the_page_says_comes_of_following_it(page: Path, reader: Reader, require: Callable[..., None]) -> None:
    require("valkey")
    in_terminal = False
    for block in _BLOCK.finditer(with_free_ports(page.read_text())):
        if block["file"]:
            reader.write(block["file"], block["code"])
        elif block["sh"]:
            in_terminal = block["terminal"] is not None
            if in_terminal:
                reader.open(block["terminal"], block["sh"].strip())
            elif "pip install" not in block["sh"]:
                reader.run(block["sh"])
        else:
            as_said = lines(block["varies"])
            reader.reads(as_said(block["text"]), as_said, all_of_it=not in_terminal)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_is_followed(page: Path) -> None:
    text = page.read_text()
    assert len(_BLOCK.findall(text)) == text.count("\n```") // 2
