"""docs/reference/events.md lists the events that there are, as they are; no page knows another."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from workerkit.core import events

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `([a-z.]+\.[a-z_]+)` \| (?:([a-z]+) \| )?(`.*?`)? ?\|", re.MULTILINE)
# A table of fields that has the part of an event's name before the dot, in pages of the parts.
PARTS = "store|cache|limits|throttle|job|warm|background"


def kinds() -> dict[str, type[events.Event]]:
    found = [each for each in vars(events).values() if isinstance(each, type) and issubclass(each, events.Event)]
    return {each.name: each for each in found if each is not events.Event}


def rows(page: str) -> dict[str, tuple[str, list[str]]]:
    """Of each event's row: its level, and the fields that it names."""
    found = {}
    for name, level, cells in ROW.findall((DOCS / page).read_text()):
        found[name] = level, re.findall(r"`([a-z_]+)`", cells.split(" | ")[0])
    return found


def test_the_reference_lists_each_event_with_its_level_and_fields() -> None:
    expected = {
        name: (kind.level, [field.name for field in dataclasses.fields(kind)]) for name, kind in kinds().items()
    }
    assert rows("reference/events.md") == expected


def test_the_parts_pages_say_the_same() -> None:
    expected = {name: [field.name for field in dataclasses.fields(kind)] for name, kind in kinds().items()}
    for page in ("memoize", "limiter", "throttle", "jobs", "warming"):
        table = (DOCS / "reference" / f"{page}.md").read_text().partition("## Events")[2].partition("\n## ")[0]
        found = re.findall(r"^\| `([a-z._]+)` \| ([^|]*) \|", table, re.MULTILINE)
        assert found, f"{page}.md has no table of events"
        for name, cell in found:
            assert re.findall(r"`([a-z_]+)`", cell) == expected[name], f"{page}.md: {name}"


def test_no_page_names_an_event_that_there_is_not() -> None:
    for page in DOCS.rglob("*.md"):
        for line in page.read_text().splitlines():
            for name in re.findall(rf"^\| `((?:{PARTS})\.[a-z_]+)` \|", line):
                if name.startswith(("cache.hit", "cache.stampede", "cache.submit", "limits.", "jobs.", "warm.zipf")):
                    continue  # rows of benches
                if page.name == "testing.md":
                    continue  # attributes
                assert name in kinds(), f"{page.name}: {name}"
