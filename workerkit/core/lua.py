"""Lua scripts as files beside their policies, put together with their includes on first use."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from importlib import resources

from workerkit.errors import DefinitionError

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
_SHARED = "workerkit.core.scripts"


def _read(package: str, name: str) -> str:
    try:
        return (resources.files(package) / f"{name}.lua").read_text(encoding="utf-8")
    except FileNotFoundError as missing:
        raise DefinitionError(f"{package} has no script {name}.lua") from missing


class Script:
    """A script of a policy: `Script("workerkit.limits", "window")` is `workerkit/limits/window.lua`.

    A line `-- include: now` is replaced by `now.lua` of the same package, else of `core/scripts`. A script that
    includes `not_after` refuses to run after its caller's deadline; its first ARGV is that deadline in server
    microseconds, set by the runner.
    `replace` puts other text in the place of an include: tests drive the server's clock with it.
    """

    def __init__(self, package: str, name: str, *, replace: dict[str, str] | None = None) -> None:
        self.package = package
        self.name = name
        self._replace = replace or {}

    @cached_property
    def _file(self) -> str:
        return _read(self.package, self.name)

    @cached_property
    def source(self) -> str:
        return self._expand(self._file, set())

    @cached_property
    def sha(self) -> str:
        # Redis names scripts by SHA-1; nothing here relies on it for security.
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def once(self) -> bool:
        return "not_after" in _INCLUDE.findall(self._file)

    def _expand(self, text: str, seen: set[str]) -> str:
        def included(match: re.Match[str]) -> str:
            name = match[1]
            if name in seen:
                return ""
            seen.add(name)
            return self._expand(self._replace.get(name) or self._part(name), seen)

        return _INCLUDE.sub(included, text)

    def _part(self, name: str) -> str:
        try:
            return _read(self.package, name)
        except DefinitionError:
            return _read(_SHARED, name)

    def __repr__(self) -> str:
        return f"<Script {self.package}:{self.name}>"
