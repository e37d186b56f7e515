"""The Completion view: what a person sees of an answer, in each form on the wire."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.inspect.views.completion import EVENT_STREAM, show, show_message
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.sse import MAX_STREAM_BYTES
from aoai_gateway.wire.errors import all_backends_out
from tests.inspect.views.samples import JSON, OBJECTS, OPERATIONS, WEATHER_TOOL, answer, echo

IDENT = "a6a3a4506513270e269e0d37f2a74de452e6b438"
"""What the simulator's seed makes of its first id."""

METADATA = {
    "gateway_backend": "gpt-4o-paygo@sweden",
    "gateway_attempts": 2,
    "gateway_first_content_ms": 312,
    "gateway_chunk_gap_p50_ms": 18.2,
    "gateway_chunk_gap_max_ms": 2110.0,
    "gateway_tokens_in": 12,
    "gateway_tokens_out": 2,
}

TEXT = 'Hello,\n\n  "world"!'


def streamed(operation: str = "chat.completions", **more: Any) -> Facts:
    return Facts(operation, content_type=EVENT_STREAM, **more)


def whole(operation: str = "chat.completions", **more: Any) -> Facts:
    return Facts(operation, content_type="application/json", **more)


def chat(messages: Any = None, **more: Any) -> bytes:
    return answer("chat/completions", {"model": "gpt-4o", "messages": messages or echo(TEXT), **more})


def response(given: str = f"say:{TEXT}", **more: Any) -> bytes:
    return answer("responses", {"model": "reason", "input": given, **more})


def stream_of(*chunks: dict[str, Any], done: bool = True) -> bytes:
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def delta(number: int = 0, finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": number, "delta": said, "finish_reason": finish}]}


# --- chat completions -----------------------------------------------------------------------------------


def test_a_stream() -> None:
    shown = show(chat(stream=True), streamed(metadata=METADATA))
    assert (
        shown
        == f"""\
stop · 12 tokens in, 2 out · first token after 312 ms · gaps between chunks 18 ms (median), 2,110 ms (longest)
gpt-4o-2024-11-20 · from gpt-4o-paygo@sweden, attempt 2 · chatcmpl-{IDENT}

── answer ──────────────────────────────────────────────────────────────
{TEXT}
"""
    )


def test_the_same_answer_looks_the_same_in_json() -> None:
    streams = show(chat(stream=True, stream_options={"include_usage": True}), streamed())
    assert streams == show(chat(), whole())
    assert streams.startswith("stop · 13 tokens in, 2 out\n")


def test_several_choices() -> None:
    shown = show(chat([{"role": "user", "content": "x"}], n=2, max_tokens=3), whole())
    assert shown.startswith("length · ")
    assert "⚠ Choice 2 was cut at its limit of tokens.\n" in shown
    assert "\n── choice 1 of 2 · length ──" in shown
    assert shown.count("── choice ") == 2


def test_a_tool_call_is_put_together() -> None:
    forced = {"tools": [WEATHER_TOOL], "tool_choice": "required"}
    said = [{"role": "user", "content": "w"}]
    shown = show(chat(said, stream=True, **forced), streamed())
    assert shown.startswith("tool_calls\n")
    assert f"\n── tool call get_weather · call_{IDENT[:24]} " in shown
    assert shown.endswith('\n{"city": "city", "unit": "celsius"}\n')
    assert shown.partition("\n")[2] == show(chat(said, **forced), whole()).partition("\n")[2]


def test_two_tool_calls_after_text_and_reasoning() -> None:
    long = json.dumps({"query": "x" * 60, "limit": 3})
    shown = show(
        stream_of(
            delta(role="assistant", reasoning_content="Let me "),
            delta(reasoning_content="think."),
            delta(content="One moment."),
            delta(tool_calls=[{"index": 0, "id": "c0", "function": {"name": "f", "arguments": '{"a":'}}]),
            delta(tool_calls=[{"index": 1, "id": "c1", "function": {"name": "g", "arguments": long}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
            delta(finish="tool_calls"),
        ),
        streamed(),
    )
    body = [line.rstrip("─ ") for line in shown.splitlines()]
    assert body == [
        "tool_calls",
        *("", "── reasoning", "Let me think.", "", "── answer", "One moment."),
        *("", "── tool call f · c0", '{"a":1}'),
        *("", "── tool call g · c1", "{", f'  "query": "{"x" * 60}",', '  "limit": 3', "}"),
    ]


def test_a_refusal() -> None:
    shown = show(
        stream_of(delta(refusal="I can't "), delta(refusal="do that."), delta(finish="stop")), streamed()
    )
    assert "── refusal ─" in shown
    assert "\nI can't do that.\n" in shown


def test_what_the_filter_withheld_is_said_first() -> None:
    shown = show(chat([{"role": "user", "content": "x trigger-output-filter"}], stream=True), streamed())
    assert shown.startswith("content_filter\n")
    assert "\n⚠ FILTERED: the answer, for violence (medium).\n" in shown
    assert "safe" not in shown


def test_what_the_filter_remarked_on() -> None:
    results = [
        {
            "prompt_index": 0,
            "content_filter_results": {
                "hate": {"filtered": False, "severity": "low"},
                "jailbreak": {"filtered": True, "detected": True},
                "sexual": {"filtered": False, "severity": "safe"},
            },
        }
    ]
    failed = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}, "content_filter_result": failed}]}
    shown = show(stream_of({"choices": [], "prompt_filter_results": results}, chunk, chunk), streamed())
    assert "⚠ FILTERED: the prompt, for jailbreak detected.\n" in shown
    assert "Content filter on the prompt: hate (low).\n" in shown
    assert shown.count("the filter failed: The contents are not filtered") == 1


