"""The page is one file, and a browser may run nothing but what is in it."""

from __future__ import annotations

import re

from aoai_gateway.admin import page

TEXT = page.HTML.decode()


def test_it_loads_no_file_from_another_host() -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"`)]*", TEXT))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace is a name, nothing is fetched for it"
    assert not re.findall(r"<(?:link|script|img|iframe)\b[^>]*\bsrc=", TEXT)
    assert re.findall(r'<link[^>]*href="(\w+:)', TEXT) == ["data:"]


def test_text_from_outside_never_becomes_markup() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in TEXT


def test_the_policy_allows_no_more_than_is_in_the_page() -> None:
    policy = dict(part.split(" ", 1) for part in page.CONTENT_SECURITY_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]+='", policy["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/]+='", policy["style-src"])
    assert "unsafe" not in page.CONTENT_SECURITY_POLICY


def test_nothing_in_it_needs_more_than_the_policy_allows() -> None:
    body = re.sub(r"<(script|style)>.*?</\1>", "", TEXT, flags=re.DOTALL)
    assert not re.findall(r"\s(?:on\w+|style)=", body), "inline handlers and styles are not in the policy"


def test_every_id_that_the_script_asks_for_is_there_once() -> None:
    ids = re.findall(r'\sid="([\w-]+)"', TEXT)
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', TEXT)) | set(re.findall(r'new Chart\("([\w-]+)"', TEXT))
    assert asked
    assert asked <= set(ids)


def test_every_label_and_table_names_something() -> None:
    ids = set(re.findall(r'\sid="([\w-]+)"', TEXT))
    assert set(re.findall(r'aria-labelledby="([\w-]+)"', TEXT)) <= ids
    assert TEXT.count("<table ") == TEXT.count('role="table" aria-labelledby=')
