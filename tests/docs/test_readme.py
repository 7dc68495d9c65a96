"""The README's example runs as it stands, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_example_runs(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 9  # it is short, and stays so
    here = example.replace("redis://localhost/1", redis_url).replace("-> int: ...", "-> int: return len(account)")
    assert here.count(redis_url) == 1
    space: dict[str, object] = {"__name__": "readme"}
    exec("from celery import Celery\nfrom workerkit import WorkerKit\n" + here, space)
    balance = space["balance"]
    assert balance("acct_7") == 6  # type: ignore[operator]  # a Celery task
    assert balance.memo.stats().computations == 1  # type: ignore[attr-defined]  # as above
    assert balance.memo.invalidate("acct_7")  # type: ignore[attr-defined]
    assert balance.acks_late  # type: ignore[attr-defined]
    space["kit"].close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`?(scripts/\w+)", README))))
def test_commands_are_there(command: str) -> None:
    assert (ROOT / command).stat().st_mode & 0o111
