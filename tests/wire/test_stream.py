"""What a stream means: preamble, refusal, content, end, and the usage that the client did not ask for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.errors import upstream_disconnected
from aoai_gateway.wire.sse import SseScanner
from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.stream_kinds import Kind, StreamError, Verdict
from aoai_gateway.wire.usage import Usage

USAGE = {
    "completion_tokens": 11,
    "completion_tokens_details": {"reasoning_tokens": 4},
    "prompt_tokens": 23,
    "prompt_tokens_details": {"cached_tokens": 8},
    "total_tokens": 34,
}
READ_USAGE = Usage(input_tokens=23, output_tokens=11, total_tokens=34, cached_tokens=8, reasoning_tokens=4)
DONE = b"data: [DONE]\n\n"


def sse(document: object, event: str | None = None, separators: tuple[str, str] = (",", ":")) -> bytes:
    text = json.dumps(document, separators=separators, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def chunk(delta: object = None, finish: str | None = None, **more: object) -> dict[str, Any]:
    """A chat chunk with its keys in Azure's (alphabetical) order."""
    return {
        "choices": [
            {"content_filter_results": {}, "delta": delta or {}, "finish_reason": finish, "index": 0}
        ],
        "created": 1785610058,
        "id": "chatcmpl-1",
        "model": "gpt-5.4-mini-2026-03-17",
        "object": "chat.completion.chunk",
        "system_fingerprint": None,
        **more,
    }


FILTER_CHUNK = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
}
ROLE_CHUNK = chunk({"content": "", "refusal": None, "role": "assistant"})
USAGE_CHUNK = {**chunk(usage=USAGE), "choices": []}
THROTTLED = {"type": "too_many_requests", "code": "rate_limit_exceeded", "message": "exceeded", "param": None}


def response_event(name: str, **members: object) -> bytes:
    return sse({"type": name, "sequence_number": 0, **members}, name)


CREATED = response_event(
    "response.created", response={"id": "resp_1", "model": "dep", "status": "in_progress"}
)
TEXT = response_event("response.output_text.delta", delta="Hällo")


def read(operation: str, *events: bytes, **options: bool) -> tuple[StreamReader, bytes]:
    reader = StreamReader(operation, **options)
    passed = b"".join([reader.feed(event) for event in events])
    return reader, passed


def kinds(operation: str, *events: bytes) -> list[Kind]:
    reader, scanner = StreamReader(operation), SseScanner()
    return [reader.classify(event) for event in scanner.feed(b"".join(events))]


# --- chat --------------------------------------------------------------------------------------------


def test_a_chat_stream_from_preamble_to_end() -> None:
    events = [
        sse(FILTER_CHUNK),
        sse(ROLE_CHUNK),
        sse(chunk({"content": "Hi"})),
        sse(chunk({"content": ' "ö"\n'})),
        sse(chunk(finish="stop")),
        sse(USAGE_CHUNK),
        DONE,
    ]
    assert kinds("chat.completions", *events) == [
        Kind.PREAMBLE,
        Kind.PREAMBLE,
        Kind.CONTENT,
        Kind.CONTENT,
        Kind.CONTENT,
        Kind.USAGE,
        Kind.TERMINAL,
    ]
    reader, passed = read("chat.completions", *events)
    assert passed == b"".join(events)
    assert reader.usage == READ_USAGE
    assert reader.finish_reasons == ["stop"]
    assert (reader.response_id, reader.model) == ("chatcmpl-1", "gpt-5.4-mini-2026-03-17")
    assert len(reader.delivered.text()) == len('Hi "ö"\n')
    assert reader.terminal_seen
    assert reader.error is None


def test_the_verdict_changes_with_the_first_content() -> None:
    reader = StreamReader("chat.completions")
    for event, verdict in [
        (sse(FILTER_CHUNK), Verdict.UNDECIDED),
        (b": keep-alive\n\n", Verdict.UNDECIDED),
        (sse(ROLE_CHUNK), Verdict.UNDECIDED),
        (sse(chunk({"content": "Hi"})), Verdict.ACCEPTED),
        (sse({"error": THROTTLED}), Verdict.ACCEPTED),
    ]:
        reader.feed(event)
        assert reader.verdict is verdict
    assert reader.error == StreamError("rate_limit_exceeded", "too_many_requests", 429)


