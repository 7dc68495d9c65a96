"""The demo's load: whom the lookups ask for (a few people very often, most seldom), what tenants want, an import."""

from __future__ import annotations

import csv
import hashlib
import random
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOKUPS = 600
PEOPLE = 80
# About 67 of the 80 are asked for, the ten hottest in 70% of the lookups: computing each once leaves 89% to the cache.
EXPONENT = 1.2
AT_ONCE = 60  # on a cold cache: more than the API may be asked at once
PER_SECOND = 60  # the rest

REPORTS_PER_SECOND = 10  # so few that even a slow machine has to park most of them
# Two tenants at once, one of which wants nine times as much; and one that comes just before Redis crashes.
LARGE, SMALL, LATER = ("acme", 90), ("bolt", 10), ("corp", 30)

ROWS = 4000
PAGE = 20  # rows that the import confirms with one call of the API


def person(rank: int) -> str:
    """The name of the person who is the `rank`-th most asked for, from 1."""
    return f"person-{rank:02}"


def hottest(count: int) -> list[str]:
    """The people most asked for."""
    return [person(rank) for rank in range(1, count + 1)]


def lookups(seed: int, count: int = LOOKUPS) -> list[str]:
    """Whom to look up, by Zipf's law: the probability of rank r is proportional to 1 / r**EXPONENT."""
    ranks = range(1, PEOPLE + 1)
    weights = [rank**-EXPONENT for rank in ranks]
    return [person(rank) for rank in random.Random(seed).choices(ranks, weights, k=count)]


def reports(tenant: str, count: int) -> list[tuple[str, int]]:
    """The arguments of a tenant's reports."""
    return [(tenant, number) for number in range(1, count + 1)]


def report(tenant: str, number: int) -> str:
    """What the API is asked for one."""
    return f"{tenant}-{number:03}"


def due(number: int) -> float:
    """When to send the lookup of this number: seconds after the first."""
    return max(0, number - AT_ONCE) / PER_SECOND


def answer(name: str) -> str:
    """What the API must answer for a name; worked out here, so that a wrong result cannot pass for a right one."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def write_rows(path: Path, count: int = ROWS) -> None:
    """The file to import: a line a row, numbered from 1."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "name"))
        writer.writerows((number, person(1 + number % PEOPLE)) for number in range(1, count + 1))


def read_rows(path: Path, after: int | None) -> Iterator[int]:
    """The rows' numbers, from the one behind `after` on; None means all."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in islice(csv.DictReader(file), after or 0, None):
            yield int(row["id"])
