"""Prompts of Claude: all that the model reads counts, nothing counts as exact, and base64 is no text."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.tokens import Counter
from aoai_gateway.tokens.bodies import TOOL_INSTRUCTIONS, is_countable, read_messages, read_prompt
from aoai_gateway.tokens.images import Pixels
from aoai_gateway.tokens.models import CLAUDE, UNKNOWN, family_of
from aoai_gateway.tokens.prompt import FILE_TOKENS_PER_PAGE

TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {}}}}


def prompt(*content: Any, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": each} for each in content], **more}
    return read_prompt("messages", body, UNKNOWN)


def test_all_texts_count_in_their_order() -> None:
    found = prompt(
        "one",
        [{"type": "text", "text": "two"}, {"type": "thinking", "thinking": "three", "signature": "x" * 99}],
        [{"type": "tool_use", "id": "t", "name": "look", "input": {"at": "four"}}],
        [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "five"}]}],
        [{"type": "document", "title": "six", "source": {"type": "text", "data": "seven"}}],
        [{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "eight"}]}}],
        system=[{"type": "text", "text": "zero", "cache_control": {"type": "ephemeral"}}],
    )
    assert found.texts == ["zero", "one", "two", "three", "look", "four", "five", "six", "seven", "eight"]
    assert not found.exact


def test_tools_bring_instructions_with_them() -> None:
    bare, with_tools = prompt("hi"), prompt("hi", tools=[TOOL])
    assert with_tools.tokens > bare.tokens + TOOL_INSTRUCTIONS
    assert "look:Looks" in with_tools.texts
    server_tool = prompt("hi", tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}])
    assert server_tool.tokens > TOOL_INSTRUCTIONS
    assert "web_search" in server_tool.texts


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4)
    return base64.b64encode(head + bytes(300_000)).decode()


@pytest.mark.parametrize(
    ("width", "height", "tokens"), [(200, 200, 54), (1000, 1000, 1334), (4000, 3000, 1600)]
)
def test_an_image_counts_by_its_pixels(width: int, height: int, tokens: int) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": png(width, height)}
    found = prompt([{"type": "image", "source": source}])
    assert found.texts == []
    assert found.tokens - prompt([]).tokens == tokens


def test_an_image_is_shrunk_to_its_longer_side() -> None:
    rule = Pixels(750, longest=1568, most=1600)
    assert rule.tokens((15680, 100)) == rule.tokens((1568, 10))
    assert rule.tokens((0, 0)) == 1


def test_a_document_counts_by_its_pages() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "A" * 400_000}
    found = prompt([{"type": "document", "source": source}])
    assert found.texts == []
    assert found.tokens >= 5 * FILE_TOKENS_PER_PAGE
    assert prompt([{"type": "document", "source": {"type": "url", "url": "https://x"}}]).tokens > 0


def test_each_message_is_counted_on_its_own(counter: Counter) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello there"}, None]
    counts = counter.count_messages("messages", {"messages": messages}, "sonnet", at_most=9)
    assert [count.exact for count in counts] == [False, False, False]
    assert 0 < counts[0].tokens < counts[1].tokens
    assert len(read_messages("messages", {"messages": messages}, UNKNOWN, 2)) == 2


def test_no_count_of_its_texts_is_exact(counter: Counter) -> None:
    assert family_of("claude-sonnet-5") is CLAUDE
    assert not counter.count_text("Hello", "claude-sonnet-5").exact
    assert counter.count_text("Hello", "gpt-4o").exact
    assert not is_countable("messages", "some-deployment")
    assert not is_countable("chat.completions", "claude-sonnet-5")
    assert is_countable("chat.completions", "gpt-4o")


def test_counting_counts_what_a_message_would(counter: Counter) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    one, other = (counter.count_request(f"messages{each}", body, None) for each in ("", ".count_tokens"))
    assert one == other


BLOCKS = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "content", "source", "data", "input", "thinking", "name", "title"]
            ),
            inner
            | st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "thinking", "base64"]),
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(st.lists(BLOCKS, max_size=3), BLOCKS, BLOCKS)
def test_no_body_is_too_odd(contents: list[Any], system: Any, tools: Any) -> None:
    assert prompt(*contents, system=system, tools=tools).tokens >= 0


def test_depth_is_no_danger() -> None:
    content: Any = "deep"
    for _ in range(5_000):
        content = [{"type": "tool_result", "content": content}]
    assert prompt(content).texts == ["deep"]
