"""Links, pictures, commands and files that the documentation names are there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from aoai_gateway.app import cli
from tests.docs.pages import FRONT, Page, all_pages, page
from tests.e2e.processes import CHECKOUT

PAGES = all_pages()


def name_of(page: Page) -> str:
    return page.name


def test_the_front_page_is_short() -> None:
    assert len(page("README.md").text.splitlines()) <= 150


@pytest.mark.parametrize("page_", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page_: Page) -> None:
    for link in page_.links():
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page_.folder / parts.path).resolve() if parts.path else CHECKOUT / page_.name
        assert target.exists(), link
        if page_.name not in FRONT:
            # The site has no more than this folder.
            assert target.is_relative_to(CHECKOUT / "docs"), link
        if parts.fragment:
            assert parts.fragment in page(target.relative_to(CHECKOUT).as_posix()).anchors(), link


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_every_page_is_reached_from_the_front_page(start: str) -> None:
    first = page(start)
    linked = {(first.folder / link).resolve() for link in first.links() if not urlsplit(link).scheme}
    docs = {CHECKOUT / each.name for each in PAGES if each.name not in FRONT}
    assert docs - linked <= {CHECKOUT / "docs" / "index.md"}


def test_every_picture_is_there_and_taken_by_the_tests() -> None:
    shown = set()
    for each in PAGES:
        for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", each.prose):
            shown.add((each.folder / link).resolve())
    assert len(shown) > 5
    tests = (CHECKOUT / "tests" / "browser").glob("test_*.py")
    source = "".join(each.read_text(encoding="utf-8") for each in tests)
    for picture in shown:
        assert picture.read_bytes().startswith(b"\x89PNG"), picture
        assert picture.stat().st_size < 150_000, picture
        assert re.search(rf'take_picture\((?:[a-z]+\.)*page, "{picture.stem}"', source), picture
    assert set((CHECKOUT / "docs" / "images").iterdir()) == shown


@pytest.mark.parametrize("page_", PAGES, ids=name_of)
def test_every_command_is_one(page_: Page) -> None:
    for word in re.findall(r"\./run\.sh(?: ([^\s`]+))?", page_.text):
        assert not word or word.startswith(("-", "[", "#", "(", "COMMAND")) or word in cli.COMMANDS, word


@pytest.mark.parametrize("page_", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page_: Page) -> None:
    named = set(
        re.findall(r"(?<![\w./-])(?:addons|docs|examples|tests|policies|\.ci)/[\w./-]*\w", page_.text)
    )
    assert [path for path in sorted(named) if not (CHECKOUT / path).exists()] == []


def test_pages_name_commands_and_files() -> None:
    whole = "".join(each.text for each in PAGES)
    assert len(re.findall(r"\./run\.sh \w+", whole)) > 10
    assert len(set(re.findall(r"(?:addons|examples|tests|policies|\.ci)/[\w./-]*\w", whole))) > 8
