"""The page's files: all from here, and none of them long."""

from __future__ import annotations

import re

import pytest

from aoai_gateway.workbench.handler import CONTENT_SECURITY_POLICY, files

SCRIPTS = [name for name in files() if name.endswith(".js")]


def text(name: str) -> str:
    return files()[name][1].decode()


def test_the_page_is_there() -> None:
    assert {"index.html", "main.js", "style.css"} <= set(files())
    assert len(SCRIPTS) > 15


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_module_is_read_in_a_sitting(name: str) -> None:
    assert text(name).count("\n") < 300


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_never_becomes_html(name: str) -> None:
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
    ):
        assert sink not in text(name)


@pytest.mark.parametrize("name", list(files()))
def test_nothing_comes_from_elsewhere(name: str) -> None:
    loads = re.findall(r"""(?:from|import|src=|href=|url\()\s*["'(]?(https?:)?//""", text(name))
    assert loads == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_imported_is_there(name: str) -> None:
    folder = name.rpartition("/")[0]
    for target in re.findall(r"""from "(\.[^"]+)";""", text(name)):
        parts = [*filter(None, folder.split("/"))]
        for step in target.split("/"):
            if step == "..":
                parts.pop()
            elif step != ".":
                parts.append(step)
        assert "/".join(parts) in files(), target


def test_the_browser_is_told_to_run_nothing_else() -> None:
    policy = CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
