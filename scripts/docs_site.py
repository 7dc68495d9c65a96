"""mkdocs hooks: docs/index.md is the one table of contents, and what a page sets up for its tests is not shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

_ENTRY = re.compile(r"^## (?P<section>.+)$|^- \[(?P<title>[^]]+)\]\((?P<page>[^)#]+\.md)\)", re.MULTILINE)
_SETUP = re.compile(r"^<!-- setup\n.*?^-->\n\n?", re.MULTILINE | re.DOTALL)


def navigation(index: str) -> list[dict[str, Any]]:
    """The sections of the index and the pages that they list; "How to: limits" is the part "Limits" of "How to"."""
    tabs: dict[str, list[dict[str, Any]]] = {}
    pages: list[dict[str, Any]] = []
    for entry in _ENTRY.finditer(index):
        if entry["section"]:
            pages = []
            tab, _, part = entry["section"].partition(": ")
            if part:
                tabs.setdefault(tab, []).append({part[0].upper() + part[1:]: pages})
            else:
                tabs[tab] = pages
        else:
            pages.append({entry["title"].replace("`", ""): entry["page"]})
    return [{"Home": "index.md"}, *({tab: listed} for tab, listed in tabs.items() if listed)]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = navigation(Path(config.docs_dir, "index.md").read_text())
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # it is the navigation
    return _SETUP.sub("", markdown)
