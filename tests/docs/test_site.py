"""The site has every page once. That its links hold, ``mkdocs build --strict`` says, in ``.ci/run``."""

import re

from tests.docs.pages import FRONT, all_pages
from tests.e2e.processes import CHECKOUT


def test_the_site_has_every_page_once() -> None:
    nav = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = [f"docs/{name}" for name in re.findall(r"\S+\.md$", nav, re.MULTILINE)]
    assert sorted(pages) == sorted(page.name for page in all_pages() if page.name not in FRONT)
