"""The messages of sessions: what is read of them, and what is replaced."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

import pytest

from aoai_gateway.wire.credential_errors import unauthorized
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.session_messages import (
    LARGE_MESSAGE,
    close_code,
    error_message,
    message_too_large,
    read_asked,
    read_told,
    with_models,
)
from aoai_gateway.wire.usage import Usage

USAGE = {
    "total_tokens": 9,
    "input_tokens": 5,
    "output_tokens": 4,
    "input_token_details": {
        "audio_tokens": 3,
        "cached_tokens": 2,
        "cached_tokens_details": {"audio_tokens": 1},
    },
    "output_token_details": {"audio_tokens": 2},
}
SAME = Usage(5, 4, 9, cached_tokens=2, input_audio_tokens=3, output_audio_tokens=2, cached_audio_tokens=1)


def told(**members: Any) -> bytes:
    return json.dumps(members).encode()


def test_what_says_nothing_that_counts_is_not_read() -> None:
    assert read_told(told(type="response.output_audio.delta", delta="AAAA")) is None
    assert read_told(b'not json "response.done"') is None
    assert read_told(b'["response.done"]') is None
    # What a model says has its quotes escaped.
    assert read_told(told(type="x", delta='say "response.done" now')) is None


@pytest.mark.parametrize("kind", ["response.done", "response.completed", "response.incomplete"])
def test_the_end_of_a_response(kind: str) -> None:
    message = read_told(told(type=kind, response={"id": "resp_1", "usage": USAGE}))
    assert message is not None
    assert (message.type, message.response_id, message.usage) == ("response.done", "resp_1", SAME)


def test_the_end_of_a_response_that_is_large() -> None:
    output = [{"text": "x" * LARGE_MESSAGE}]
    raw = told(type="response.done", response={"id": "resp_12", "output": output, "usage": USAGE})
    message = read_told(raw)
    assert message is not None
    assert (message.type, message.response_id, message.usage) == ("response.done", "resp_12", SAME)
    assert read_told(told(type="x.delta", delta="x" * LARGE_MESSAGE)) is None


def test_the_usage_of_a_large_message_is_that_of_the_same_small_one() -> None:
    usage = {
        "total_tokens": 60,
        "input_tokens": 50,
        "output_tokens": 10,
        "input_token_details": {
            "audio_tokens": 3,
            "image_tokens": 4,
            "cached_tokens": 6,
            "cache_write_tokens": 5,
            "cached_tokens_details": {"audio_tokens": 1},
        },
        "output_token_details": {"audio_tokens": 2, "image_tokens": 7, "reasoning_tokens": 8},
    }
    found = []
    for length in (1, LARGE_MESSAGE):
        output = [{"text": "x" * length}]
        message = read_told(told(type="response.done", response={"output": output, "usage": usage}))
        assert message is not None
        found.append(message.usage)
    assert found == [Usage(50, 10, 60, 6, 8, 3, 2, 5, 1, 4, 7)] * 2
    assert 0 not in astuple(found[0]), "each count is looked at"


def test_usage_is_added_up() -> None:
    assert SAME + Usage() == SAME
    assert (SAME + SAME).cached_audio_tokens == 2
    assert (SAME + SAME).total_tokens == 18


@pytest.mark.parametrize(
    "members",
    [
        {"session": {"model": "a"}},
        {"session": {"input_audio_transcription": {"model": "a", "language": "de"}}},
        {"session": {"audio": {"input": {"transcription": {"model": "a"}, "noise": [1]}}}},
    ],
)
def test_names_are_replaced_wherever_they_stand(members: dict[str, Any]) -> None:
    message = read_asked(told(type="session.update", **members))
    changed = with_models(message, str.upper)
    assert changed is not None
    assert json.loads(changed) == {
        "type": "session.update",
        **json.loads(json.dumps(members).replace('"a"', '"A"')),
    }
    assert with_models(message, lambda name: name) is None


@pytest.mark.parametrize(
    "members", [{}, {"session": None}, {"session": {"model": 7}}, {"session": {"audio": [{"input": 1}]}}]
)
def test_nothing_is_replaced_where_there_is_no_name(members: dict[str, Any]) -> None:
    assert with_models(read_asked(told(type="x", **members)), str.upper) is None


@pytest.mark.parametrize("raw", [b"", b"1", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000])
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        read_asked(raw)
    assert refused.value.code == "message_malformed"


@pytest.mark.parametrize(
    ("members", "bound"),
    [
        ({"response": {"max_output_tokens": 5}}, 5),
        ({"session": {"max_response_output_tokens": 6}}, 6),
        ({"response": {"max_output_tokens": "inf"}}, None),
        ({"response": {"max_output_tokens": True}}, None),
        ({}, None),
    ],
)
def test_the_bound_of_a_response(members: dict[str, Any], bound: int | None) -> None:
    kind = "response.create" if "response" in members else "session.update"
    assert read_asked(told(type=kind, **members)).max_output_tokens == bound
    assert read_asked(told(type="x", **members)).max_output_tokens is None


def test_errors_of_a_session() -> None:
    error = message_too_large(7)
    assert close_code(error) == 1009
    assert close_code(unauthorized()) == 1008
    realtime = json.loads(error_message(error, with_status=False))
    assert (realtime["type"], realtime["error"]["code"]) == ("error", "message_too_large")
    assert json.loads(error_message(error, with_status=True))["status"] == 413
