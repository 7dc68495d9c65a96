"""Every example of the documentation runs as it stands, page by page, on a private server; what it claims is compared.

A page is one module: its python blocks share a namespace and an event loop. `expression  # -> value` is a claim, and so
is `statement  # raises SomeError`. A sh block of `celery -A shop workerkit ...` is run with the page's `app`. A text
block right after such a block is what it prints, numbers and digests aside. `<!-- setup ... -->` is run too, for what
readers need not see. There `later("11m")` moves the server's clock; `work(app)` has a worker in a thread, which knows
the tasks defined so far, until the page ends or it is called again; `eventually(found)` waits until `found()` is true.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import pytest
from celery import Celery, _state
from celery.contrib.testing.worker import start_worker
from celery.worker import state
from kombu.transport import memory

from workerkit import WorkerKit, http
from workerkit.api.cache import AioCache
from workerkit.api.job import AioJob
from workerkit.api.joblist import JobPage, JobTree, LostJob
from workerkit.api.jobs import AioJobs
from workerkit.api.limiter import AioLimiter
from workerkit.api.memo import AioMemo
from workerkit.api.parked import AioParkedTasks
from workerkit.api.sessions import AioSessions, Session
from workerkit.api.settings import Settings
from workerkit.api.warmup import WarmStatus, Warmup
from workerkit.cache.computation import Computation, Source
from workerkit.cache.explain import Explanation
from workerkit.cache.ledger import CacheStats
from workerkit.cli.plugin import workerkit
from workerkit.cli.warm import warm
from workerkit.core import events
from workerkit.core.clock import ServerClock
from workerkit.core.durations import humanize, seconds
from workerkit.http import RateLimitedTransport
from workerkit.io import server
from workerkit.jobs.events import JobUpdate, Kind
from workerkit.jobs.record import JobView, Status
from workerkit.limits.decision import Decision, Reservation
from workerkit.limits.lease import Slot
from workerkit.limits.tally import KeyCount, LimitStats
from workerkit.limits.usage import RateUsage, Usage
from workerkit.waitlist import listing
from workerkit.warming.plan import Pick, Plan, Skip
from workerkit.warming.run import Outcome

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "index.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXAMPLES = [page for page in PAGES if page.parent.name != "tutorials"]  # test_tutorial.py follows those
TEXTS = [*PAGES, *sorted(ROOT.glob("*.md"))]
REFERENCE, LIMITS, THROTTLE, JOBS, WARMING = (
    (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    for name in ("memoize", "limiter", "throttle", "jobs", "warming")
)
# Blocks that are compiled and not run, and why: {(name of the page, number of the block): reason}.
NOT_RUN: dict[tuple[str, int], str] = {
    ("migrate-from-celery-progress.md", 1): "celery-progress needs Django",
    ("migrate-from-celery-once.md", 1): "celery-once is not installed: nothing else needs it",
    ("migrate-from-celery-once.md", 2): "celery-singleton is not installed: nothing else needs it",
}
# What a page shows beside this library, and is in the extra `bench`.
BESIDE = {"migrate-from-dogpile-cache.md": "dogpile.cache", "migrate-from-limits.md": "limits"}
INSIDE = {"skipped", "spare", "tags", "token"}  # what a computation has for the cache's own use

_PART = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$|^```python\n(?P<python>.*?)^```$|(?<=^```\n\n)^```text\n(?P<text>.*?)^```$"
    r"|^```sh\n(?P<sh>(?:celery -A shop workerkit [^\n]*\n)+)^```$",
    re.DOTALL | re.MULTILINE,
)
_CLAIM = re.compile(r"^(\s*)(.+?)  # -> (.+)$", re.MULTILINE)
_RAISES = re.compile(r"^(\s*)(.+?)  # raises (\w+).*$", re.MULTILINE)
_VARIES = re.compile(r"[0-9a-f]{8,}|(?:\d+(?:,\d{3})*(?:\.\d+)?(?:[um]?s|[mhd])?)+")  # "1h30m", "1,000"


class Part(NamedTuple):
    """A piece of a page: what it is, its text, and the line of the page on which the text begins."""

    kind: str
    text: str
    line: int


def parts(page: Path) -> list[Part]:
    text = page.read_text()
    found = [(match, str(match.lastgroup)) for match in _PART.finditer(text)]
    return [Part(kind, match[kind], text.count("\n", 0, match.start(kind))) for match, kind in found]


def compiled(part: Part, page: Path) -> types.CodeType:
    """The block, with its claims as calls, on the lines that it has in the page."""
    text = _RAISES.sub(r"\1with _raises(\3): \2", _CLAIM.sub(r"\1_same((\2), (\3))", part.text))
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile("\n" * part.line + text, str(page), "exec", flags=flags, dont_inherit=True)


def command(line: str, app: Celery) -> None:
    """Run `celery -A shop workerkit ...` here, as the app's users would."""
    words = shlex.split(line, comments=True)[4:]
    said = re.search(r"# exits with (\d)$", line)
    status = workerkit.main(words, obj=SimpleNamespace(app=app), standalone_mode=False) or 0
    assert status == (int(said[1]) if said else 0), f"{line!r} exits with {status}"


