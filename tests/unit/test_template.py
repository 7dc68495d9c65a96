"""Templates: fields, constants and callables; errors where they are written."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from workerkit.core.template import Template
from workerkit.errors import DefinitionError, EncodingError

NAMES = ("account", "order", "args")


class Plan(enum.StrEnum):
    GOLD = "gold"


@dataclass
class Line:
    sku: str


def render(source: Any, **bound: Any) -> str:
    return Template(source, NAMES, "key")({"account": "a", "order": None, "args": (), **bound})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{account}", "acct_7"),
        ("user:{account}", "user:acct_7"),
        ("{account}:{order.id}", "acct_7:9"),
        ("{order.lines[0].sku}", "x"),
        ("{order.map[k]}", "v"),
        ("{{{account}}}", "{acct_7}"),
        ("all", "all"),
        ("", ""),
        ("{{}}", "{}"),
        (lambda account: account.upper(), "ACCT_7"),
        (lambda order, account: f"{account}/{order.id}", "acct_7/9"),
        (lambda order: order.id, "9"),
        (lambda *, account, other="dflt": account + other, "acct_7dflt"),
        (lambda **kwargs: ",".join(kwargs), "account,order,args"),
        (lambda: "constant", "constant"),
    ],
)
def test_renders(source: Any, expected: str) -> None:
    order = SimpleNamespace(id=9, lines=[Line("x")], map={"k": "v"})
    assert render(source, account="acct_7", order=order) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("x", "x"), (7, "7"), (True, "True"), (None, "None"), (1.5, "1.5"), (Decimal("1.0"), "1.0")),
        *((Plan.GOLD, "gold"), (date(2024, 1, 2), "2024-01-02"), (UUID(int=1), "00000000-0000-0000-0000-000000000001")),
    ],
)
def test_simple_values_have_a_text(value: object, text: str) -> None:
    assert render("{account}", account=value) == text
    assert render(lambda account: account, account=value) == text


@pytest.mark.parametrize(
    "value",
    [object(), [1], {"a": 1}, {1}, b"x", SecretStr("hunter2"), Line("x"), len, pytest.param(10**5000, id="huge")],
)
@pytest.mark.parametrize("source", ["{account}", lambda account: account])
def test_other_values_are_refused_at_the_call(source: Any, value: object) -> None:
    with pytest.raises(EncodingError, match="no plain text") as caught:
        render(source, account=value)
    assert caught.value.argument == "account"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["{order.nope}", "{order[nope]}", "{order[3]}", "{account[x]}", f"{{order[{'9' * 5000}]}}"]
)
def test_what_is_not_in_the_value_is_refused_at_the_call(source: str) -> None:
    with pytest.raises(EncodingError, match="is not in a"):
        render(source, order=[1])


@pytest.mark.parametrize(
    "source",
    [
        *("{}", "{0}", "{account!r}", "{account:>10}", "{account:{order}}", "{account", "account}", "{order._private}"),
        *("{order.__class__}", "{order.id._x}", "{ account }", "{order.}", "{order[]}", "{order[a}", "{account()}"),
        *("{order..id}", "{account}[0]}"),
    ],
)
def test_bad_templates_are_refused_where_they_are_written(source: str) -> None:
    with pytest.raises(DefinitionError, match=r"^key: "):
        Template(source, NAMES, "key")


@pytest.mark.parametrize("source", ["{user}", "{user.id}", lambda user: user, lambda account, user: user])
def test_an_unknown_argument_lists_those_there_are(source: Any) -> None:
    with pytest.raises(DefinitionError, match="no argument 'user'; there are: account, order, args"):
        Template(source, NAMES, "key")


@pytest.mark.parametrize("source", [lambda *args: "x", lambda account, /: "x", dict])
def test_what_cannot_be_called_by_name_is_refused(source: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^key"):
        Template(source, NAMES, "key")


@pytest.mark.parametrize("source", [42, None, b"{account}"])
def test_what_is_neither_text_nor_callable_is_refused(source: Any) -> None:
    with pytest.raises(DefinitionError, match="key must be text or a callable, not"):
        Template(source, NAMES, "key")


def test_a_template_over_no_arguments() -> None:
    with pytest.raises(DefinitionError, match="there are: none"):
        Template("{x}", (), "key")


@given(st.text() | st.text("{}[]!:.ao0_ ", max_size=12))
def test_any_text_is_a_template_or_a_definition_error(text: str) -> None:
    try:
        template = Template(text, ("a", "o"), "key")
    except DefinitionError:
        return
    try:
        result = template({"a": "1", "o": "2"})
    except EncodingError:
        return
    assert type(result) is str


@given(st.text(), st.text())
def test_braces_in_values_are_only_text(a: str, b: str) -> None:
    assert Template("<{a}|{b}>", ("a", "b"), "key")({"a": a, "b": b}) == f"<{a}|{b}>"
