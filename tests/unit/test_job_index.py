"""The index of jobs with no server: labels and keys, pages, cursors, and what cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.api.joblist import Ask, _next, _position, asked, tree
from workerkit.core.keys import Keys
from workerkit.errors import DefinitionError
from workerkit.jobs import policy
from workerkit.jobs.index import BANDS, NUMBERS, TOP, Entry, Index, Labels, _spots, known_entry
from workerkit.jobs.record import TERMINAL

INDEX = Index(Keys("wk", "j"))
_texts = st.text(st.characters(), min_size=1, max_size=200)  # lone surrogates, too
_labels = st.builds(
    Labels, _texts, st.none() | _texts, st.lists(_texts, max_size=16, unique=True).map(tuple), st.none() | _texts
)


@given(_labels)
def test_what_the_index_is_told_comes_back(labels: Labels) -> None:
    call = INDEX._put(Entry("é\udcff", 7, "FAILURE", 3, labels), 60)
    job_id, *_, told, _ = call.args
    known = f"7 5 3 {told!s}".encode("ascii")
    assert known_entry("é\udcff", known, "LOST") == Entry("é\udcff", 7, "LOST", 3, labels, 5)
    assert job_id == "é\udcff".encode("utf-8", "surrogatepass")
    assert len(call.keys) == len(set(call.keys)) == 4 + len(INDEX._by(labels))


@given(st.lists(_texts, min_size=2, max_size=20, unique=True))
def test_no_two_labels_share_a_key_and_all_share_a_slot(texts: list[str]) -> None:
    keys = [make(text) for text in texts for make in (INDEX.owner, INDEX.tag, INDEX.root)]
    keys += [INDEX.all, INDEX.infos, INDEX.alive, INDEX.expiring]
    assert len(keys) == len(set(keys))
    assert all(key.startswith("wk:j:{jobs:index}:") and key.isascii() and len(key) < 110 for key in keys)
    assert not any(set(key.removeprefix("wk:j:{jobs:index}:")) & set("{}: \n\r\x00") for key in keys)


def test_a_status_only_grows() -> None:
    assert [NUMBERS[status] for status in BANDS] == list(range(1, 8))
    assert {status for status in BANDS if NUMBERS[status] > NUMBERS["RETRY"]} == TERMINAL | {"LOST"}
    assert 8 * (TOP + 1) < 2**53  # a double holds every score exactly


_jobs = st.lists(
    st.tuples(st.integers(0, 5), st.binary(min_size=1, max_size=2), st.integers(1, 7), st.booleans()),
    max_size=40,
    unique_by=lambda job: job[1],
)


def script(
    jobs: list[tuple[int, bytes, int, bool]], bands: list[int], most: int, looks: int, after: tuple[int, bytes] | None
) -> list[Any]:
    """What page.lua answers."""
    reply: list[Any] = [1]
    for band in bands:
        found: list[Any] = []
        stopped: list[Any] = []
        looked = 0
        for offset, member, _, everywhere in sorted((job for job in jobs if job[2] == band), reverse=True):
            if after is not None and (offset, member) >= after:
                continue
            looked += 1
            found += [member, offset] if everywhere else []
            if len(found) == 2 * most or looked == looks:
                stopped = [member, offset]
                break
        reply += [found, stopped]
    return reply


@given(_jobs, st.lists(st.integers(1, 7), min_size=1, unique=True), st.integers(1, 9), st.integers(1, 9))
def test_pages_are_all_that_is_there_in_order(jobs: list[Any], bands: list[int], most: int, looks: int) -> None:
    wanted = sorted((job[:3] for job in jobs if job[2] in bands and job[3]), reverse=True)
    seen: list[tuple[int, bytes, int]] = []
    after = None
    while True:
        spots = _spots(script(jobs, bands, most + 1, looks, after), bands, most)
        assert len(spots.found) <= most
        seen += spots.found
        if spots.after is None:
            break
        assert after is None or spots.after < after
        after = spots.after
    assert seen == wanted


@given(st.integers(0, TOP), _texts)
def test_a_position_comes_back(offset: int, job_id: str) -> None:
    position = offset, job_id.encode("utf-8", "surrogatepass")
    assert _position(_next(position)) == position
    assert _next(position).isascii()
    assert _position("") is None
    assert _next(None) == ""


@pytest.mark.parametrize(
    "after",
    [
        None,
        5,
        b"1.a",
        "x",
        "1",
        ".",
        "a.b",
        "-1.a",
        "1.",
        "1.a b",
        "1.%zz",
        "1.%ff",
        f"{2**44}.a",
        " 1.a",
        "1.a\n",
        "٣.a",
    ],
)
def test_what_is_no_position_is_refused(after: Any) -> None:
    with pytest.raises(DefinitionError, match="next"):
        ask(after=after)


def ask(**given: Any) -> tuple[Ask, tuple[int, bytes] | None, int]:
    defaults = {"owner": None, "tag": None, "status": None, "stuck": False, "lost": False, "after": "", "most": 100}
    return asked(**{**defaults, **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"owner": ""}, "owner"),
        ({"owner": 5}, "owner"),
        ({"owner": "x" * 201}, "owner"),
        ({"tag": ""}, "tag"),
        ({"tag": ["a"]}, "tag"),
        ({"tag": b"a"}, "tag"),
        ({"tag": "x" * 201}, "tag"),
        ({"status": "DONE"}, "RUNNING, RETRY, SUCCESS"),
        ({"status": "LOST"}, "status"),
        ({"status": "success"}, "status"),
        ({"status": ["RUNNING"]}, "status"),
        ({"status": ""}, "status"),
        ({"lost": True, "status": "RUNNING"}, "leave out"),
        ({"lost": True, "stuck": True}, "leave out"),
        ({"stuck": True, "status": "RETRY"}, "leave out"),
        ({"most": 0}, "most"),
        ({"most": 1001}, "most"),
        ({"most": True}, "most"),
        ({"most": "10"}, "most"),
        ({"most": 1.0}, "most"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        ask(**given)


@pytest.mark.parametrize(
    ("owner", "tags", "says"),
    [
        (None, "import", r"tags=\['import'\]"),
        (None, [["a"]], "tags must be text"),
        (None, [""], "tags must be text"),
        (None, [str(number) for number in range(17)], "17 tags"),
        ("", [], "owner must be text"),
        (["a"], [], "owner must be text"),
    ],
)
def test_a_job_is_not_labelled_so(owner: Any, tags: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        policy.labels(owner, tags)


def test_where_jobs_are_looked_for() -> None:
    assert ask()[0].sources(INDEX) == [INDEX.all]
    assert ask(owner="o", tag="t", status="RETRY")[0].sources(INDEX) == [INDEX.owner("o"), INDEX.tag("t")]
    assert ask(tag="t", stuck=True)[0].sources(INDEX) == [INDEX.alive, INDEX.tag("t")]
    assert ask(status="RETRY")[0].bands == (2,)
    assert ask(lost=True)[0].bands == (7,)
    assert ask()[0].bands == (1, 2, 3, 4, 5, 6)


def test_a_tree_asks_for_all_of_its_root() -> None:
    call = next(tree(INDEX, "root"))
    assert call.keys == (INDEX.root("root"),)  # type: ignore[union-attr]  # the first step is a Call
    assert call.args[-7:] == (1, 2, 3, 4, 5, 6, 7)  # type: ignore[union-attr]  # as above
