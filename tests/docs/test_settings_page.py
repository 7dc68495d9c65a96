"""The page of the settings says what the code does: names, variables, types, defaults and descriptions."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from workerkit.api.settings import Settings, load
from workerkit.core.durations import humanize

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text()
TYPES = {int: "whole number", float: "number", str: "text", SecretStr: "text"}
UNITS = {"max_bytes": "bytes"}


def kind(name: str, field: FieldInfo) -> str:
    """A field's type in a reader's words."""
    if name.endswith("_url"):
        return "URL"
    if field.metadata and type(field.metadata[0]).__name__ == "BeforeValidator":
        return "duration"
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(annotation))
    if get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    return UNITS.get(name) or TYPES[annotation]


def default(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "must be set"
    if value is None:
        return "none"
    if kind(name, field) == "duration":
        return f'`"{humanize(value)}"`'
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def expected() -> list[str]:
    return [
        f"| `workerkit_{name}`, `WORKERKIT_{name.upper()}` | {kind(name, field)} | {default(name, field)} | "
        f"{field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def test_the_page_lists_each_setting_as_it_is() -> None:
    rows = re.findall(r"^\| `workerkit_.*$", PAGE, re.MULTILINE)
    assert rows == expected(), "\n".join(["the rows are:", *expected()])


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says: in upper case, the same name."""
    field = Settings.model_fields[name]
    given = {"redis_url": "redis://localhost/1", "guard_url": "redis://localhost/2", "namespace": "shop", "secret": "s"}
    value = given.get(name) or field.default
    if get_origin(field.annotation) is Literal:
        value = next(choice for choice in get_args(field.annotation) if choice != field.default)
    elif isinstance(value, (int, float)):
        value = value + 1 if name != "jitter" else 0.5
    elif name == "codec":
        value = "msgpack"
    monkeypatch.setenv("WORKERKIT_REDIS_URL", "redis://localhost")
    monkeypatch.setenv(f"WORKERKIT_{name.upper()}", str(value))
    found = getattr(load({}), name)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value
