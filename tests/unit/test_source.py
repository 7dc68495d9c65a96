"""The code version: another computation, another version; another layout, wording or process, the same one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from types import FunctionType
from typing import Any

import pytest

from workerkit.core.source import code_version
from workerkit.errors import DefinitionError

PLAIN = """
def fn(a, b=1, *rest, key=None, **more):
    try:
        total = a + 1
        found = helper(total, wide=total) in {"x", "yy", "zzz"}
    except ValueError:
        return -0.0
    def inner(x):
        return x * 2
    class Box:
        def fill(self):
            self.one = self.two = self.three = inner(a)
    return [inner(found), Box, (1, b"x", ...), 10**30, True]
"""


def version(text: str) -> str:
    scope: dict[str, Any] = {}
    exec(compile(text, "anywhere.py", "exec"), scope)
    return code_version(scope["fn"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a + 1", "a + 2"),
        ("a + 1", "a + 1.0"),
        ("a + 1", "a + True"),
        ("a + 1", "a - 1"),
        ("helper(", "assist("),
        ("wide=", "deep="),
        ('"zzz"', '"zz"'),
        ("-0.0", "0.0"),
        ("x * 2", "x * 3"),
        ("= inner(a)", "= inner(inner(a))"),
        ('b"x"', '"x"'),
        ("10**30", "10**30 + 1"),
        ("ValueError", "KeyError"),
        ("def fn(a,", "def fn(a, /,"),
        ("*rest, key", "*, key"),
        ("**more", "more=None"),
        ("key=None", "other=None"),
        ("def inner(x)", "async def inner(x)"),
        ("class Box:", "class Box(dict):"),
    ],
)
def test_another_computation_is_another_version(old: str, new: str) -> None:
    assert old in PLAIN
    assert version(PLAIN.replace(old, new)) != version(PLAIN)


def test_what_a_try_covers_counts() -> None:
    def fn(a: str) -> int | None:
        try:
            return int(a)
        except ValueError:
            return None

    covering_nothing = FunctionType(fn.__code__.replace(co_exceptiontable=b""), {})
    assert code_version(covering_nothing) != code_version(fn)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\ndef fn", "\n\n# a comment\n\ndef fn"),
        ("    try:", "    # why\n\n    try:"),
        ("    try:", '    """What it does."""\n    try:'),
        ("        return x * 2", '        """Inner."""\n\n        return x * 2  # twice'),
        ("    class Box:", '    class Box:\n        """A box."""\n\n'),
        ("            self.one", '            """Fill it."""\n            self.one'),
        ("b=1", "b=2"),
        ("key=None", "key='other'"),
        ("def fn(a,", "def fn(a: int,"),
    ],
)
def test_layout_wording_and_defaults_do_not_count(old: str, new: str) -> None:
    assert old in PLAIN
    assert version(PLAIN.replace(old, new)) == version(PLAIN)


def test_a_docstring_that_is_changed_does_not_count() -> None:
    one, two = ('def fn(a):\n "' + words + '"\n return a, None, "words"\n' for words in ("First.", "Second."))
    assert version(one) == version(two) == version('def fn(a):\n return a, None, "words"\n')


def test_eight_hex_digits() -> None:
    assert len(version(PLAIN)) == 8
    assert int(version(PLAIN), 16) >= 0


def test_decorators_are_looked_through() -> None:
    def plain(a: int) -> int:
        return a

    @functools.wraps(plain)
    def wrapper(*args: Any) -> Any:
        return plain(*args)

    assert code_version(wrapper) == code_version(plain) != code_version(version)


def test_running_a_function_does_not_change_it() -> None:
    def loop(a: int) -> int:
        return sum(each * a for each in range(10))

    before = code_version(loop)
    for _ in range(2000):  # the interpreter specializes what is hot
        loop(1)
    assert code_version(loop) == before


@pytest.mark.parametrize("constant", ["0x" + "f" * 5000, "2j", "'\\ud800'", "(({1, 2, 3},),)", "''[::2]"])
def test_any_constant(constant: str) -> None:
    assert version(f"def fn(a): return a in [{constant}, a]") != version("def fn(a): return a in [0, a]")


def test_a_constant_is_not_mistaken_for_what_its_text_says() -> None:
    pairs = [("'a', 'b'", "\"a', 'b\""), ("(1, 2), 3", "1, (2, 3)"), ("1, 2", "(1, 2), 2"), ("1", "'0x1'")]
    for one, two in pairs:
        assert version(f"def fn(a): return a in ({one},)") != version(f"def fn(a): return a in ({two},)")


def test_the_same_in_every_process() -> None:
    seen = {_in_process(seed) for seed in range(1, 7)}
    assert seen == {version(PLAIN)}


def _in_process(seed: int) -> str:
    code = (
        "import sys; from workerkit.core.source import code_version\n"
        "scope = {}; exec(compile(sys.argv[1], 'elsewhere.py', 'exec'), scope); print(code_version(scope['fn']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-c", code, "\n" * seed + PLAIN]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("thing", [len, functools.partial(version, "x"), int])
def test_what_has_no_code_is_refused(thing: Any) -> None:
    with pytest.raises(DefinitionError, match=r'version="code".*wrap it in a def.*version="1"'):
        code_version(thing)
