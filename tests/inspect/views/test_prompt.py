"""The Prompt view: what it shows, and what becomes of an edit."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.utils.strutils import escape_control_characters

from aoai_gateway.inspect.views import yaml_writer
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.prompt import reencode, show
from aoai_gateway.inspect.views.yaml_reader import EditError
from aoai_gateway.tokens import Counter
from tests.encodings import encodings
from tests.inspect.views.samples import OBJECTS, OPERATIONS, TEXTS, WEATHER_TOOL, same

CHAT = Facts("chat.completions")
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (512).to_bytes(4) + (384).to_bytes(4) + bytes(25_000)
).decode()
IMAGE = f"data:image/png;base64,{PNG}"

CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": 'Answer briefly.\n\n# Rules\n- Say "no": it\'s fine.\n'},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in\nthis picture?"},
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees": 21}'},
    ],
    "model": "gpt-4o",
    "temperature": 0.20,
    "stream": True,
    "tools": [WEATHER_TOOL],
    "response_format": {"type": "json_object"},
}

SHOWN = """\
# Chat completion with gpt-4o · streamed · 4 messages · 1 tool · 194 prompt tokens

model: gpt-4o
temperature: 0.2
stream: true
response_format: {type: json_object}

messages:

# ── 1 · system · 18 tokens ──────────────────────────────────────────────
- role: system
  content: |
    Answer briefly.

    # Rules
    - Say "no": it's fine.

# ── 2 · user · 96 tokens ────────────────────────────────────────────────
- role: user
  content:
  - type: text
    text: |-
      What is in
      this picture?
  - type: image_url
    image_url:
      url: !image 1, image/png, 512 × 384 pixels, 25.0 KB
      detail: low

# ── 3 · assistant calls get_weather · 14 tokens ─────────────────────────
- role: assistant
  content: null
  tool_calls:
  - type: function
    id: call_1
    function:
      name: get_weather
      arguments: |-
        {"city":"Paris"}

# ── 4 · tool answers call_1 · 13 tokens ─────────────────────────────────
- role: tool
  tool_call_id: call_1
  content: |-
    {"degrees": 21}

tools:
# get_weather(city: string, unit?: celsius|fahrenheit)
- type: function
  function:
    name: get_weather
    description: Current weather for a city.
    parameters:
      type: object
      properties:
        city: {type: string, description: The city}
        unit: {type: string, enum: [celsius, fahrenheit]}
      required: [city]
