"""Remembered failures: which, for how long, and that nothing stored names a class."""

from __future__ import annotations

import pytest

from workerkit.cache.failures import Failures
from workerkit.core.codec import Codec


class NotFound(Exception): ...


class NoUser(NotFound): ...


class Picky(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(code)
        self.detail = detail


FAILURES = Failures({NotFound: "30s", LookupError: 5, Picky: 1})


def test_the_nearest_declared_class_says_how_long() -> None:
    lives = [FAILURES.life(error) for error in (NotFound(), NoUser(), KeyError(), ValueError(), Exception())]
    assert lives == [30.0, 30.0, 5.0, None, None]
    assert Failures({NotFound: 30, NoUser: 1}).life(NoUser()) == 1.0


def test_it_comes_back_as_the_class_that_was_declared() -> None:
    back = FAILURES.load(FAILURES.dump(NoUser("no user", 7)))
    assert type(back) is NotFound
    assert back.args == ("no user", 7)
    assert "remembered" in back.__notes__[0]


def test_arguments_that_json_cannot_hold_become_text() -> None:
    back = FAILURES.load(FAILURES.dump(NotFound(("a", "tuple"))))
    assert back is not None
    assert back.args == ("('a', 'tuple')",)


def test_an_init_that_wants_more_is_not_called() -> None:
    back = FAILURES.load(FAILURES.dump(Picky(404, detail="gone")))
    assert type(back) is Picky
    assert back.args == (404,)


@pytest.mark.parametrize(
    "stored",
    [
        ["builtins.SystemExit", []],
        ["os.system", ["echo"]],
        ["tests.unit.test_failures.NotFound"],
        "text",
        None,
        {"a": 1},
        [7, []],
        [["a"], []],
        [f"{NotFound.__module__}.NotFound", "text"],
        [f"{NotFound.__module__}.NotFound", 7],
    ],
    ids=str,
)
def test_what_was_not_declared_is_not_raised(stored: object) -> None:
    assert FAILURES.load(Codec().dump(stored)) is None


def test_bytes_that_are_none_of_ours() -> None:
    assert FAILURES.load(b"\x80\x04N.") is None
