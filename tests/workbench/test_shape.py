"""What the page is shown of a request and its answer, and how an edit finds back what was left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.workbench.shape import (
    BUDGET,
    LONGEST_STRING,
    answer_shape,
    as_json,
    at,
    dump,
    filled,
    has_stand_ins,
    part,
    request_shape,
)

PICTURE = "data:image/png;base64," + "A" * 4000
CHAT = Facts("chat.completions", content_type="application/json")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def shown(body: Any) -> Any:
    return request_shape(json.dumps(body).encode())["body"]


def test_a_short_request_is_shown_as_it_is() -> None:
    body = {"messages": [{"role": "user", "content": "a\nb"}], "temperature": 0.5}
    assert shown(body) == body
    assert not has_stand_ins(body)


def test_long_strings_are_left_behind_and_found_again() -> None:
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
            {"role": "user", "content": "long " * LONGEST_STRING},
        ],
        "a/b~c": PICTURE,
    }
    cut = shown(body)
    assert len(json.dumps(cut)) < 10_000
    assert cut["messages"][0]["content"][0]["image_url"]["url"]["kind"] == "image"
    assert cut["messages"][1]["content"]["head"].startswith("long long")
    assert has_stand_ins(cut)
    assert filled(cut, body) == body


def test_an_edit_of_one_message_keeps_the_others() -> None:
    body = {"messages": [{"role": "user", "content": PICTURE}, {"role": "user", "content": "old"}]}
    cut = shown(body)
    cut["messages"][1]["content"] = "new"
    cut["messages"].reverse()
    assert [each["content"] for each in filled(cut, body)["messages"]] == ["new", PICTURE]


def test_many_paragraphs_are_bounded_together() -> None:
    body = {"messages": [{"role": "user", "content": "word " * 10_000} for _ in range(100)]}
    assert len(json.dumps(shown(body))) < BUDGET + 500_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"messages": [{"role": "user", "content": "w"}] * 300_000},
        lambda: {"input": [[] for _ in range(400_000)]},
        lambda: {"metadata": {str(number): "v" * 400 for number in range(20_000)}},
        lambda: {"tools": [{"name": "n" * 50, "parameters": {"a": list(range(30))}}] * 40_000},
        lambda: {"n" * 5_000_000: 1},
    ],
    ids=["messages", "lists", "members", "tools", "name"],
)
def test_many_short_values_are_bounded_together(make: Callable[[], Any]) -> None:
    body = make()
    cut = shown(body)
    assert len(as_json(cut)) < 2 * BUDGET
    assert filled(cut, body) == body


def test_of_a_long_conversation_the_end_is_shown() -> None:
    body = {"messages": [{"role": "user", "content": f"{number} " + "w" * 90} for number in range(10_000)]}
    messages = shown(body)["messages"]
    assert messages[-1] == body["messages"][-1]
    assert messages[0]["$kept"] == "/messages/0"
    assert messages[0]["words"] == "an object of 2 members"


@pytest.mark.parametrize("number", ["12345678901234567890", "-9007199254740993", "1e999", "-1e999"])
def test_a_number_that_a_browser_cannot_hold_is_left_behind(number: str) -> None:
    raw = b'{"seed": ' + number.encode() + b', "list": [' + b", ".join([number.encode()] * 65) + b"]}"
    cut = request_shape(raw)["body"]
    assert cut["seed"]["kind"] == "data"
    json.loads(as_json(cut), parse_constant=lambda name: pytest.fail(name))
    assert filled(cut, json.loads(raw)) == json.loads(raw)


def test_an_answer_of_many_parts_is_bounded() -> None:
    choice = {"finish_reason": "stop", "message": {"content": "w" * 90_000}}
    found = answer_shape(json.dumps({"choices": [choice] * 100}).encode(), CHAT)
    assert len(as_json(found)) < 1_500_000
    assert found["choices"][99]["parts"][0] == {"kind": "text", "title": "", "text": "", "length": 90_000}


@given(json_values)
def test_each_shown_value_can_be_filled_in_again(value: Any) -> None:
    body = {"input": value}
    assert filled(shown(body), body) == body


@pytest.mark.parametrize("pointer", ["/x", "/messages/9", "/messages/-1", "/messages/0/content/0", "/a/b"])
def test_a_pointer_that_leads_nowhere(pointer: str) -> None:
    body = {"messages": [{"content": "text"}], "a": 1}
    with pytest.raises(KeyError):
        at(body, pointer)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"])
def test_a_body_that_is_no_json_is_shown_as_it_came(body: bytes) -> None:
    found = request_shape(body)
    assert found["body"] is None
    assert found["problem"]


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"{}", b'{"choices": 1}', b"data: {", b"\x00"])
@pytest.mark.parametrize("operation", ["chat.completions", "responses", "embeddings", ""])
def test_an_answer_of_any_bytes_is_shown(body: bytes, operation: str) -> None:
    assert "choices" in answer_shape(body, Facts(operation))


def test_an_answer_in_parts() -> None:
    body = {
        "model": "gpt-4o",
        "choices": [{"finish_reason": "stop", "message": {"content": "Hello", "reasoning_content": "Hm"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    found = answer_shape(json.dumps(body).encode(), CHAT)
    (choice,) = found["choices"]
    assert [(part["title"], part["text"]) for part in choice["parts"]] == [("reasoning", "Hm"), ("", "Hello")]
    assert (choice["finish"], found["usage"]["input_tokens"]) == ("stop", 3)


def test_an_error_is_told_as_one() -> None:
    found = answer_shape(b'{"error": {"code": "429", "message": "Slow down"}}', CHAT)
    assert re.search("429.*Slow down", found["error"])


def test_halves_of_surrogate_pairs_can_be_sent() -> None:
    assert json.loads(dump({"a": "\ud800"})) == {"a": "\ud800"}
    assert dump({"a": "ü"}) == '{"a": "ü"}'.encode()


def test_an_answer_that_is_a_sound_is_shown_as_one() -> None:
    shown = answer_shape(b"RIFF\xff", Facts("audio.speech", content_type="audio/wav"))
    assert shown["media"] == [{"$kept": "", "kind": "audio", "words": "audio/wav, 5 bytes"}]
    assert shown["raw"] == ""


def test_images_in_an_answer_are_shown_beside_its_text() -> None:
    picture = "iVBORw0KGgo" + "A" * 400
    body = json.dumps({"data": [{"b64_json": picture, "revised_prompt": "A cat."}]}).encode()
    shown = answer_shape(body, Facts("images.generations", content_type="application/json"))
    assert [each["$kept"] for each in shown["media"]] == ["/data/0/b64_json"]
    assert "A cat." in shown["text"]
    assert part(body, "/data/0/b64_json")[0] == "image/png"


def test_a_transcript_is_its_text() -> None:
    shown = answer_shape(b'{"text": "Hello\\nthere"}', Facts("audio.transcriptions"))
    assert shown["text"] == "Hello\nthere"


def test_a_request_without_a_body_is_no_mistake() -> None:
    assert request_shape(b"") == {"body": None, "empty": True}
