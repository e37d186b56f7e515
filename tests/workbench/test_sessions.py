"""What is shown of a session's messages: what was said, once, and when."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.workbench.sessions import LONGEST_TEXT, MOST_LINES, read_session

Message = tuple[bool, float, bytes]


def client(at: float, **message: Any) -> Message:
    return True, at, json.dumps(message).encode()


def server(at: float, **message: Any) -> Message:
    return False, at, json.dumps(message).encode()


def lines(*messages: Message) -> list[dict[str, Any]]:
    return read_session(100.0, messages)["lines"]  # type: ignore[no-any-return]


ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where is it?"}]}


def test_a_question_and_its_answer_read_as_a_conversation() -> None:
    shown = lines(
        client(100.5, type="conversation.item.create", item=ASKED),
        server(100.6, type="conversation.item.added", item={**ASKED, "id": "i"}),
        server(101, type="response.output_text.delta", delta="On its "),
        server(101.2, type="response.output_text.delta", delta="way."),
        server(101.3, type="response.output_text.done", text="On its way."),
    )
    assert [(line["role"], line["text"]) for line in shown if line["text"]] == [
        ("user", "Where is it?"),
        ("assistant", "On its way."),
    ]
    assert [(line["at_ms"], line["count"]) for line in shown] == [(500, 1), (600, 1), (1000, 2), (1300, 1)]


def test_sound_is_told_by_its_size() -> None:
    data = base64.b64encode(bytes(3000)).decode()
    (asked, given_back) = lines(
        client(100, type="input_audio_buffer.append", audio=data),
        server(101, type="response.output_audio.delta", delta=data),
    )
    assert (asked["role"], asked["data"], asked["raw"]) == ("user", "sound, 3.0 KB", "")
    assert (given_back["role"], given_back["data"]) == ("assistant", "sound, 3.0 KB")


def test_calls_of_tools_and_their_results() -> None:
    called = {"type": "function_call", "name": "get_order", "arguments": '{"number": 4711}', "call_id": "c"}
    result = {"type": "function_call_output", "call_id": "c", "output": "sent"}
    shown = lines(
        server(100, type="response.output_item.done", item=called),
        client(101, type="conversation.item.create", item=result),
    )
    assert [(line["role"], line["text"]) for line in shown] == [
        ("assistant", 'calls get_order({"number": 4711})'),
        ("tool", "sent"),
    ]


def test_an_error_is_told_whole() -> None:
    (line,) = lines(server(100, type="error", error={"code": "bad", "message": "No such voice."}))
    assert (line["kind"], line["text"]) == ("error", "No such voice.")
    assert "bad" in line["raw"]


def test_what_says_nothing_is_shown_as_it_came() -> None:
    (line,) = lines(server(100, type="rate_limits.updated", rate_limits=[{"remaining": 7}]))
    assert (line["text"], "remaining" in line["raw"]) == ("", True)


def test_much_is_bounded() -> None:
    many = [server(100 + n, type="response.done", n=n) for n in range(MOST_LINES + 5)]
    found = read_session(100, many)
    assert (len(found["lines"]), found["hidden"]) == (MOST_LINES, 5)
    (line,) = lines(server(100, type="response.output_text.delta", delta="x" * (LONGEST_TEXT + 7)))
    assert (len(line["text"]), line["more"]) == (LONGEST_TEXT, 7)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                ("type", "item", "delta", "content", "text", "error", "session", "role", "name", "arguments")
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.floats(0, 1e9), values.map(lambda v: json.dumps(v).encode()) | st.binary()
        )
    )
)
def test_each_message_that_passes_is_shown(messages: list[Message]) -> None:
    assert json.dumps(read_session(0.0, messages))