def test_completions() -> None:
    body = {"model": "text", "prompt": "say:one two"}
    shown = show(answer("completions", {**body, "stream": True}), streamed("completions"))
    assert shown.endswith(f"{'── answer '.ljust(72, '─')}\none two\n")
    assert show(answer("completions", body), whole("completions")).endswith("one two\n")


def test_usage_in_detail_and_the_services_own_times() -> None:
    usage = {
        "prompt_tokens": 1566,
        "completion_tokens": 1518,
        "prompt_tokens_details": {"cached_tokens": 1408},
        "completion_tokens_details": {"reasoning_tokens": 576},
    }
    times = {"engine_ttft_ms": 28, "pre_inference_ms": 73}
    shown = show(
        stream_of(delta(content="x"), {"choices": [], "usage": usage, "latency_checkpoint": times}),
        streamed(),
    )
    assert shown.startswith("1,566 tokens in (1,408 cached), 1,518 out (576 reasoning)\n")
    assert "The service's own times, in ms: engine_ttft 28, pre_inference 73.\n" in shown


# --- streams that went wrong ------------------------------------------------------------------------------


def test_a_stream_that_was_cut_off() -> None:
    data = chat(stream=True)
    cut = data[: data.index(b"world") + 3]
    shown = show(cut, streamed())
    assert shown.startswith("BROKEN OFF\n")
    assert "⚠ The answer ended without its proper end" in shown
    assert "\nIt was cut off in the midst of an event.\n" in shown


def test_a_stream_that_ended_with_an_error() -> None:
    error = {"code": "upstream_disconnected", "type": "server_error", "message": "The backend broke off."}
    shown = show(stream_of(delta(content="Half an ans"), {"error": error}, done=False), streamed())
    assert shown.startswith("FAILED\n⚠ upstream_disconnected (server_error): The backend broke off.\n")
    assert shown.endswith("\nHalf an ans\n")


def test_events_that_are_no_json_are_counted() -> None:
    data = stream_of(delta(content="a"), done=False) + b"data: {oops\n\n" + stream_of(delta(content="b"))
    shown = show(data, streamed())
    assert "\nab\n" in shown
    assert "\n1 of its events are not JSON; they are left out here.\n" in shown


