"""What mitmweb's editor gets of a request, and what becomes of an edit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.prompt_editor import LARGEST, body_of, text_of
from aoai_gateway.inspect.views.yaml_reader import EditError

CHAT = Facts("chat.completions")
BODY = b'{"messages": [{"role": "user", "content": "one\\ntwo"}], "temperature": 0.50}'


def test_a_prompt_is_edited_with_its_lines() -> None:
    text = text_of(BODY, CHAT)
    assert "  content: |-\n    one\n    two\n" in text
    assert body_of(text, BODY, CHAT) == BODY
    edited = body_of(text.replace("    two", "    three\n    four"), BODY, CHAT)
    assert edited == BODY.replace(b"one\\ntwo", b"one\\nthree\\nfour")


@pytest.mark.parametrize(
    ("body", "facts"),
    [(b"plain", Facts()), (b"{", CHAT), (b"[1]", CHAT), (b"\xff\xfe", CHAT), (b"", CHAT)],
)
def test_each_other_body_is_edited_as_it_is(body: bytes, facts: Facts) -> None:
    text = text_of(body, facts)
    assert body_of(text, body, facts) == body
    if body != b"\xff\xfe":
        assert text.encode() == body


def test_a_prompt_that_is_too_large_to_be_laid_out_is_json() -> None:
    large = json.dumps({"messages": [{"role": "user", "content": "x" * LARGEST}]}).encode()
    assert text_of(large, CHAT).encode() == large


@pytest.mark.parametrize(
    ("body", "edit", "says"),
    [
        (BODY, lambda text: text.replace("0.5", ".5"), "line 3: JSON has no number .5"),
        (BODY, lambda text: text + "\nmore: [", "line "),
        (BODY, lambda _: "", "the document is empty"),
        (b"{", lambda _: '{"a": 1,}', "line 1, column 8"),
        (b"{", lambda _: '{\n"a": ]', "line 2"),
    ],
)
def test_an_edit_that_is_not_valid_says_where(body: bytes, edit: Any, says: str) -> None:
    with pytest.raises(EditError) as caught:
        body_of(edit(text_of(body, CHAT)), body, CHAT)
    assert says in str(caught.value)


def test_what_was_broken_can_be_mended() -> None:
    assert body_of('{"messages": []}', b"{", CHAT) == b'{"messages": []}'