"""


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter(encodings())


def as_json(body: object, **style: Any) -> bytes:
    return json.dumps(body, **style).encode()


def edited(body: dict[str, Any], old: str, new: str, facts: Facts = CHAT, **style: Any) -> bytes:
    """Change one place in the view of a body, and put it back."""
    data = as_json(body, **style)
    text = show(data, facts)
    assert text.count(old) == 1
    return reencode(text.replace(old, new), data, facts)


# --- what it shows ----------------------------------------------------------------------------------


def test_a_conversation(counter: Counter) -> None:
    assert show(as_json(CONVERSATION), CHAT, counter, "gpt-4o") == SHOWN


def test_a_responses_request() -> None:
    body = {
        "model": "gpt-5",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAAAA" + "x" * 3000},
            {"type": "function_call", "name": "f", "call_id": "c1", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "done"},
        ],
        "instructions": "Be brief.\nAlways.",
        "previous_response_id": "resp_1",
    }
    text = show(as_json(body), Facts("responses"))
    assert text.startswith("# Response with gpt-5 · 4 items · about ")
    assert "and what the service has kept\n\nmodel: gpt-5\nprevious_response_id: resp_1\n" in text
    assert "\ninstructions: |-\n  Be brief.\n  Always.\n\ninput:\n" in text
    assert "\n# ── 3 · function_call f · about " in text
    assert "encrypted_content: !data 1, encrypted, 2.3 KB\n" in text
    assert "xxxx" not in text


def test_completions_and_embeddings() -> None:
    text = show(as_json({"prompt": "Once\nupon", "suffix": "end"}), Facts("completions", "text"))
    assert text.startswith("# Completion with text · about ")
    assert "prompt: |-\n  Once\n  upon\n\nsuffix: |-\n  end\n" in text
    several = show(as_json({"model": "e", "input": ["a", "b"]}), Facts("embeddings"))
    assert several.startswith("# Embeddings with e · 2 texts · ")
    one = show(as_json({"model": "e", "input": "a"}), Facts("embeddings"))
    assert one.startswith("# Embeddings with e · 1 text · ")
    tokens = show(as_json({"model": "e", "input": list(range(1000))}), Facts("embeddings"))
    assert "1 text · about 1,000 prompt tokens" in tokens
    assert "input: !data 1, 1,000 numbers, the first ones 0, 1, 2, 3\n" in tokens


def test_data_of_every_kind_is_one_line() -> None:
    sound, pdf = "UklGR" * 500, "data:application/pdf;base64," + "JVBER" * 800
    content = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": pdf}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    text = show(as_json({"messages": [{"role": "user", "content": content}]}), CHAT)
    assert "data: !audio 1, base64, 1.9 KB\n" in text
    assert "file_data: !file 2, application/pdf, 3.0 KB\n" in text
    assert "https://example.org/a.png" in text
    assert len(text) < 1000


def test_the_backends_count_stands_beside_ours(counter: Counter) -> None:
    facts = Facts("chat.completions", metadata={"gateway_tokens_in": 12})
    body = as_json({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]})
    assert "· 8 prompt tokens (12 by the backend's count)\n" in show(body, facts, counter, "gpt-4o")
    same_count = Facts("chat.completions", metadata={"gateway_tokens_in": 8})
    assert "· 8 prompt tokens\n" in show(body, same_count, counter, "gpt-4o")


WORDS = "The quick brown fox jumps over the lazy dog. "
LARGE = {
    "prose": [WORDS * 2_000],
    "code": [Path(__file__).read_text() * 6],
    "Chinese": ["敏捷的棕色狐狸跳过了懒狗。" * 4_000],
    "prose, then digits": [WORDS * 1_000, "1234567890" * 4_500],
    "many short messages": [WORDS] * 1_500,
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_prompt_is_counted_by_a_sample(counter: Counter, kind: str) -> None:
    body = {"messages": [{"role": "user", "content": text} for text in LARGE[kind]]}
    told = show(as_json(body), CHAT, counter, "gpt-4o").partition("\n")[0]
    found = re.search(r"· about ([\d,]+) prompt tokens", told)
    assert found
    exact = counter.count_request("chat.completions", body, "gpt-4o").tokens
    assert int(found[1].replace(",", "")) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("operation", ["embeddings", "responses", "completions"])
def test_large_texts_of_other_operations_are_sampled_too(counter: Counter, operation: str) -> None:
    body = {"input": WORDS * 2_000, "prompt": WORDS * 2_000}
    told = show(as_json(body), Facts(operation), counter, "gpt-4o").partition("\n")[0]
    assert "· about 20,0" in told


def test_a_huge_text_is_kept_out_and_comes_back() -> None:
    body = {"messages": [{"role": "user", "content": "word " * 300_000}, {"role": "user", "content": "Go"}]}
    assert len(show(as_json(body), CHAT)) < 1000
    assert json.loads(edited(body, "    Go", "    Stop"))["messages"] == [
        body["messages"][0],
        {"role": "user", "content": "Stop"},
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"messages": [', "# Not a prompt in JSON: it ends before it is complete (line 1, column 15)"),
        (b"\xff\xfe", "# Not a prompt in JSON: byte 0 is not UTF-8"),
        (b'{"n": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "# Not an object"),
    ],
)
def test_what_is_no_prompt_is_shown_all_the_same(data: bytes, says: str) -> None:
    assert says in show(data, CHAT)


@given(st.binary(max_size=300) | OBJECTS.map(as_json), OPERATIONS)
@example(b'{"a": 1e999}', "")
def test_nothing_raises(data: bytes, operation: str) -> None:
    text = show(data, Facts(operation))
    cut = data[: len(data) // 2]
    assert isinstance(show(cut, Facts(operation)), str)
    assert text


# --- back again ---------------------------------------------------------------------------------------


@given(OBJECTS, OPERATIONS, st.sampled_from((None, 1)), st.booleans())
def test_without_an_edit_nothing_changes(
    body: dict[str, Any], operation: str, indent: int | None, ascii_: bool
) -> None:
    data = json.dumps(body, indent=indent, ensure_ascii=ascii_).encode(errors="surrogatepass")
    text = show(data, Facts(operation))
    if text.startswith("# Not a prompt"):  # a lone surrogate, which UTF-8 cannot have
        return
    assert escape_control_characters(text) == text  # mitmproxy does that before it hands it out
    assert reencode(text, data, Facts(operation)) == data


@given(OBJECTS, OPERATIONS, TEXTS)
def test_a_new_member_changes_nothing_else(body: dict[str, Any], operation: str, value: str) -> None:
    data, facts = as_json(body), Facts(operation)
    text = show(data, facts) + f"zz_new: {json.dumps(value)}\n"
    assert same(json.loads(reencode(text, data, facts)), {**json.loads(data), "zz_new": value})


def test_all_that_was_not_edited_stays_to_the_byte() -> None:
    data = (
        b'{ "temperature":1.00e-1, "x":1, "x":2,\n "big": 12345678901234567890,'
        b' "e":"\\u00e9\\/", "messages":[{"content":"old","role":"user"} ]}'
    )
    text = show(data, CHAT).replace("    old", '    new "line"\n    two')
    assert reencode(text, data, CHAT) == data.replace(b'"old"', b'"new \\"line\\"\\ntwo"')


def test_an_image_stays_what_it_was() -> None:
    back = json.loads(edited(CONVERSATION, "this picture?", "this photograph?"))
    assert back["messages"][1]["content"][1] == CONVERSATION["messages"][1]["content"][1]
    assert back["messages"][1]["content"][0]["text"] == "What is in\nthis photograph?"
    assert list(back) == list(CONVERSATION)


def test_an_image_can_be_moved_and_taken_out() -> None:
    two = {"messages": [{"role": "user", "content": IMAGE + "A"}, {"role": "user", "content": IMAGE + "B"}]}
    data = as_json(two)
    text = show(data, CHAT)
    swapped = (
        text.replace("!image 1", "!image 9").replace("!image 2", "!image 1").replace("!image 9", "!image 2")
    )
    assert [m["content"] for m in json.loads(reencode(swapped, data, CHAT))["messages"]] == [
        IMAGE + "B",
        IMAGE + "A",
    ]
    without = json.loads(
        edited(two, "- role: user\n  content: !image 1, image/png, 512 × 384 pixels, 25.0 KB\n", "")
    )
    assert [m["content"] for m in without["messages"]] == [IMAGE + "B"]


def test_messages_can_be_added_and_parameters_changed() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": False, "n": 1}
    data = as_json(body)
    text = show(data, CHAT).replace("stream: false", "stream: true").replace("n: 1\n", "")
    text += "- role: assistant\n  content: |\n    Hello: # no comment\n"
    assert json.loads(reencode(text, data, CHAT)) == {
        "messages": [*body["messages"], {"role": "assistant", "content": "Hello: # no comment\n"}],
        "stream": True,
    }


def test_a_text_with_crlf_keeps_it() -> None:
    body = {"messages": [{"role": "user", "content": "one\r\ntwo\r\n"}]}
    assert json.loads(edited(body, "    two", "    three"))["messages"][0]["content"] == "one\r\nthree\r\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("temperature: 0.2", "temperature: .5", "line 4: JSON has no number .5"),
        ("stream: true", "stream: yes", "line 5: write true or false instead of yes"),
        ("stream: true", "stream: true\nstream: false", "line 6: 'stream' stands here twice"),
        ("!image 1,", "!image 7,", "!image 7 is not in this request; it has: !image 1"),
        ("stream: true", "stream: !now 1", "there is no tag !now"),
        ("stream: true", "stream: *x", "anchors and aliases"),
        ("stream: true", "stream: [1", "line "),
        ("messages:\n", "messages:\n  x: 1\n", "line "),
    ],
)
def test_an_edit_that_cannot_be_understood_says_where(old: str, new: str, says: str) -> None:
    with pytest.raises(EditError) as caught:
        edited(CONVERSATION, old, new)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "- a\n", "just text", "a: 1\n---\nb: 2\n", "\x00", "[" * 1200]
)
def test_a_document_that_is_none_changes_nothing(text: str) -> None:
    with pytest.raises(EditError):
        reencode(text, as_json(CONVERSATION), CHAT)


def test_what_is_not_json_cannot_be_edited() -> None:
    with pytest.raises(EditError, match="edit it as it is"):
        reencode("a: 1", b"{", CHAT)


PIECES = st.sampled_from(
    ["a", "b: ", "- ", "\n", "\n  ", "zz: 1\n", "yes", "!image 1", "!now", "|\n", "[", "]", "{", "}", "'",
     '"', "#", "1e999", "\t", "\x85", "&x ", "*x", ": ", ", ", "---\n", "\\", "\ud800", "%"]
)  # fmt: skip


@given(st.text() | st.lists(PIECES, max_size=8).map("".join))
@example("")
@example("# nothing\n")
@example("zz: 1\n")
def test_any_edit_is_understood_or_refused(text: str) -> None:
    data = as_json(CONVERSATION)
    try:
        edit = reencode(SHOWN + text, data, CHAT)
    except EditError:
        assert text.strip(" \r\n")
        return
    # What was understood is JSON, and stays what it is when it is shown and taken back.
    changed = json.loads(edit)
    assert list(changed)[: len(CONVERSATION)] == list(CONVERSATION)
    assert reencode(show(edit, CHAT), edit, CHAT) == edit
    shown = show(edit, CHAT) + "zz_more: 1\n"
    assert same(json.loads(reencode(shown, edit, CHAT)), {**changed, "zz_more": 1})


def test_numbers_that_json_has_not_are_kept() -> None:
    data = b'{"a": 1e999, "b": "x"}'
    text = show(data, CHAT)
    assert "a: !data 1, the number inf\n" in text
    assert reencode(text.replace("b: x", "b: y"), data, CHAT) == b'{"a": 1e999, "b": "y"}'
    assert math.isinf(json.loads(data)["a"])


def test_a_structure_without_end_is_kept_out_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_writer, "MAX_LINES", 1000)
    body = {
        "model": "m",
        "many": [*range(3000), "x"],
        "deep": [{"a": [{"b": ["text"] * 30}] * 30}] * 15,
        "last": {"a": ["text"] * 50},
    }
    text = show(as_json(body), CHAT)
    assert text.count("\n") < 1200
    assert "many: !data 1, 3,001 numbers" in text
    assert "last: !data" in text
    assert json.loads(edited(body, "model: m", "model: n")) == {**body, "model": "n"}
    messages = [{"role": "user", "content": "x"}] * 3000
    assert "messages: !data 1, 3,000 elements, too much to be shown\n" in show(
        as_json({"messages": messages}), CHAT
    )