def same(found: object, said: object) -> None:
    assert found == said
    assert type(found) is type(said)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`later("11m")`: entries are so much older from now on."""

    class Clock(ServerClock):
        ahead_us = 0

        def at(self, monotonic: float) -> int:
            return super().at(monotonic) + Clock.ahead_us

        def now_us(self) -> int:
            return super().now_us() + Clock.ahead_us

    def move(duration: str) -> None:
        Clock.ahead_us += int(seconds(duration, what="later") * 1e6)

    monkeypatch.setattr(server, "ServerClock", Clock)
    return move


@contextmanager
def worker(app: Celery) -> Iterator[None]:
    app.conf.update(broker_transport_options={"polling_interval": 0.01}, worker_hijack_root_logger=False)
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL") as running:
        try:
            yield
        finally:
            for step in running.steps:
                # Celery's worker for tests ends without stopping its steps.
                if hasattr(step, "pump") or hasattr(step, "looking"):
                    step.stop(running)
            state.should_terminate = 0
            for _ in range(2):  # else it waits two seconds for a message before it looks, and once more after that
                app.send_task("celery.backend_cleanup")


def eventually(found: Callable[[], object], patience: float = 30.0) -> None:
    until = time.monotonic() + patience
    while not found():
        assert time.monotonic() < until, "what the page waits for has not come"
        time.sleep(0.01)


@pytest.fixture
def space(redis_url: str, later: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The namespace of a page: that of a module `shop`, where pickle finds its classes."""
    shop = types.ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)
    monkeypatch.setenv("WORKERKIT_REDIS_URL", redis_url)
    # A task puts itself into every other app of the process: a page's is not for other tests, nor theirs for a page.
    own = {each for each in _state._on_app_finalizers if each.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)
    monkeypatch.setattr(_state, "default_app", _state.default_app)  # a worker's app becomes that
    monkeypatch.setattr(memory.Channel, "queues", {})  # else a worker gets what other pages have sent
    vars(shop).update(_same=same, _raises=pytest.raises, later=later, eventually=eventually)
    return vars(shop)


@contextmanager
def loop(space: dict[str, Any]) -> Iterator[asyncio.Runner]:
    """An event loop for the page, at whose end its workers are stopped and its kits closed."""
    with asyncio.Runner() as runner:
        try:
            with ExitStack() as workers:

                def work(app: Celery) -> None:
                    workers.close()
                    workers.enter_context(worker(app))

                space["work"] = work
                yield runner
        finally:
            for kit in [each for each in space.values() if isinstance(each, WorkerKit)]:
                runner.run(kit.aio.close())
                kit.close()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # dogpile.cache's, not ours
