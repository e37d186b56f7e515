"""The documentation as tests see it: pages, their sections, code blocks, tables and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.e2e.processes import CHECKOUT

FRONT = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
"""The pages outside of ``docs/``."""


class Block(NamedTuple):
    """A fenced block of code."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """A page; ``name`` is its path in the checkout."""

    name: str
    text: str

    @property
    def folder(self) -> Path:
        """The folder from which its links are resolved."""
        return (CHECKOUT / self.name).parent

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return re.sub(r"^ *```.*?^ *```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def blocks(self) -> list[Block]:
        """Return the fenced blocks, in their order. A fence that does not open and close is an error."""
        fences = re.findall(r"^ *```.*$", self.text, re.MULTILINE)
        found = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        assert len(fences) == 2 * len(found), f"{self.name}: fences that do not match"
        return [Block(self.name, language, text) for language, text in found]

    def section(self, title: str) -> str:
        """Return the text under a heading of the second level, to the next one."""
        (text,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", self.text, re.MULTILINE | re.DOTALL)
        return str(text)

    def sections(self) -> list[tuple[str, str]]:
        """Return title and text of each section of the second level."""
        parts = re.split(r"^## ", self.text, flags=re.MULTILINE)[1:]
        return [(title, text) for title, _, text in (part.partition("\n") for part in parts)]

    def anchors(self) -> set[str]:
        """Return the anchors of its headings, as GitHub and the site make them."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}

    def links(self) -> list[str]:
        """Return the targets of its links and pictures."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)


@cache
def page(name: str) -> Page:
    """Read a page of the checkout."""
    return Page(name, (CHECKOUT / name).read_text(encoding="utf-8"))


def all_pages() -> list[Page]:
    """Read all pages: what stands in ``docs/``, and the front."""
    names = sorted(path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "docs").rglob("*.md"))
    return [page(name) for name in (*FRONT, *names)]


@cache
def blocks(language: str) -> list[Block]:
    """Return the blocks of a language on all pages."""
    return [block for each in all_pages() for block in each.blocks() if block.language == language]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables' rows, without heads and rulers."""
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in table]
    heads = {i - 1 for i, row in enumerate(cells) if set("".join(row)) == {"-"}}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def first_cells(text: str) -> list[str]:
    """Return the words in code type of all first cells."""
    return [word for row in rows(text) for word in re.findall(r"`([^`]+)`", row[0])]
