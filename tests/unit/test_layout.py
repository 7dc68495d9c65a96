"""The shape of the tree: what every file must have, what none may hold, and that importing workerkit stays light."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import workerkit

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "workerkit"
HEAVY = {"aiohttp", "asyncio", "celery", "httpx", "kombu", "pydantic", "redis", "rich", "structlog", "zstandard"}
# What may be needed later, or never, and takes longer to load or more memory than a kit itself.
FOR_LATER = HEAVY - {"asyncio", "celery", "kombu"} | {"hiredis", "opentelemetry", "prometheus_client"}
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


def loaded_by(code: str) -> list[str]:
    """The modules that the last of these lines loads, in a process of its own."""
    *before, last = code.splitlines()
    program = [*before, "import json, sys", "before = set(sys.modules)", last]
    program.append("print(json.dumps(sorted(set(sys.modules) - before)))")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def roots(modules: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_importing_workerkit_stays_light():
    loaded = loaded_by("import workerkit")
    assert "workerkit" in loaded
    assert not HEAVY & roots(loaded), f"import workerkit loads {loaded}"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", workerkit.__version__)


def test_a_kit_without_celery_loads_what_it_needs_and_no_more():
    loaded = loaded_by("from workerkit import WorkerKit; WorkerKit(url='redis://localhost').limiter('api', '1/s')")
    assert "workerkit.api.limiter" in loaded
    assert not (FOR_LATER | {"celery", "kombu"}) & roots(loaded), f"a kit loads {loaded}"


def test_a_kit_on_an_app_loads_what_it_needs_and_no_more():
    app = "from celery import Celery, signals\nimport celery.bin.worker\napp = Celery('shop', broker='memory://')\n"
    loaded = loaded_by(
        f"{app}from workerkit import WorkerKit; WorkerKit(app, url='redis://localhost').memoize('1m')(len)"
    )
    assert "workerkit.celery.glue" in loaded
    assert not FOR_LATER & roots(loaded), f"a kit on an app loads {loaded}"
    # In a worker that is before the pool forks: children share what their parent has loaded.
    kit = "from workerkit import WorkerKit; WorkerKit(app, url='redis://localhost')\n"
    loaded = loaded_by(f"{app}{kit}signals.worker_init.send(None)")
    assert {"pydantic", "redis"} <= roots(loaded)
    assert {"workerkit.api.jobs", "workerkit.io.runner"} <= set(loaded)


def test_what_every_task_tells_loads_no_log_where_none_is_configured():
    kit = "from workerkit import WorkerKit; kit = WorkerKit(url='redis://localhost')\n"
    kit += "from workerkit.core.events import JobAttempt, StoreUp\n"
    assert not loaded_by(f"{kit}kit.engine.hooks.emit(JobAttempt('shop.load', 'began'))")
    told = "sys.stdout = sys.stderr; kit.engine.hooks.emit(StoreUp('cache')); sys.stdout = sys.__stdout__"
    assert "structlog" in roots(loaded_by(f"{kit}{told}"))