@pytest.mark.parametrize("page", [page for page in EXAMPLES if parts(page)], ids=lambda page: page.stem)
def test_page(page: Path, space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    if page.name in BESIDE:
        pytest.importorskip(
            BESIDE[page.name], reason=f"{BESIDE[page.name]} is not installed: pip install -e '.[bench]'"
        )
    number, printed, run = 0, "", ""
    with loop(space) as runner:
        for part in parts(page):
            if part.kind == "text":
                assert _VARIES.sub("N", printed).split() == _VARIES.sub("N", part.text).split()
                continue
            if part.kind == "sh":
                for line in part.text.splitlines():
                    command(line, space["app"])
                printed = capsys.readouterr().out
                continue
            code = compiled(part, page)
            number += part.kind == "python"
            if part.kind == "python" and (page.name, number) in NOT_RUN:
                continue
            coroutine = eval(code, space)
            if inspect.iscoroutine(coroutine):
                runner.run(coroutine)
            printed, run = capsys.readouterr().out, run + part.text
    assert _CLAIM.search(run), "a page that claims nothing shows nothing"


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_every_block_is_found(page: Path) -> None:
    found = Counter(part.kind for part in parts(page))
    text = page.read_text()
    assert found["python"] == text.count("```py") - text.count(
        "```python title="
    )  # files: test_tutorial.py writes them
    assert found["setup"] == page.read_text().count("<!-- setup")


def shown(pages: Iterable[Path]) -> str:
    return "\n".join(part.text for page in pages for part in parts(page) if part.kind == "python")


SHOWN = shown(PAGES)
SHOWN_LIMITS, SHOWN_THROTTLE, SHOWN_JOBS, SHOWN_SESSIONS, SHOWN_WARMING = (
    shown(page for page in PAGES if page.stem.startswith(part))
    for part in ("limit-", "throttle-", "job-", "sessions", "warm-")
)
OPTIONS = {name: each.default for name, each in inspect.signature(WorkerKit.memoize).parameters.items()}
del OPTIONS["self"]
VERBS = [name for name in vars(AioMemo) if not name.startswith("_")]
CACHE_VERBS = [name for name in vars(AioCache) if not name.startswith("_")]
LIMIT_OPTIONS, TRANSPORT_OPTIONS, THROTTLE_OPTIONS, JOB_OPTIONS, WARM_OPTIONS = (
    {name: each.default for name, each in inspect.signature(made).parameters.items() if each.kind is each.KEYWORD_ONLY}
    for made in (WorkerKit.limiter, RateLimitedTransport, WorkerKit.throttle, WorkerKit.job, WorkerKit.warmup)
)
LIMIT_VERBS = [name for name in vars(AioLimiter) if not name.startswith("_")]
WAITLIST_VERBS = [name for name in vars(AioParkedTasks) if not name.startswith("_")]
JOB_VERBS, JOBS_VERBS, SESSION_VERBS = (
    [name for name in vars(made) if not name.startswith("_")] for made in (AioJob, AioJobs, AioSessions)
)
ASKED_BY_LISTINGS = {"late", "looks", "standing"}  # how a warmup stands, for who asks of many at once
WARM_VERBS = [
    name
    for name, made in vars(Warmup).items()
    if not name.startswith("_") and callable(made) and name not in ASKED_BY_LISTINGS
]
WARM_SETTINGS = [name for name in Settings.model_fields if name.startswith("warm_")]
WAITLIST_SETTINGS = [name for name in Settings.model_fields if name.startswith("waitlist_")]
OWN = {
    "charged",
    "end",
    "ends",
    "exact",
    "holder",
    "key",
    "leased",
    "renewed",
    "stamp",
}  # what admissions keep for themselves


def table(heading: str, reference: str = REFERENCE) -> dict[str, list[str]]:
    """The rows of the table under a heading of the reference, by the names in their first cells."""
    _, _, rest = reference.partition(f"\n## {heading}\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {name: row[1:] for row in cells for name in re.findall(r"`([\w.]+)", row[0])}


def test_the_options_and_their_defaults() -> None:
    shown = {inspect.Parameter.empty: "", "": '`""`', "inline": '`"inline"`'}
    units = {"lease": humanize, "wait": humanize, "max_bytes": lambda size: f"{size // 2**20} MiB"}
    defaults = {name: shown.get(default, f"`{default}`") for name, default in OPTIONS.items()}
    for name in defaults.keys() & Settings.model_fields.keys():
        assert OPTIONS[name] is None
        defaults[name] = f"`workerkit_{name}`: {units.get(name, str)(Settings.model_fields[name].default)}"
    assert {name: cells[-1] for name, cells in table("Options").items()} == defaults


def test_everything_has_its_row() -> None:
    assert set(table("The handle")) == {*VERBS, "current", "aio"}
    assert set(table("kit.cache")) == set(CACHE_VERBS)
    assert set(table("CacheStats")) == {*CacheStats._fields, "calls", "hit_rate"}
    assert set(table("Explanation")) == {field.name for field in fields(Explanation)}
    assert set(table("memo.current")) == {name for name in dir(Computation) if not name.startswith("_")} - INSIDE
    assert set(table("Entry: where a value came from")) == set(get_args(Source))
    names = {each.name for each in events.Event.__subclasses__()}
    assert set(table("Events")) == {name for name in names if name.startswith(("cache.", "store.", "back"))} - {
        "store.guard"
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_shown(name: str) -> None:
    written = r'"' if name == "ttl" else rf".*\b{name}="
    assert re.search(rf"@kit\.memoize\({written}", SHOWN)


@pytest.mark.parametrize("verb", [*[f"memo.{name}" for name in VERBS], *[f"kit.cache.{name}" for name in CACHE_VERBS]])
def test_every_verb_is_shown(verb: str) -> None:
    assert f"{verb}(" in SHOWN
    handle, _, name = verb.rpartition(".")
    assert verb == "memo.key" or f"{handle}.aio.{name}(" in SHOWN


def written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def defaults(heading: str, reference: str) -> dict[str, str]:
    return {name: cells[-1].partition("`:")[0].strip("`") for name, cells in table(heading, reference).items()}


@pytest.mark.parametrize(
    ("heading", "options", "reference"),
    [
        ("Options", LIMIT_OPTIONS, LIMITS),
        ("Transports", TRANSPORT_OPTIONS, LIMITS),
        ("Options", THROTTLE_OPTIONS, THROTTLE),
        ("Options", JOB_OPTIONS, JOBS),
        ("Options", WARM_OPTIONS, WARMING),
    ],
    ids=["limiter", "transport", "throttle", "job", "warmup"],
)
def test_options_and_their_defaults(heading: str, options: dict[str, Any], reference: str) -> None:
    assert defaults(heading, reference) == {name: written(default) for name, default in options.items()}


def test_everything_of_a_limiter_has_its_row() -> None:
    records = (Usage, RateUsage)
    assert set(table("Verbs", LIMITS)) == {*LIMIT_VERBS, "aio"}
    assert {each: set(table(each.__name__, LIMITS)) for each in records} == {
        each: {field.name for field in fields(each)} for each in records
    }
    assert set(table("Reservation", LIMITS)) == {field.name for field in fields(Reservation)} - OWN
    assert set(table("Decision", LIMITS)) == {*Decision._fields, "bound_by"}
    assert set(table("Slot", LIMITS)) == {name for name in dir(Slot) if not name.startswith("_")} - OWN
    assert set(table("LimitStats", LIMITS)) == set(LimitStats._fields)
    assert set(table("KeyCount", LIMITS)) == {*KeyCount._fields, "asked"}


@pytest.mark.parametrize(
    ("prefix", "reference"), [("limits.", LIMITS), ("throttle.", THROTTLE), ("job", JOBS), ("warm.", WARMING)]
)
def test_every_event_has_its_row_and_fields(prefix: str, reference: str) -> None:
    there = {each.name: each for each in events.Event.__subclasses__() if each.name.startswith(prefix)}
    rows = table("Events", reference)
    assert set(rows) == set(there)
    for name, event in there.items():
        assert set(re.findall(r"`(\w+)`", rows[name][0])) == {each.name for each in fields(event)}


def test_everything_of_the_waitlist_has_its_row() -> None:
    assert set(table("kit.waitlist", THROTTLE)) == {*WAITLIST_VERBS, "aio"}
    assert set(table("States", THROTTLE)) == set(get_args(listing.State))
    for record in (listing.ParkedTask, listing.WaitingLine, listing.Explanation):
        assert set(table(record.__name__, THROTTLE)) == {field.name for field in fields(record)}
    assert defaults("Settings", THROTTLE) == {
        f"workerkit_{name}": written(Settings.model_fields[name].default)
        for name in ("sleep_under", *WAITLIST_SETTINGS)
    }


def test_everything_of_jobs_has_its_row() -> None:
    assert set(table("Job", JOBS)) == {*JOB_VERBS}
    assert set(table("kit.jobs", JOBS)) == {*JOBS_VERBS, "aio"}
    assert set(table("States", JOBS)) == set(get_args(Status))
    for record in (JobView, LostJob, JobTree):
        assert set(table(record.__name__, JOBS)) == {field.name for field in fields(record)}
    assert set(table("JobPage", JOBS)) == set(JobPage._fields)
    assert set(table("JobUpdate", JOBS)) == {*JobUpdate._fields, *get_args(Kind)}
    assert set(table("kit.sessions", JOBS)) == {*SESSION_VERBS, "aio"}
    assert set(table("Session", JOBS)) == {name for name in dir(Session) if not name.startswith("_")} - {
        "updating",
        "deleting",
    }


def test_everything_of_warming_has_its_row() -> None:
    assert set(table("Warmup", WARMING)) == {*WARM_VERBS, "name", "on_start", "period"}
    assert {each: set(table(each.__name__, WARMING)) for each in (Outcome, Pick, Skip)} == {
        each: set(each._fields) for each in (Outcome, Pick, Skip)
    }
    assert set(table("Plan", WARMING)) == {*Plan._fields, "seconds"}
    assert set(table("WarmStatus", WARMING)) == {field.name for field in fields(WarmStatus)}
    assert set(table("History", WARMING)) == {*Outcome._fields, "seconds", "tick", "reason", "at"}
    assert set(table("The command line", WARMING)) == set(warm.commands)
    assert defaults("Settings", WARMING) == {
        f"workerkit_{name}": f'"{Settings.model_fields[name].default}"' for name in WARM_SETTINGS
    }


@pytest.mark.parametrize("name", WARM_OPTIONS)
def test_every_option_of_a_warmup_is_shown(name: str) -> None:
    calls = [each for each in ast.walk(ast.parse(SHOWN_WARMING)) if isinstance(each, ast.Call)]
    assert any(name == each.arg for call in calls if ast.unparse(call.func) == "kit.warmup" for each in call.keywords)


@pytest.mark.parametrize("verb", sorted({*WARM_VERBS} - {"send_due", "go_on"}))  # what ticks and messages call
def test_every_verb_of_a_warmup_is_shown(verb: str) -> None:
    assert re.search(rf"\bwarmup\.{verb}\(", SHOWN_WARMING)


@pytest.mark.parametrize("name", [*warm.commands])
def test_every_command_of_warming_is_shown(name: str) -> None:
    assert f"\ncelery -A shop workerkit warm {name}" in (ROOT / "docs" / "how-to" / "warm-operate.md").read_text()


@pytest.mark.parametrize("name", JOB_OPTIONS)
def test_every_option_of_a_job_is_shown(name: str) -> None:
    assert re.search(rf"(?:@kit\.job|kit\.jobs\.begin)\(.*\b{name}=", SHOWN_JOBS)


@pytest.mark.parametrize("verb", JOB_VERBS)
def test_every_verb_of_a_job_is_shown(verb: str) -> None:
    assert re.search(rf"\bjob\.{verb}\(", SHOWN_JOBS)
    assert f"job.aio.{verb}(" in SHOWN_JOBS


@pytest.mark.parametrize("name", LIMIT_OPTIONS)
def test_every_option_of_a_limiter_is_shown(name: str) -> None:
    assert re.search(rf'kit\.limiter\(".*\b{name}=', SHOWN_LIMITS)


@pytest.mark.parametrize("name", THROTTLE_OPTIONS)
def test_every_option_of_a_throttle_is_shown(name: str) -> None:
    assert re.search(rf"@kit\.throttle\(.*\b{name}=", SHOWN_THROTTLE)


@pytest.mark.parametrize(
    ("verb", "pages"),
    [
        (f"kit.{handle}.{verb}", pages)
        for handle, verbs, pages in (
            ("waitlist", WAITLIST_VERBS, SHOWN_THROTTLE),
            ("jobs", JOBS_VERBS, SHOWN_JOBS),
            ("sessions", SESSION_VERBS, SHOWN_SESSIONS),
        )
        for verb in verbs
    ],
    ids=lambda each: each if len(each) < 60 else "",
)
def test_every_verb_of_a_handle_is_shown(verb: str, pages: str) -> None:
    handle, _, name = verb.rpartition(".")
    assert f"{verb}(" in pages
    assert f"{handle}.aio.{name}(" in pages


@pytest.mark.parametrize("name", WAITLIST_SETTINGS)
def test_every_setting_of_the_waitlist_is_shown(name: str) -> None:
    assert f"app.conf.workerkit_{name} = " in SHOWN_THROTTLE


@pytest.mark.parametrize("name", TRANSPORT_OPTIONS)
def test_every_option_of_a_transport_is_shown(name: str) -> None:
    assert re.search(rf"RateLimited(?:Transport|Adapter)\(.*\b{name}=", SHOWN_LIMITS)


@pytest.mark.parametrize("verb", LIMIT_VERBS)
def test_every_verb_of_a_limiter_is_shown(verb: str) -> None:
    assert re.search(rf"\b(?!aio\b)\w+\.{verb}\(", SHOWN_LIMITS)
    assert f".aio.{verb}(" in SHOWN_LIMITS


@pytest.mark.parametrize("name", [*http.__all__])
def test_every_transport_is_shown(name: str) -> None:
    assert f"{name}(" in SHOWN_LIMITS
    assert f"`{name}" in LIMITS


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_links_lead_somewhere(text: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", text.read_text()):
        found = (text.parent / target).resolve() if target else text
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def anchors(text: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_leads_to_every_page() -> None:
    linked = {(INDEX.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)", INDEX.read_text())}
    assert {page for page in PAGES if page != INDEX} <= linked


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("1 + 1  # -> 3", AssertionError),
        ("1 + 1  # -> 2.0", AssertionError),
        ("int('1')  # raises ValueError", pytest.fail.Exception),
        ("int('x')", ValueError),
    ],
)
def test_a_wrong_claim_is_found(wrong: str, error: type[BaseException]) -> None:
    code = compiled(Part("python", wrong, 3), Path("page.md"))
    with pytest.raises(error) as caught:
        eval(code, {"_same": same, "_raises": pytest.raises})
    assert any(str(entry.path) == "page.md" and entry.lineno == 3 for entry in caught.traceback)