@pytest.mark.parametrize(
    "first",
    [
        chunk(finish="content_filter"),
        chunk(
            {
                "tool_calls": [
                    {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
                ]
            }
        ),
        chunk({"reasoning_content": "hm"}),
        chunk({"refusal": "No."}),
        {"something": "unknown"},
    ],
)
def test_content_is_not_only_text(first: object) -> None:
    reader, _ = read("chat.completions", sse(FILTER_CHUNK), sse(first))
    assert reader.verdict is Verdict.ACCEPTED


def test_what_is_no_json_is_content() -> None:
    reader, passed = read("chat.completions", b"data: <html>\n\n", b'data: {"error" \n\n', b"data: 1\n\n")
    assert passed == b'data: <html>\n\ndata: {"error" \n\ndata: 1\n\n'
    assert (reader.verdict, reader.error, reader.content_events) == (Verdict.ACCEPTED, None, 3)


@pytest.mark.parametrize("code", ["429", 429, "no_capacity", "rate_limit_reached", "RateLimitReached"])
def test_a_refusal_after_the_preamble(code: object) -> None:
    reader, _ = read("chat.completions", sse(FILTER_CHUNK), sse({"error": {"code": code, "message": "x"}}))
    assert reader.verdict is Verdict.REFUSED
    assert reader.error == StreamError(str(code), None, 429)


def test_an_error_that_is_no_refusal_is_the_clients_answer() -> None:
    for error in ({"code": "content_filter", "message": "no"}, "boom"):
        reader, _ = read("chat.completions", sse(FILTER_CHUNK), sse({"error": error}))
        assert reader.verdict is Verdict.ACCEPTED
        assert reader.error is not None
        assert reader.error.status is None


def test_a_refusal_stays_one() -> None:
    reader, _ = read("chat.completions", sse({"error": THROTTLED}), DONE, sse(chunk({"content": "x"})))
    assert reader.verdict is Verdict.REFUSED


def test_an_error_of_the_content_filter_in_a_chunk_is_not_the_streams() -> None:
    """The asynchronous filter reports its own failure in every chunk."""
    content = chunk({"content": "Hi"})
    content["choices"][0]["content_filter_result"] = {"error": {"code": "content_filter_error"}}
    reader, _ = read("chat.completions", sse(content), sse(content))
    assert (reader.error, len(reader.delivered.text())) == (None, 4)


def test_text_about_usage_and_errors_is_read_as_text() -> None:
    texts = [
        '{"usage":{"prompt_tokens":1},"error":{"code":"429"}}',
        '"error"',
        '"usage":null',
        'say "error',
        "[DONE]",
    ]
    events = [sse(chunk({"content": text})) for text in texts]
    reader, passed = read("chat.completions", *events)
    assert passed == b"".join(events)
    assert (reader.usage, reader.error, reader.terminal_seen) == (None, None, False)
    assert len(reader.delivered.text()) == sum(map(len, texts))


def test_characters_of_tool_calls_and_of_several_choices_count() -> None:
    call = {"index": 0, "function": {"arguments": '{"city":'}}
    two = chunk({"content": "ab"})
    two["choices"].append(
        {"index": 1, "delta": {"content": "cde", "role": "assistant"}, "finish_reason": "length"}
    )
    reader, _ = read(
        "chat.completions", sse(chunk({"tool_calls": [call]})), sse(two, separators=(", ", ": "))
    )
    assert len(reader.delivered.text()) == len('{"city":') + 5
    assert reader.finish_reasons == ["length"]


def test_all_of_a_deltas_texts_count() -> None:
    first = sse(chunk({"content": "a"}))
    reader, _ = read("chat.completions", first, sse(chunk({"content": "ab", "refusal": "cde"})))
    assert len(reader.delivered.text()) == 6


def test_filter_annotations_after_the_finish_are_no_end() -> None:
    annotation = {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}], "id": ""}
    reader, _ = read(
        "chat.completions", sse(chunk({"content": "x"})), sse(chunk(finish="stop")), sse(annotation)
    )
    assert not reader.terminal_seen
    reader.feed(DONE)
    assert reader.terminal_seen


def test_completions() -> None:
    first = {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "m",
        "choices": [{"text": "Hi", "finish_reason": None}],
    }
    reader, _ = read("completions", sse(first), sse(first), DONE)
    assert (len(reader.delivered.text()), reader.response_id, reader.terminal_seen) == (4, "cmpl-1", True)


# --- responses ---------------------------------------------------------------------------------------


