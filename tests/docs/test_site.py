"""The documentation is built as a site: without a warning, with every page of docs/index.md, asking no other host."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from workerkit import errors
from workerkit.api.cache import AioCache, Cache
from workerkit.api.job import AioJob, Job
from workerkit.api.jobs import AioJobs, Jobs
from workerkit.api.kit import WorkerKit
from workerkit.api.limiter import AioLimiter, Limiter
from workerkit.api.memo import AioMemo, Memo
from workerkit.api.parked import AioParkedTasks, ParkedTasks
from workerkit.api.sessions import AioSessions, Sessions

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "docs" / "index.md").read_text()


class Page(HTMLParser):
    """What a page of the site says of itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []  # what a browser asks for by itself
        self.tabs: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in {"script", "img", "iframe", "source"} and given.get("src"):
            self.fetched.append(given["src"] or "")
        if tag == "link":
            self.fetched.append(given.get("href") or "")
        self._inside = tag == "a" and given.get("class") == "md-tabs__link"

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.tabs.append(data.strip())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all tests; a warning of mkdocs fails them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts" / "docs_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_of_the_index_is_there_and_no_other(site: Path) -> None:
    listed = re.findall(r"^- \[[^]]+\]\(([^)#]+)\.md", INDEX, re.MULTILINE)
    made = {str(page.relative_to(site).with_suffix("")) for page in site.rglob("*.html")} - {"404", "index"}
    assert made == {*listed}
    assert len(listed) == len({*listed}), "a page is listed twice"


def test_the_tabs_are_the_parts_of_the_index(site: Path) -> None:
    parts = [part.partition(":")[0] for part in re.findall(r"^## (.+)$", INDEX, re.MULTILINE)]
    assert Page((site / "index.html").read_text()).tabs == ["Home", *dict.fromkeys(parts)]


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    fetched = {source for page in site.rglob("*.html") for source in Page(page.read_text()).fetched}
    assert fetched
    assert not {source for source in fetched if re.match(r"(https?:)?//", source)}
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", styles)


HANDLES: dict[type, type] = {
    WorkerKit: WorkerKit,
    Memo: AioMemo,  # its coroutine side has its verbs, and nothing else
    Cache: AioCache,
    Limiter: AioLimiter,
    ParkedTasks: AioParkedTasks,
    Job: AioJob,
    Jobs: AioJobs,
    Sessions: AioSessions,
}


@pytest.mark.parametrize("handle", HANDLES, ids=lambda handle: handle.__name__)
def test_every_verb_is_in_the_reference_with_its_docstring(site: Path, handle: type) -> None:
    shown = "".join(page.read_text() for page in (site / "reference" / "api").glob("*.html"))
    verbs = [name for name in vars(HANDLES[handle]) if not name.startswith("_")]
    for name in {*verbs, "aio"}:
        assert re.search(rf'id="workerkit\.[\w.]+\.{handle.__name__}\.{name}"', shown), name
        verb = getattr(handle, name)
        assert (getattr(verb, "func", verb).__doc__ or "").strip(), name


def test_every_error_is_in_the_reference(site: Path) -> None:
    shown = (site / "reference" / "api" / "errors.html").read_text()
    named = [
        name for name, made in vars(errors).items() if isinstance(made, type) and made.__module__ == errors.__name__
    ]
    assert "RateLimited" in named
    for name in named:
        assert f'id="workerkit.errors.{name}"' in shown


def test_what_examples_set_up_for_the_tests_is_not_shown(site: Path) -> None:
    assert "<!-- setup" in (ROOT / "docs" / "how-to" / "warm-operate.md").read_text()
    assert not [page for page in site.rglob("*.html") if "<!-- setup" in page.read_text()]


def test_a_part_with_a_colon_is_a_group_of_its_tab(hooks: ModuleType) -> None:
    index = (
        "# x\n## How to: limits\n- [Wait for `it`](a.md): b\n## How to: jobs\n- [C](c.md)\n## Reference\n- [D](d.md)\n"
    )
    assert hooks.navigation(index) == [
        {"Home": "index.md"},
        {"How to": [{"Limits": [{"Wait for it": "a.md"}]}, {"Jobs": [{"C": "c.md"}]}]},
        {"Reference": [{"D": "d.md"}]},
    ]
