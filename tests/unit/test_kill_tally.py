"""The counting of killed tasks, on logs written by hand: what the kill tests promise can be seen to be broken."""

from __future__ import annotations

from tests.kill_tally import Tally


def tally(*lines: str, sent: tuple[str, ...] = ("t0", "t1")) -> Tally:
    """Of lines "second step tasks who"."""
    parts = [line.split(" ") for line in lines]
    return Tally(list(sent), [f"{float(at) * 1e6:.0f} {' '.join(rest)}".encode() for at, *rest in parts])


def test_a_lost_task_was_parked_or_not() -> None:
    found = tally(
        "1 entered-first t0 w0:1", "2 parked t0 w0:1", "3 kill:parked:child t0 w0:1",
        "4 entered-first t1 w0:2", "5 kill:entered-first:worker t1 w0:2",
    )  # fmt: skip
    assert (found.parked_lost, found.first_lost) == (["t0"], ["t1"])
    assert found.rows["parked", "child"].parked_lost == 1
    assert found.rows["entered-first", "worker"].first_lost == 1


def test_one_that_was_never_seen_is_lost_by_the_last_who_could() -> None:
    found = tally(
        "1 kill:body:child t9 w0:1", "2 kill:broker:server - director", "3 entered-first t1 w0:2", "4 called-0 t1 w0:2",
        "5 kill:guard:server - director",
    )  # fmt: skip
    assert found.first_lost == ["t0"]
    assert found.rows["broker", "server"].first_lost == 1


def test_a_second_call_after_a_kill_is_explained() -> None:
    for kill, row in {
        "2 kill:body:child t0 w0:1": ("body", "child"),
        "2 kill:published:worker t7 w0:3": ("published", "worker"),  # the worker that had run it
        "2 kill:broker:server - director": ("broker", "server"),
        "0.8 kill:body:main t7 w0:3": ("body", "main"),  # dying while its child called
        "0.5 kill:guard:server - director": ("guard", "server"),
        "-9 kill:guard:server - director\n-8 postponed t0 w0:1": ("guard", "server"),  # two messages of it
    }.items():
        found = tally("-10 entered-first t0 w0:1", "1 called-0 t0 w0:1", *kill.split("\n"), "9 called-0 t0 w1:1")
        assert (found.duplicates, found.unexplained) == (1, [])
        assert found.rows[row].duplicates == 1


def test_a_second_call_without_a_kill_is_not() -> None:
    for kill in (
        "8 kill:broker:server - director",  # long after
        "-3 kill:guard:server - director",  # long before
        "2 kill:body:child t1 w0:1",  # another task's
        "2 kill:published:worker t7 w2:3",  # another worker
        "0.9 kill:parked:child t0 w0:1",  # before the first
        "10 kill:body:child t0 w1:1",
    ):
        found = tally("1 called-0 t0 w0:1", kill, "9 called-0 t0 w1:1")
        assert found.unexplained == ["t0"]


def test_calls_are_counted_in_every_window_and_by_key() -> None:
    found = tally("1 called-0 t0 w:1", "2.9 called-0 t1 w:1", "2.95 called-0 t2 w:1", "3.0 called-0 t3 w:1",
                  "2.95 called-1 t4 w:1")  # fmt: skip
    assert found.most_in_any(2.0) == 3


def test_recovery_lasts_until_the_task_is_in_hand_again() -> None:
    found = tally(
        "1 entered-back t0 w0:1", "1 kill:entered-back:child t0 w0:1", "1.5 entered-back t1 w0:1",
        "3 entered-back t0 w0:2", "4 kill:broker:server - director", "6 back - director", "6.5 called-0 t0 w0:2",
    )  # fmt: skip
    assert found.rows["entered-back", "child"].seconds == [2.0]
    assert found.rows["broker", "server"].seconds == [0.5]
    row = "redis     entered-back   child        1       0       0        0       2.00      2.00"
    assert row in found.table("redis").splitlines()