def test_a_response_from_preamble_to_end() -> None:
    completed = response_event(
        "response.completed",
        response={
            "id": "resp_1",
            "object": "response",
            "model": "dep",
            "status": "completed",
            "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        },
    )
    events = [
        CREATED,
        response_event("response.queued", response={}),
        response_event("response.in_progress", response={}),
        response_event("response.output_item.added", item={}),
        TEXT,
        completed,
    ]
    assert kinds("responses", *events) == [Kind.PREAMBLE] * 3 + [Kind.CONTENT] * 2 + [Kind.TERMINAL]
    reader, passed = read("responses", *events)
    assert passed == b"".join(events)
    assert reader.usage == Usage(5, 7, 12)
    assert (reader.response_id, reader.model, reader.finish_reasons) == ("resp_1", "dep", ["completed"])
    assert (len(reader.delivered.text()), reader.terminal_seen) == (5, True)


def test_an_incomplete_response_is_an_end_too() -> None:
    response = {
        "object": "response",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
    }
    reader, _ = read("responses", CREATED, TEXT, response_event("response.incomplete", response=response))
    assert (reader.terminal_seen, reader.finish_reasons) == (True, ["max_output_tokens"])


NESTED = sse({"type": "error", "error": THROTTLED, "sequence_number": 1}, "error")
FLAT = sse({"sequence_number": 1, **THROTTLED, "type": "error"}, "error")
FAILED = response_event("response.failed", response={"id": "resp_1", "status": "failed", "error": None})
FAILED_WITH_REASON = response_event("response.failed", response={"status": "failed", "error": THROTTLED})


@pytest.mark.parametrize(
    "events",
    [
        [CREATED, NESTED, FAILED],
        [CREATED, FLAT, FAILED],
        [CREATED, FAILED, NESTED],
        [CREATED, FAILED, FLAT],
        [NESTED],
        [CREATED, FAILED_WITH_REASON],
    ],
)
def test_a_refusal_inside_a_200(events: list[bytes]) -> None:
    for pieces in (events, [b"".join(events)]):
        reader, _ = read("responses", *pieces)
        assert reader.verdict is Verdict.REFUSED
        assert reader.error is not None
        assert (reader.error.code, reader.error.status) == ("rate_limit_exceeded", 429)


def test_a_failure_without_a_reason_is_undecided_until_the_reason_comes() -> None:
    reader, _ = read("responses", CREATED, FAILED)
    assert (reader.verdict, reader.terminal_seen) == (Verdict.UNDECIDED, True)
    reader.feed(sse({"type": "error", "error": {"code": "server_error"}}, "error"))
    assert reader.verdict is Verdict.REFUSED
    assert reader.error == StreamError("server_error", None, 500)


def test_a_refusal_after_content_is_an_error() -> None:
    for ending in ([NESTED, FAILED], [FAILED, NESTED], [FAILED_WITH_REASON]):
        reader, _ = read("responses", CREATED, TEXT, *ending)
        assert reader.verdict is Verdict.ACCEPTED
        assert reader.error == StreamError("rate_limit_exceeded", "too_many_requests", 429)


def test_responses_without_event_lines() -> None:
    events = [CREATED, TEXT, NESTED]
    bare = [event[event.index(b"\n") + 1 :] for event in events]
    assert kinds("responses", *bare) == [Kind.PREAMBLE, Kind.CONTENT, Kind.ERROR]
    assert kinds("responses", bare[0], bare[2]) == [Kind.PREAMBLE, Kind.REFUSAL]
    assert kinds("responses", bare[0], sse({"error": THROTTLED})) == [Kind.PREAMBLE, Kind.REFUSAL]


def test_unknown_events_are_content_and_done_is_an_end() -> None:
    assert kinds("responses", response_event("response.brand_new"), DONE) == [Kind.CONTENT, Kind.TERMINAL]


# --- the end, early or not ---------------------------------------------------------------------------


def test_half_an_event_waits_and_a_break_tells_the_client() -> None:
    reader = StreamReader("chat.completions")
    first = sse(chunk({"content": "Hi"}))
    assert reader.feed(first + first[:40]) == first
    assert not reader.client_mid_event
    told = reader.break_off(upstream_disconnected())
    assert told.startswith(b'data: {"error"')


def test_a_break_goes_on_counting() -> None:
    reader, _ = read("responses", CREATED, response_event("response.output_text.delta", sequence_number=41))
    assert json.loads(reader.break_off(upstream_disconnected()).split(b"data: ")[1])["sequence_number"] == 42


def test_a_break_within_an_event_over_the_limit_closes_it_first() -> None:
    reader = StreamReader("chat.completions", max_event_bytes=10)
    assert reader.feed(b"data: 12345678") == b"data: 12345678"
    assert reader.client_mid_event
    assert reader.verdict is Verdict.ACCEPTED
    assert reader.flush() == b""
    assert reader.break_off(upstream_disconnected()).startswith(b"\n\ndata: ")


def test_an_end_without_the_last_empty_line() -> None:
    reader, passed = read("chat.completions", sse(chunk({"content": "Hi"})), b"data: [DONE]\n")
    assert not reader.terminal_seen
    assert passed + reader.flush() == sse(chunk({"content": "Hi"})) + b"data: [DONE]\n"
    assert reader.terminal_seen
    assert reader.flush() == b""


def test_half_a_preamble_at_the_end_decides_nothing() -> None:
    reader, _ = read("chat.completions", sse(FILTER_CHUNK), sse(ROLE_CHUNK)[:40])
    assert reader.flush() == sse(ROLE_CHUNK)[:40]
    assert (reader.verdict, reader.terminal_seen) == (Verdict.UNDECIDED, False)


# --- usage that the client did not ask for -----------------------------------------------------------


def with_and_without(layout: str) -> tuple[list[bytes], list[bytes]]:
    """The streams of a backend that was asked for usage, and of one that was not."""
    contents = ["", "Hi", '"usage":null', ',"usage":null', '{"usage":{"prompt_tokens":1}}', 'x"usage', "ö"]
    chunks = [
        FILTER_CHUNK,
        ROLE_CHUNK,
        *(chunk({"content": text}) for text in contents),
        chunk(finish="stop"),
    ]
    asked, unasked = [], []
    for index, document in enumerate(chunks):
        spaced = (", ", ": ") if layout == "spaced" else (",", ":")
        unasked.append(sse(document, separators=spaced))
        if index == 0:  # Azure's first chunk has no usage member
            asked.append(unasked[0])
        elif layout == "first":
            asked.append(sse({"usage": None, **document}, separators=spaced))
        elif layout == "middle":
            members = list(document.items())
            asked.append(sse(dict([*members[:2], ("usage", None), *members[2:]]), separators=spaced))
        else:
            asked.append(sse({**document, "usage": None}, separators=spaced))
    return [*asked, sse(USAGE_CHUNK), DONE], [*unasked, DONE]


@pytest.mark.parametrize("layout", ["last", "middle", "first", "spaced"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_client_sees_the_stream_of_a_backend_that_was_not_asked(layout: str, line_end: bytes) -> None:
    asked, unasked = (b"".join(events).replace(b"\n", line_end) for events in with_and_without(layout))
    reader, passed = read("chat.completions", asked, remove_usage=True)
    assert passed + reader.flush() == unasked
    assert reader.usage == READ_USAGE


@given(st.sampled_from(["last", "middle", "first", "spaced"]), st.lists(st.integers(1, 300), max_size=30))
def test_however_the_reads_are_cut(layout: str, sizes: list[int]) -> None:
    asked, unasked = (b"".join(events) for events in with_and_without(layout))
    for remove, expected in ((True, unasked), (False, asked)):
        reader = StreamReader("chat.completions", remove_usage=remove)
        passed, rest = b"", asked
        for size in sizes:
            passed += reader.feed(rest[:size])
            rest = rest[size:]
        passed += reader.feed(rest) + reader.flush()
        assert passed == expected
        assert reader.usage == READ_USAGE
        assert reader.verdict is Verdict.ACCEPTED


def test_a_chunk_with_choices_and_usage_stays_and_loses_its_usage() -> None:
    both = chunk({"content": "x"}, usage=USAGE)
    reader, passed = read("chat.completions", sse(both), sse(both), remove_usage=True)
    assert passed == sse(chunk({"content": "x"})) * 2
    assert reader.usage == READ_USAGE


@pytest.mark.parametrize(
    ("asked", "unasked"),
    [
        ({"a": {"b": 1, "usage": None}, "usage": None}, {"a": {"b": 1, "usage": None}}),
        ({"usage": None, "a": {"b": 1, "usage": None}}, {"a": {"b": 1, "usage": None}}),
    ],
)
def test_only_the_top_levels_usage_is_removed(asked: object, unasked: object) -> None:
    _, passed = read("chat.completions", sse(asked), remove_usage=True)
    assert passed == sse(unasked)


@pytest.mark.parametrize("line_end", [b"", b"\n"])
def test_usage_is_removed_from_an_event_without_its_empty_line(line_end: bytes) -> None:
    last = {"usage": None, **chunk({"content": "x"}, "stop")}
    for event, unasked in ((USAGE_CHUNK, b""), (last, sse(chunk({"content": "x"}, "stop")).rstrip(b"\n"))):
        asked = sse(event).rstrip(b"\n") + line_end
        reader, passed = read("chat.completions", sse(chunk({"content": "x"})), asked, remove_usage=True)
        assert passed + reader.flush() == sse(chunk({"content": "x"})) + (unasked and unasked + line_end)
    assert reader.is_complete(cut_short=False)


def test_prompt_results_are_not_lost_with_the_usage() -> None:
    reader, passed = read("chat.completions", sse({**FILTER_CHUNK, "usage": USAGE}), remove_usage=True)
    assert passed == sse(FILTER_CHUNK)
    assert reader.usage == READ_USAGE


def test_what_cannot_be_edited_passes_as_it_is() -> None:
    odd = [
        b'data: {"usage":\n\n',
        b'data: {"usage": null,\ndata: "choices":[]}\n\n',
        b'data: \xff"usage"\n\n',
    ]
    _, passed = read("chat.completions", *odd, remove_usage=True)
    assert passed == b"".join(odd)
