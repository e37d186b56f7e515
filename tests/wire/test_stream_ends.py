"""Which streams are complete: by what their end says, and by how their HTTP message ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.stream_kinds import Verdict


def data(document: object) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def choice(index: int = 0, text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return data({"choices": [{"delta": delta, "finish_reason": finish, "index": index, **more}]})


HI, STOP, DONE = choice(text="Hi"), choice(finish="stop"), b"data: [DONE]\n\n"
ANNOTATION = data({"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]})
USAGE = data({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
TOOLS = data(
    {
        "choices": [
            {
                "delta": {
                    "tool_calls": [
                        {"index": 0, "function": {"name": "f", "arguments": "{"}},
                        {"index": 1, "function": {"name": "g", "arguments": "{"}},
                    ]
                },
                "finish_reason": None,
                "index": 0,
            }
        ]
    }
)
TEXT = data({"choices": [{"text": "Hi", "index": 0, "finish_reason": None}]})
TEXT_STOP = data({"choices": [{"text": "", "index": 0, "finish_reason": "length"}]})
DELTA = b'event: response.output_text.delta\ndata: {"delta":"Hi"}\n\n'
LARGE = choice(text="x" * 200_000)


def last_event(name: str) -> bytes:
    return f'event: response.{name}\ndata: {{"type":"response.{name}","response":{{}}}}\n\n'.encode()


COMPLETE = {
    "a bare [DONE] line": [HI, STOP, b"[DONE]"],
    "a bare [DONE] line and no finish reason": [HI, b"[DONE]\n"],
    "a bare [DONE] line amid lines": [HI, b"[DONE]\n\n"],
    "content_filter and no [DONE]": [HI, choice(finish="content_filter")],
    "usage after the finish": [HI, STOP, USAGE],
    "filter annotations after the finish": [HI, STOP, ANNOTATION],
    "a last comment without an empty line": [HI, STOP, b": bye"],
    "no empty line at the end": [HI, STOP.rstrip(b"\n")],
    "no line end at the end": [HI, b"data: [DONE]"],
    "a byte order mark": [b"\xef\xbb\xbf" + HI, STOP],
    "all in an unended event with a byte order mark": [b"\xef\xbb\xbf" + STOP.rstrip()],
    "an event that is named done": [HI, b"event: done\ndata: {}\n\n"],
    "an event that is named done, without data": [HI, b"event: done\n\n"],
    "two choices": [HI, choice(1, "Ho"), STOP, choice(1, finish="length")],
    "two choices in one chunk": [
        data({"choices": [{"index": i, "delta": {"content": "x"}, "finish_reason": None} for i in (0, 1)]}),
        data({"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}, {"index": 1, "delta": {}}]}),
        choice(1, finish="stop"),
    ],
    "tool calls with indexes of their own": [TOOLS, TOOLS, choice(finish="tool_calls")],
    "a finish with the only text": [choice(text="Hi", finish="stop")],
    "large events": [LARGE, choice(text="y" * 200_000, finish="stop")],
    "a large event at its end": [LARGE, choice(text="y" * 200_000, finish="stop").rstrip()],
}
BROKEN = {
    "no finish reason": [HI],
    "one of two choices without its finish": [HI, choice(1, "Ho"), STOP],
    "half a choice, twice": [HI, choice(1, "Ho"), choice(1, finish="stop")],
    "half an event after the finish": [HI, STOP, b'data: {"cho'],
    "half a large event after the finish": [HI, STOP, LARGE[:100_000]],
    "a large event without its finish": [LARGE],
    "text that says it": [choice(text='"finish_reason":"stop"'), choice(text="[DONE]")],
}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_stream_passes_byte_for_byte(name: str, line_end: bytes) -> None:
    stream = b"".join(COMPLETE[name]).replace(b"\n", line_end)
    for size in (1_000_000, 65_536, 7):
        reader = StreamReader("chat.completions")
        passed = b"".join(reader.feed(stream[at : at + size]) for at in range(0, len(stream), size))
        assert passed + reader.flush() == stream
        assert reader.is_complete(cut_short=False)
        if len(stream) > 100_000:
            break


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_without_its_end_is_broken_however_its_message_ended(name: str) -> None:
    reader = StreamReader("chat.completions")
    reader.feed(b"".join(BROKEN[name]))
    reader.flush()
    assert not reader.is_complete(cut_short=False)


def test_a_message_that_is_cut_short_is_broken_unless_the_stream_said_that_it_is_over() -> None:
    for ending, complete in ((STOP, False), (STOP + USAGE, False), (STOP + DONE, True)):
        reader = StreamReader("chat.completions")
        reader.feed(HI + ending)
        reader.flush()
        assert reader.is_complete(cut_short=True) is complete


def test_completions_end_alike() -> None:
    for events, complete in (([TEXT, TEXT_STOP], True), ([TEXT], False), ([TEXT, b"[DONE]"], True)):
        reader = StreamReader("completions")
        reader.feed(b"".join(events))
        reader.flush()
        assert reader.is_complete(cut_short=False) is complete


@pytest.mark.parametrize("name", ["completed", "incomplete", "cancelled", "failed"])
def test_a_response_ends_with_its_last_event(name: str) -> None:
    reader = StreamReader("responses")
    reader.feed(DELTA)
    reader.flush()
    assert not reader.is_complete(cut_short=False)
    reader.feed(last_event(name))
    assert reader.is_complete(cut_short=True)


def test_comments_alone_say_nothing() -> None:
    reader = StreamReader("chat.completions")
    reader.feed(b": keep-alive\n\n" * 5)
    reader.flush()
    assert (reader.verdict, reader.is_complete(cut_short=False)) == (Verdict.UNDECIDED, False)


# --- errors that stand for a status --------------------------------------------------------------------

STATUSES = {
    ("server_error", None): 500,
    ("InternalServerError", None): 500,
    (None, "server_error"): 500,
    ("some_new_code", "server_error"): 500,
    (500, None): 500,
    ("502", None): 502,
    ("service_unavailable", None): 503,
    (None, "overloaded_error"): 529,
    ("server_is_overloaded", None): 429,
    ("RateLimitReached", None): 429,
    ("vector_store_timeout", None): 504,
    ("Timeout", None): 504,
    ("408", None): 408,
}
CALLERS = [
    ("content_filter", None),
    ("invalid_prompt", "invalid_request_error"),
    ("invalid_encrypted_content", None),
    ("context_length_exceeded", None),
    (400, None),
    (True, None),
    (None, None),
    ("9" * 5000, None),
]


def failures(code: object, type_: object) -> dict[str, tuple[str, list[bytes]]]:
    error = {"code": code, "type": type_, "message": "secret prompt"}
    created = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'
    failed = {"type": "response.failed", "response": {"status": "failed", "error": error}}
    return {
        "a chat's first event": ("chat.completions", [data({"error": error})]),
        "a chat's event after the role": ("chat.completions", [choice(text=""), data({"error": error})]),
        "response.failed": ("responses", [created, b"event: response.failed\n" + data(failed)]),
        "an error event": ("responses", [created, b"event: error\n" + data({"error": error})]),
        "a flat error event": ("responses", [created, b"event: error\n" + data({**error, "sequence": 1})]),
        "an error without its end": ("chat.completions", [data({"error": error}).rstrip()]),
    }


@pytest.mark.parametrize("where", failures(None, None))
@pytest.mark.parametrize("names", STATUSES)
def test_what_would_be_replayed_as_a_status_is_a_refusal(names: tuple[object, object], where: str) -> None:
    operation, events = failures(*names)[where]
    reader = StreamReader(operation)
    reader.feed(b"".join(events))
    reader.flush()
    assert reader.verdict is Verdict.REFUSED
    assert reader.error is not None
    assert reader.error.status == STATUSES[names]
    assert "secret" not in repr(reader.error)


@pytest.mark.parametrize("where", ["a chat's first event", "an error event", "a flat error event"])
@pytest.mark.parametrize("names", CALLERS)
def test_the_callers_own_error_is_its_answer(names: tuple[object, object], where: str) -> None:
    operation, events = failures(*names)[where]
    reader = StreamReader(operation)
    reader.feed(b"".join(events))
    assert reader.verdict is Verdict.ACCEPTED
    assert reader.terminal_seen


def test_a_response_that_failed_without_a_reason_is_a_failure_of_the_server() -> None:
    reader = StreamReader("responses")
    reader.feed(last_event("failed"))
    assert reader.verdict is Verdict.UNDECIDED
    reader.flush()
    assert reader.verdict is Verdict.REFUSED
    assert reader.error is not None
    assert reader.error.status == 500


# --- bounded work --------------------------------------------------------------------------------------

MANY = 400_000


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":' + b'"content" : ' * MANY + b"}]}\n\n",
        b'data: {"choices":[{"index":0,"delta":{},"logprobs":{"content":[' + b"[]," * MANY + b"[]]}}]}\n\n",
        b'data: {"usage":{' + b'"usage":{' * MANY + b"\n\n",
        b'data: {"error":' + b'{"error":' * MANY + b"\n\n",
        b"data: x\n" * MANY + b"\n",
        b"data: x\r\n" * MANY + b"\r\n",
        b'data: {"id" : ' + b'"id" : "x",' * MANY + b"}\n\n",
    ],
)
def test_a_large_event_is_never_decoded(event: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **more: decoded.append(len(text)) or loads(text, **more))
    for operation in ("chat.completions", "responses"):
        reader = StreamReader(operation, remove_usage=True)
        passed = b"".join(reader.feed(event[at : at + 65_536]) for at in range(0, len(event), 65_536))
        assert passed + reader.flush() == event
        assert len(reader.delivered.text()) <= 262_144
    assert max(decoded, default=0) <= 262_200


@pytest.mark.parametrize("block", [b"\n\n", b":\n\n", b"a\n\n", b"\r\n\r\n"])
def test_a_flood_of_empty_events_is_read_together(block: bytes) -> None:
    reader = StreamReader("chat.completions")
    flood = block * (65_536 // len(block))
    assert len(reader._scanner.feed(flood)) <= 2
    reader = StreamReader("chat.completions")
    assert reader.feed(flood + HI + STOP + DONE) + reader.flush() == flood + HI + STOP + DONE
    assert reader.terminal_seen


def test_the_usage_of_a_large_last_event_is_found() -> None:
    response = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": ["x" * 5_000_000],
        "model": "dep",
        "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
    }
    reader = StreamReader("responses")
    reader.feed(DELTA + b"event: response.completed\n" + data({"type": "x", "response": response}))
    assert reader.usage is not None
    assert reader.usage.total_tokens == 12
    assert (reader.response_id, reader.model, reader.finish_reasons) == ("resp_1", "dep", ["completed"])


# --- what was delivered --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        ({"content": "你好"}, "你好"),
        ({"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": "{}"}}]}, "find{}"),
        ({"reasoning_content": "hm"}, "hm"),
        ({"refusal": "No."}, "No."),
        ({"audio": {"transcript": "la", "data": "AAAA"}}, "la"),
        ({"content": 'a "b"\n'}, 'a "b"\n'),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_all_that_a_model_says_is_kept(delta: dict[str, Any], text: str, first: bool) -> None:
    reader = StreamReader("chat.completions")
    if not first:
        reader.feed(HI)
    raw = json.dumps({"choices": [{"delta": delta, "index": 0}]}, ensure_ascii=first)
    reader.feed(b"data: " + raw.encode() + b"\n\n")
    assert reader.delivered.text() == ("" if first else "Hi") + text


def test_of_audio_the_transcript_is_kept() -> None:
    reader = StreamReader("responses")
    reader.feed(b'event: response.audio.delta\ndata: {"delta":"AAAA"}\n\n')
    reader.feed(b'event: response.audio.transcript.delta\ndata: {"delta":"la"}\n\n')
    assert reader.delivered.text() == "la"


def test_a_character_cut_between_two_chunks_is_whole() -> None:
    reader = StreamReader("chat.completions")
    for half in ("\\ud83d", "\\ude00"):
        reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"' + half.encode() + b'"}}]}\n\n')
    assert reader.delivered.text() == "😀"
