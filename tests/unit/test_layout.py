"""The shape of the tree: what every file must have, what none may hold, and that importing workerkit stays light."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "workerkit"
HEAVY = {"aiohttp", "asyncio", "celery", "httpx", "kombu", "pydantic", "redis", "rich", "structlog", "zstandard"}
# Put together here so that this file does not name them itself.
REGISTRIES = [f"{name}.org" for name in ("pypi", "pythonhosted", "npmjs", "debian")]
OWN_PATH = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work)/")


def texts() -> dict[Path, str]:
    """Every file of the project that is text; not what tools leave behind."""
    folders = [ROOT / name for name in ("workerkit", "tests", "scripts", "docs", ".ci")]
    found = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.iterdir())
    kept = {}
    for path in found:
        if path.is_file() and "__pycache__" not in path.parts:
            try:
                kept[path] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return kept


def test_every_package_says_what_it_is():
    folders = {path.parent for path in PACKAGE.rglob("*.py")} | {path.parent for path in PACKAGE.rglob("*.lua")}
    assert PACKAGE / "core" in folders
    for folder in folders:
        module = folder / "__init__.py"
        assert module.exists(), f"{folder} has no __init__.py"
        assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))), f"{module} has no docstring"


def test_no_file_knows_where_it_was_made():
    files = texts()
    assert ROOT / "pyproject.toml" in files
    telling = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path, text in files.items()
        for line in text.splitlines()
        if OWN_PATH.search(line) or any(host in line for host in REGISTRIES)
    ]
    assert not telling


def test_every_script_has_a_header():
    scripts = sorted(PACKAGE.rglob("*.lua"))
    assert scripts
    for path in scripts:
        lines = path.read_text(encoding="utf-8").splitlines()
        header = "\n".join(takewhile(lambda line: line.startswith("--"), lines))
        body = "\n".join(lines).removeprefix(header)
        assert header, f"{path.name} has no header comment"
        if not re.search("^-- include: (now|not_after)$", body, re.MULTILINE):
            continue  # a fragment: what it works on is said by the scripts that include it
        for table in ("KEYS", "ARGV"):
            assert table not in body or table in header, f"{path.name} does not say what {table} holds"
        assert "KEYS" not in body or re.search("returns?", header, re.IGNORECASE), f"{path.name} does not say its reply"


def test_importing_workerkit_stays_light():
    code = (
        "import json, sys; before = set(sys.modules); import workerkit;"
        "print(json.dumps([workerkit.__version__, sorted(set(sys.modules) - before)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    version, loaded = json.loads(done.stdout)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version)
    assert not HEAVY & {name.partition(".")[0] for name in loaded}, f"import workerkit loads {loaded}"
