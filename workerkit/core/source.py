"""A digest of what a function does, so that a changed function never reads what the old one stored.

Bytecode is read as instructions with their constants and names, not as raw bytes: a docstring that is added moves the
numbers of the others.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise
from types import CodeType
from typing import Any

from workerkit.errors import DefinitionError

_ARGUMENT_KINDS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
# What a class body notes of itself: documentation, a line, and a tuple whose order the hash seed decides.
_NOTES = {"__doc__", "__firstlineno__", "__static_attributes__"}


def code_version(fn: Callable[..., Any]) -> str:
    """8 hex digits of the code of `fn` inside its decorators, and of the functions and classes written in it.

    Another constant, name, call or parameter changes it; comments, blank lines, docstrings and default values do not,
    nor does the code of what `fn` calls. Another minor version of Python may compile to another digest. Raises
    DefinitionError for what has no Python code (a builtin, a partial).
    """
    plain = inspect.unwrap(fn)
    code = getattr(plain, "__code__", None)
    if not isinstance(code, CodeType):
        raise DefinitionError(
            f'version="code": a {type(plain).__qualname__} has no Python code of its own; wrap it in a def, '
            'or write a version of your own, such as version="1"'
        )
    return blake2b(_code(code).encode(), digest_size=4).hexdigest()


def _code(code: CodeType) -> str:
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    counts = code.co_posonlyargcount, code.co_argcount, code.co_flags & _ARGUMENT_KINDS
    # Which instructions a try covers is said in a table beside them.
    return repr([names, counts, code.co_exceptiontable, *_steps(code)])


def _steps(code: CodeType) -> Iterator[tuple[str, Any]]:
    consts = code.co_consts
    # dis writes out each constant, which fails on a huge int, and knows not all instructions that have one.
    steps = list(dis.get_instructions(code.replace(co_consts=(None,) * len(consts))))
    for step, after in pairwise([*steps, steps[-1]]):
        constant = step.opcode in dis.hasconst
        if _is_note(step) or (constant and _is_note(after)):
            continue
        if constant:
            yield step.opname, _constant(consts[step.arg or 0])
        else:
            yield step.opname, step.argval if isinstance(step.argval, str) else step.arg


def _is_note(step: dis.Instruction) -> bool:
    return step.opname == "STORE_NAME" and step.argval in _NOTES


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return f"({','.join(map(_constant, value))})"
    if isinstance(value, frozenset):  # the hash seed decides its order
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    if isinstance(value, slice):
        return f"slice{_constant((value.start, value.stop, value.step))}"
    return hex(value) if type(value) is int else repr(value)  # decimal text ends at 4,300 digits