def test_a_huge_stream_is_read_in_part() -> None:
    chunk = stream_of(delta(content="x" * 1000), done=False)
    data = chunk * (MAX_STREAM_BYTES // len(chunk) + 1000)
    shown = show(data, streamed())
    assert "more bytes are not shown here." in shown
    assert "BROKEN OFF" not in shown


def test_a_stream_of_nothing_is_not_read_for_long() -> None:
    shown = show(b": nothing yet\n\n" * 100_000 + stream_of(delta(content="late")), streamed())
    assert shown.startswith("An event stream without an event that could be read.")
    assert show(stream_of(delta(content="early")) + b": \n\n" * 100_000, streamed()).count("early") == 1


def test_a_stream_without_its_content_type() -> None:
    assert "\nHello,\n" in show(chat(stream=True), Facts("chat.completions"))


# --- responses --------------------------------------------------------------------------------------------


def test_a_response_looks_the_same_streamed_and_whole() -> None:
    shown = show(response(stream=True), streamed("responses"))
    assert shown == show(response(), whole("responses"))
    assert (
        shown
        == f"""\
completed · 13 tokens in, 34 out (32 reasoning)
reason · resp_{IDENT}

── answer ──────────────────────────────────────────────────────────────
{TEXT}
"""
    )


def test_a_response_that_broke_off_is_put_together_from_its_deltas() -> None:
    data = response(stream=True)
    shown = show(data[: data.index(b"event: response.output_text.done")], streamed("responses"))
    assert shown.startswith("BROKEN OFF\n")
    assert f"\n{TEXT}\n" in shown


def test_a_response_that_calls_a_tool() -> None:
    tool = {**WEATHER_TOOL["function"], "type": "function"}
    data = response("w", tools=[tool], tool_choice="required", stream=True)
    shown = show(data, streamed("responses"))
    title = f"── tool call get_weather · call_{IDENT[:24]} "
    assert title in shown
    assert shown.endswith('{"city": "city", "unit": "celsius"}\n')
    cut = show(data[: data.index(b"event: response.function_call_arguments.done")], streamed("responses"))
    assert title in cut
    assert '{"city": "city", "unit": "celsius"}\n' in cut


def test_an_incomplete_response() -> None:
    shown = show(response("say:a b c d e", max_output_tokens=33), whole("responses"))
    assert shown.startswith("max_output_tokens · ")
    assert "⚠ The answer was cut at its limit of tokens.\n" in shown


def test_the_output_items_of_a_response() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Thought a while"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "weather"}},
        {"type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo" + "A" * 4000},
        {
            "type": "message",
            "content": [
                {
                    "type": "output_text",
                    "text": "Sunny.",
                    "annotations": [{"type": "url_citation", "title": "Met", "url": "https://example.org"}],
                }
            ],
        },
    ]
    filters = [
        {"source_type": "prompt", "blocked": False, "content_filter_results": {"hate": {"severity": "low"}}},
        {"source_type": "completion", "blocked": True},
    ]
    body = {"object": "response", "status": "completed", "output": output, "content_filters": filters}
    shown = show(json.dumps(body).encode(), whole("responses"))
    order = [
        "⚠ FILTERED: the answer, for blocked.",
        "── reasoning summary ─",
        "Thought a while",
        "── web search call · completed ─",
        "action: {query: weather}",
        "── image generation call · completed ─",
        "result: !image 1, base64, 3.0 KB",
        "── answer ─",
        "Sunny.",
        "── sources ─",
        "Met https://example.org",
    ]
    places = [shown.index(text) for text in order]
    assert places == sorted(places)
    assert "Content filter on the prompt: hate (low)." in shown


def test_a_refusal_inside_a_200() -> None:
    events = (
        b"event: response.created\n"
        b'data: {"type":"response.created","response":{"id":"resp_1","output":[]}}\n\n'
        b'event: error\ndata: {"type":"error","error":{"type":"too_many_requests",'
        b'"code":"rate_limit_exceeded","message":"Your requests have exceeded rate limit."}}\n\n'
    )
    shown = show(events, streamed("responses"))
    assert shown.startswith("FAILED\n")
    assert "⚠ rate_limit_exceeded (too_many_requests): Your requests have exceeded rate limit.\n" in shown


# --- embeddings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings(form: str) -> None:
    data = answer("embeddings", {"model": "embed", "input": ["a", "b"], "encoding_format": form})
    lines = show(data, whole("embeddings")).splitlines()
    assert lines[:2] == ["2 tokens in", "text-embedding-3-small"]
    assert lines[3].startswith("── 2 embeddings ─")
    kind = ", base64" if form == "base64" else ""
    assert lines[4].startswith(f"0: 1,536 dimensions{kind}, L2 norm 1: [-0.0029")
    assert len(lines) == 6


def test_a_vector_by_hand() -> None:
    encoded = base64.b64encode(struct.pack("<2f", 3, 4)).decode()
    body = {"object": "list", "data": [{"embedding": encoded}, {"embedding": [0.6, 0.8]}, {"embedding": "?"}]}
    shown = show(json.dumps(body).encode(), whole("embeddings"))
    assert (
        "0: 2 dimensions, base64, L2 norm 5: [3, 4]\n"
        "1: 2 dimensions, L2 norm 1: [0.6, 0.8]\n"
        "2: not a vector\n" in shown
    )


def test_many_embeddings_are_not_decoded_at_once() -> None:
    vector = [0.01] * 1536
    body = {"data": [{"embedding": vector} for _ in range(400)], "model": "m", "usage": {"prompt_tokens": 7}}
    shown = show(json.dumps(body).encode(), whole("embeddings"))
    assert shown.startswith("7 tokens in\nm\n\n── 400 embeddings ─")
    assert shown.endswith("… and 397 more.\n")


# --- errors -----------------------------------------------------------------------------------------------


def test_the_gateways_own_429() -> None:
    error = all_backends_out("gpt-4o", 12.25, [("a@x", "429", 12.25)])
    metadata = {"gateway_outcome": "backends_out", "gateway_attempts": 3}
    facts = whole(status=429, headers=dict(error.headers), metadata=metadata, comment="Demo: gpt-4o; 429")
    shown = show(error.body(), facts)
    assert shown.startswith(
        "429 all_backends_out · too_many_requests · retry after 12.25 s\n\nNo backend can serve"
    )
    assert shown.endswith("─\nNo backend could serve it (3 attempts).\nDemo: gpt-4o; 429\n")


