"""What is read of an answer, in each form; what counts as different from another one, and how it is told."""

from __future__ import annotations

import base64
import json
import struct
import time
from typing import Any

import pytest

from aoai_gateway.rerun.answers import Answer, Verdict, closeness, compare, compare_texts, read

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def whole(**message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def stream(*deltas: dict[str, Any], done: bool = True) -> bytes:
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": USAGE})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*events, "data: [DONE]\n\n" if done else ""]).encode()


def chat(body: bytes, status: int = 200, content_type: str = "application/json") -> Answer:
    return read("chat.completions", status, content_type, body)


def test_a_stream_says_what_the_whole_answer_says() -> None:
    expected = Answer(200, "Hello you", "stop", 3, 5, plain="Hello you")
    assert chat(whole(content="Hello you")) == expected
    streamed = stream({"role": "assistant"}, {"content": "Hello"}, {"content": " you"})
    assert chat(streamed, content_type="text/event-stream; charset=utf-8") == expected
    assert expected.is_good


def test_tool_calls_are_compared_without_their_ids() -> None:
    def called(ident: str) -> bytes:
        function = {"name": "weather", "arguments": '{"city":"Paris"}'}
        return whole(content=None, tool_calls=[{"id": ident, "type": "function", "function": function}])

    one, other = chat(called("call_1")), chat(called("call_2"))
    assert one == other
    assert one.text == '[tool call weather]\n{"city":"Paris"}'


def test_responses_are_read_from_objects_and_streams() -> None:
    response = {
        "object": "response",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    }
    expected = Answer(200, "Hi", "completed", 1, 2, plain="Hi")
    assert read("responses", 200, "application/json", json.dumps(response).encode()) == expected
    event = json.dumps({"type": "response.completed", "response": response})
    body = f"event: response.completed\ndata: {event}\n\n".encode()
    assert read("responses", 200, "text/event-stream", body) == expected


def test_embeddings_are_vectors_in_either_form() -> None:
    packed = base64.b64encode(struct.pack("<3f", 1, 2, 3)).decode()
    answers = []
    for embedding in ([1.0, 2.0, 3.0], packed):
        body = json.dumps(
            {"data": [{"embedding": embedding}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
        )
        answers.append(read("embeddings", 200, "application/json", body.encode()))
    assert answers[0] == answers[1]
    assert answers[0].vectors == ((1.0, 2.0, 3.0),)
    assert answers[0].input_tokens == 4


def test_what_failed_says_so() -> None:
    refused = json.dumps({"error": {"code": "content_filter", "message": "No."}}).encode()
    assert chat(refused, 400) == Answer(400, error="content_filter: No.")
    assert not chat(refused, 400).is_good
    cut = chat(stream({"content": "Hel"}, done=False), content_type="text/event-stream")
    assert (cut.text, cut.error) == ("Hel", "it ended without its proper end")
    error = b'data: {"error": {"code": "upstream_disconnected", "message": "Gone."}}\n\n'
    assert chat(error, content_type="text/event-stream").error == "upstream_disconnected: Gone."


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"choices": 3}', b"\xff\xfe", b"[" * 100_000]
)
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("operation", ["chat.completions", "completions", "embeddings", "responses"])
def test_odd_answers_are_read_too(operation: str, status: int, body: bytes) -> None:
    answer = read(operation, status, "application/json", body)
    assert answer.status == status
    assert read(operation, status, "text/event-stream", body).status == status


def test_vectors_are_as_close_as_their_least_close_pair() -> None:
    assert closeness(((1.0, 0.0), (0.0, 1.0)), ((2.0, 0.0), (0.0, 0.5))) == 1
    assert closeness(((1.0, 0.0), (1.0, 0.0)), ((1.0, 0.0), (0.0, 1.0))) == 0
    assert closeness(((1.0, 0.0),), ((1.0, 0.0), (1.0, 0.0))) == 0
    assert closeness(((1.0,),), ((1.0, 2.0),)) == 0
    assert closeness(((0.0,),), ((0.0,),)) == 0
    assert closeness((), ()) == 0


GOOD = Answer(200, "It is Paris.", "stop", 3, 5)


def test_the_same_answer_is_the_same_at_any_cost() -> None:
    comparison = compare(GOOD, Answer(200, "It is Paris.", "stop", 4, 6))
    assert comparison.verdict is Verdict.SAME
    assert comparison.alike == 1
    assert comparison.changes == ()


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (Answer(200, "It is Rome.", "stop"), ("It is [-Paris.-] {+Rome.+}",)),
        (Answer(200, "It is Paris.", "length"), ("finish reason: stop → length",)),
    ],
)
def test_another_answer_is_different(now: Answer, changes: tuple[str, ...]) -> None:
    comparison = compare(GOOD, now)
    assert comparison.verdict is Verdict.DIFFERENT
    assert comparison.changes == changes


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (Answer(429, error="quota_exceeded: Wait."), "429 quota_exceeded: Wait."),
        (Answer(0, error="no connection: refused"), "no connection: refused"),
        (Answer(200, "It is", error="upstream_disconnected: Gone."), "upstream_disconnected: Gone."),
    ],
)
def test_no_answer_where_there_was_one_is_a_failure(now: Answer, change: str) -> None:
    comparison = compare(GOOD, now)
    assert comparison.verdict is Verdict.FAILED
    assert comparison.changes == (change,)


