"""What a person sees of a call to Claude."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.inspect.views import completion, prompt
from aoai_gateway.inspect.views.completion import EVENT_STREAM, show
from aoai_gateway.inspect.views.facts import Facts, operation_of
from aoai_gateway.rerun.answers import read
from aoai_gateway.wire import errors
from aoai_gateway.wire.dialects import ANTHROPIC
from aoai_gateway.workbench.shape import answer_shape, request_shape
from tests.inspect.views.samples import JSON, claude

WHOLE = Facts("messages", content_type="application/json", status=200)
STREAM = Facts("messages", content_type=EVENT_STREAM, status=200)
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SAY = {"model": "sonnet", "max_tokens": 100, "messages": [{"role": "user", "content": "say:Hello\n  world"}]}
ASK = {**SAY, "messages": [{"role": "user", "content": "What is the weather?"}], "tools": [TOOL]}


def both(body: dict[str, Any]) -> list[tuple[bytes, Facts]]:
    return [(claude(body), WHOLE), (claude({**body, "stream": True}), STREAM)]


def test_a_text() -> None:
    for data, facts in both(SAY):
        shown = show(data, facts)
        assert shown.startswith("end_turn · ")
        assert "Hello\n  world\n" in shown
        assert "⚠" not in shown
        assert "claude-sonnet-5" in shown


def test_a_call_of_a_tool() -> None:
    for data, facts in both(ASK):
        shown = show(data, facts)
        assert shown.startswith("tool_use · ")
        assert "── tool call get_weather · toolu_" in shown
        assert '{"city": "city"}' in shown


def test_thinking() -> None:
    for data, facts in both({**SAY, "thinking": {"type": "adaptive"}}):
        shown = show(data, facts)
        assert "── thinking ─" in shown
        assert "(32 reasoning)" in shown
        assert shown.index("step by step") < shown.index("Hello\n")


def test_the_cache() -> None:
    body = {
        **SAY,
        "system": [{"type": "text", "text": "rule " * 100, "cache_control": {"type": "ephemeral"}}],
    }
    assert "(125 written to the cache)" in show(claude(body), WHOLE)


def test_an_answer_that_was_cut_at_its_limit() -> None:
    assert "cut at its limit of tokens" in show(claude({**SAY, "max_tokens": 1}), WHOLE)


def test_a_stream_that_broke_off() -> None:
    data = claude({**ASK, "stream": True})
    shown = show(data[: data.rindex(b"event: message_delta")], STREAM)
    assert shown.startswith("BROKEN OFF")
    assert '{"city": "city"}' in shown
    cut = show(data[: data.rindex(b"event: content_block_stop") - 30], STREAM)
    assert "tool call get_weather" in cut


def test_an_error_within_a_stream() -> None:
    data = claude({**SAY, "stream": True})
    data = data[: data.index(b"event: content_block_stop")]
    data += ANTHROPIC.error_event(errors.upstream_disconnected()) if ANTHROPIC.error_event else b""
    shown = show(data, STREAM)
    assert shown.startswith("FAILED")
    assert "⚠ upstream_disconnected (api_error): The backend broke off" in shown


def test_an_error() -> None:
    data = ANTHROPIC.error_body(errors.deployment_not_found("x"), None)
    shown = show(data, Facts("messages", status=404, content_type="application/json"))
    assert shown.startswith("404 DeploymentNotFound · not_found_error\n")
    assert "It is about the parameter model." in shown


def test_citations_and_tools_of_the_service() -> None:
    cited = {"type": "web_search_result_location", "url": "https://x.example", "title": "X"}
    body = {
        "type": "message",
        "content": [
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"title": "X"}]},
            {"type": "text", "text": "Found.", "citations": [cited, cited]},
        ],
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
        "usage": {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 1}},
    }
    shown = show(json.dumps(body).encode(), WHOLE)
    assert "── server tool call web_search · s1 ─" in shown
    assert "── web search tool result ─" in shown
    assert "── sources ─" in shown
    assert shown.count("X https://x.example") == 1
    assert "It stopped at 'END'." in shown
    assert "web search requests 1" in shown


def test_a_stream_of_an_unknown_operation_is_known_by_its_events() -> None:
    data = claude({**SAY, "stream": True})
    assert "Hello\n  world" in show(data, Facts("", content_type=EVENT_STREAM))
    assert "Hello\n  world" in show(claude(SAY), Facts("", content_type="application/json"))


@given(JSON)
def test_no_answer_is_too_odd(body: Any) -> None:
    if isinstance(body, dict):
        body["type"] = "message"
    assert show(json.dumps(body).encode(), WHOLE)


NAMES = st.sampled_from(
    ["message_start", "message_delta", "content_block_start", "content_block_delta", "error", "message_stop"]
)


@given(st.lists(st.tuples(NAMES, JSON), max_size=4))
def test_no_stream_is_too_odd(events: list[tuple[str, Any]]) -> None:
    data = b"".join(f"event: {name}\ndata: {json.dumps(body)}\n\n".encode() for name, body in events)
    assert show(data, STREAM)


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/anthropic/v1/messages", "messages"),
        ("/apim/anthropic/v1/messages?beta=true", "messages"),
        ("/anthropic/v1/messages/count_tokens", "messages.count_tokens"),
        ("/anthropic/v1/messages/batches", "messages"),
        ("/v1/messages?beta=true", "messages"),
        ("/openai/v1/messages", ""),
        ("/openai/v1/threads/t/messages", ""),
        ("/anthropic/v1/files", ""),
    ],
)
def test_operations(path: str, operation: str) -> None:
    assert operation_of(path) == (operation, "")


PROMPT = {
    "model": "sonnet",
    "max_tokens": 100,
    "system": "Be brief.\nBe kind.",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Rain"}]},
    ],
    "tools": [TOOL],
}


def test_the_prompt() -> None:
    shown = prompt.show(json.dumps(PROMPT).encode(), Facts("messages"))
    assert shown.startswith("# Message to Claude with sonnet · 3 messages · 1 tool · about ")
    assert shown.index("system: |") < shown.index("messages:")
    assert "── 2 · assistant calls get_weather · about " in shown
    assert "── 3 · user answers t1 · about " in shown
    assert "# get_weather(city: string)" in shown


def test_an_edit_changes_what_was_edited_and_nothing_else() -> None:
    data = json.dumps(PROMPT).encode()
    shown = prompt.show(data, Facts("messages"))
    edited = prompt.reencode(shown.replace("Be kind.", "Be quick."), data, Facts("messages"))
    assert edited == data.replace(b"Be kind.", b"Be quick.")


def test_images_and_documents_are_a_line_each() -> None:
    image = {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgoAAAANSUhEUgAAAyAAAAJY" + "A" * 400,
    }
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK" + "A" * 400}
    content = [{"type": "image", "source": image}, {"type": "document", "source": pdf}]
    body = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    shown = prompt.show(body, Facts("messages"))
    assert "800 × 600 pixels" in shown
    assert "AAAA" not in shown
    kept = request_shape(body)["body"]["messages"][0]["content"]
    assert [part["source"]["data"]["kind"] for part in kept] == ["image", "file"]


def test_the_workbench_and_the_comparison_read_the_same() -> None:
    for data, facts in both(SAY):
        (choice,) = answer_shape(data, facts)["choices"]
        assert choice["parts"] == [{"kind": "text", "title": "", "text": "Hello\n  world"}]
        again = read("messages", 200, facts.content_type, data)
        assert (again.plain, again.finish_reason, again.error) == ("Hello\n  world", "end_turn", "")
        assert again.output_tokens
    assert completion.is_stream(claude({**SAY, "stream": True}), Facts("messages"))