def test_a_failed_attempt() -> None:
    body = b'{"error": {"code": "429", "message": "Please retry after 60 seconds."}}'
    metadata = {"gateway_reason": "429", "gateway_attempt": 1}
    facts = whole(status=429, headers={"retry-after": "60"}, metadata=metadata, comment="attempt 1 of Demo")
    shown = show(body, facts)
    assert shown.startswith("429 · retry after 60 s\n\nPlease retry after 60 seconds.\n")
    assert "The client did not get this answer" in shown


def test_a_filtered_prompt() -> None:
    data = chat([{"role": "user", "content": "x trigger-prompt-filter"}])
    shown = show(data, whole(status=400))
    assert shown.startswith(
        "400 content_filter\n⚠ FILTERED: the prompt, for hate (high), violence (medium).\n\nThe response"
    )
    assert "parameter prompt" in shown


@pytest.mark.parametrize("body", [b'{"error": "text"}', b'{"error": 7}', b'{"message": "text"}', b"{}"])
def test_errors_of_other_shapes(body: bytes) -> None:
    assert show(body, whole(status=500)).startswith("500")


# --- realtime ---------------------------------------------------------------------------------------------


def test_realtime_messages() -> None:
    def shown(**body: Any) -> str:
        return show_message(json.dumps(body).encode(), Facts("realtime"))

    assert shown(type="response.output_text.delta", item_id="item_1", delta="Hel") == (
        "response.output_text.delta · item_1\nHel\n"
    )
    sound = shown(type="response.output_audio.delta", delta="AAAA" * 400)
    assert sound == "response.output_audio.delta\ndelta: !audio 1, base64, 1.2 KB\n"
    assert shown(type="error", error={"code": "c", "message": "No"}) == "error\n⚠ c: No\n"
    content = [{"type": "output_audio", "transcript": "Hello there"}]
    usage = {"input_tokens": 5, "output_tokens": 6, "input_token_details": {"cached_tokens": 2}}
    done = {"status": "completed", "output": [{"type": "message", "content": content}], "usage": usage}
    said = shown(type="response.done", response=done)
    assert said.startswith("response.done\ncompleted · 5 tokens in (2 cached), 6 out\n")
    assert said.endswith("Hello there\n")
    assert shown(type="session.updated", session={"voice": "alloy"}) == (
        "session.updated\nsession: {voice: alloy}\n"
    )


# --- anything ---------------------------------------------------------------------------------------------

FACTS = st.builds(
    Facts,
    OPERATIONS,
    status=st.sampled_from((None, 200, 429)),
    content_type=st.sampled_from(("", EVENT_STREAM, "application/json")),
    metadata=st.dictionaries(
        st.sampled_from(sorted(METADATA)), st.none() | st.text() | st.integers() | st.floats()
    ),
)
EVENTS = st.lists(OBJECTS, max_size=5).map(lambda chunks: stream_of(*chunks))


@st.composite
def twisted(draw: st.DrawFn) -> bytes:
    """A real answer, one of whose values is something else."""
    data = draw(st.sampled_from((chat(), chat(stream=True), response(), response(stream=True))))
    values = [
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'"x"',
        b"true",
        b"[7]",
        b'[{"index":"x"}]',
        json.dumps(draw(JSON)).encode(),
    ]
    keys = [
        b'"choices":',
        b'"delta":',
        b'"message":',
        b'"usage":',
        b'"output":',
        b'"content":',
        b'"item":',
        b'"response":',
    ]
    key = draw(st.sampled_from(keys))
    return data.replace(key, key + draw(st.sampled_from(values)) + b',"x":')


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), True, "12", None, [12]])
def test_what_is_no_number_is_not_shown_as_one(odd: object) -> None:
    facts = streamed(metadata={**METADATA, "gateway_tokens_out": odd, "gateway_first_content_ms": odd})
    shown = show(stream_of(delta(content="Hello", finish="stop")), facts)
    assert shown.startswith("stop · gaps between chunks")


@given(
    st.binary(max_size=300) | OBJECTS.map(lambda body: json.dumps(body).encode()) | EVENTS | twisted(),
    FACTS,
    st.data(),
)
def test_nothing_raises(body: bytes, facts: Facts, data: st.DataObject) -> None:
    assert show(body, facts)
    assert show(body[: data.draw(st.integers(0, len(body)))], facts)
    assert show_message(body, facts)


@given(st.data())
def test_a_real_stream_may_end_anywhere(data: st.DataObject) -> None:
    stream, facts = data.draw(
        st.sampled_from(((chat(stream=True), streamed()), (response(stream=True), streamed("responses"))))
    )
    assert show(stream[: data.draw(st.integers(0, len(stream)))], facts)