def test_a_refusal_that_was_one_before_is_the_same() -> None:
    then = Answer(400, error="content_filter: Request 1 was filtered.")
    assert compare(then, Answer(400, error="content_filter: Request 2 was filtered.")).verdict is Verdict.SAME
    other = compare(then, Answer(400, error="context_length_exceeded: Too long."))
    assert other.verdict is Verdict.DIFFERENT
    good = compare(then, GOOD)
    assert good.verdict is Verdict.DIFFERENT
    assert good.changes[0] == "status: 400 → 200"


def test_embeddings_may_differ_in_their_last_digits() -> None:
    then = Answer(200, "1 of 2 dimensions", vectors=((1.0, 0.5),))
    assert compare(then, Answer(200, "1 of 2 dimensions", vectors=((1.0, 0.5001),))).verdict is Verdict.SAME
    turned = compare(then, Answer(200, "1 of 2 dimensions", vectors=((1.0, 0.9),)))
    assert turned.verdict is Verdict.DIFFERENT
    assert "cosine" in turned.changes[0]


def test_a_difference_is_shown_amid_its_words() -> None:
    then = "one two three four five six seven eight nine ten eleven twelve"
    alike, lines = compare_texts(then, then.replace("seven", "SEVEN and a half"))
    assert lines == ["… two three four five six [-seven-] {+SEVEN and a half+} eight nine ten eleven twelve"]
    assert 0.8 < alike < 1
    assert compare_texts("a b", "a b c")[1] == ["a b {+c+}"]
    assert compare_texts("a b c", "b c")[1] == ["[-a-] b c"]


def test_white_space_counts() -> None:
    alike, lines = compare_texts("if x:\n  y", "if x:\n    y")
    assert alike < 1
    assert lines
    assert compare_texts("x\n", "x")[1] == ["x [-⏎-]"]


def test_what_is_long_is_shortened() -> None:
    _, lines = compare_texts("same " + "old " * 500, "same " + "new " * 500)
    assert len(lines) == 1
    assert len(lines[0]) < 400
    many = " ".join(f"word{n} here stays as it is" for n in range(50))
    _, lines = compare_texts(many, many.replace("word", "WORD"))
    assert len(lines) == 5
    assert lines[-1] == "and 46 more differences"


def test_long_answers_are_compared_in_a_moment() -> None:
    then = " ".join(f"w{n * 7919 % 1000}" for n in range(100_000))
    now = " ".join(f"w{n * 6101 % 1000}" for n in range(100_000))
    began = time.process_time()
    compare_texts(then, now)
    assert time.process_time() - began < 20
