"""The demo's load is what it says it is: seeded, by Zipf's law, and resumable at any row."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workerkit.demo import load
from workerkit.demo.evidence import Evidence, Tail


def test_a_seed_gives_the_same_lookups_and_another_gives_others():
    assert load.lookups(7) == load.lookups(7)
    assert load.lookups(7) != load.lookups(8)
    assert len(load.lookups(7)) == load.LOOKUPS


def test_names_follow_zipfs_law():
    counts = Counter(load.lookups(1, count=200_000))
    weights = {load.person(rank): rank**-load.EXPONENT for rank in range(1, load.PEOPLE + 1)}
    for rank in (1, 2, 5, 20, load.PEOPLE):
        name = load.person(rank)
        expected = 200_000 * weights[name] / sum(weights.values())
        assert abs(counts[name] - expected) < 6 * expected**0.5, name
    assert set(counts) == set(weights)


def test_the_hottest_are_the_first_ranks():
    ranked = [name for name, _ in Counter(load.lookups(1, count=200_000)).most_common(5)]
    assert ranked == load.hottest(5)


def test_a_cold_burst_comes_first_and_the_rest_in_an_even_pace():
    times = [load.due(number) for number in range(load.LOOKUPS)]
    assert times[load.AT_ONCE] == 0
    steps = {
        round(late - early, 9) for early, late in zip(times[load.AT_ONCE :], times[load.AT_ONCE + 1 :], strict=False)
    }
    assert steps == {round(1 / load.PER_SECOND, 9)}


@given(count=st.integers(0, 60), after=st.none() | st.integers(0, 60))
def test_reading_goes_on_behind_any_row(tmp_path_factory, count, after):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    load.write_rows(path, count)
    assert list(load.read_rows(path, after)) == list(range((after or 0) + 1, count + 1))


def test_evidence_is_read_once_and_in_order(tmp_path):
    evidence, tail = Evidence(str(tmp_path / "e")), Tail(tmp_path / "e")
    assert list(tail.lines()) == []
    evidence.add("row", row=1)
    evidence.add("row", row=2)
    assert list(tail.lines()) == ['{"kind": "row", "row": 1}', '{"kind": "row", "row": 2}']
    Evidence(str(tmp_path / "e")).add("row", row=3)
    assert list(tail.lines()) == ['{"kind": "row", "row": 3}']
    assert list(tail.lines()) == []


def test_a_line_that_is_still_being_written_waits_for_its_end(tmp_path):
    path = tmp_path / "e"
    tail = Tail(path)
    path.write_bytes("one\nt\N{LATIN SMALL LETTER O WITH DIAERESIS}".encode()[:-1])
    assert list(tail.lines()) == ["one"]
    path.write_bytes("one\nt\N{LATIN SMALL LETTER O WITH DIAERESIS}\n".encode())
    assert list(tail.lines()) == ["t\N{LATIN SMALL LETTER O WITH DIAERESIS}"]


def test_without_a_path_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Evidence(None).add("row", row=1)
    assert list(tmp_path.iterdir()) == []
