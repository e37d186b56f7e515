"""A simulated realtime session: what the server says, and what it counts."""

from __future__ import annotations

import base64
import json
from itertools import count
from typing import Any

import pytest

from aoai_simulator.realtime import BYTES_PER_TOKEN, SPEECH_BYTES, Session
from aoai_simulator.tokenizer import ByteTokenizer


def session(*, preview: bool = False, **settings: Any) -> Session:
    numbers = count()
    return Session(
        "voice",
        preview=preview,
        seed=1,
        tokenizer=ByteTokenizer(),
        ident=lambda: f"{next(numbers):040x}",
        settings=settings,
    )


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def say(where: Session, text: str) -> None:
    content = [{"type": "input_text", "text": text}]
    where.receive({"type": "conversation.item.create", "item": {"type": "message", "content": content}})


def audio(size: int) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(size)).decode()}


def respond(where: Session, **asked: Any) -> dict[str, Any]:
    """Have it respond to the end, and give ``response.done``."""
    where.receive({"type": "response.create", "response": asked})
    assert where.turn is not None
    where.turn.said = len(where.turn.deltas)
    done: dict[str, Any] = where.finish()[-1]
    assert done["type"] == "response.done"
    return done["response"]  # type: ignore[no-any-return]


def test_text_is_answered_by_text() -> None:
    here = session()
    assert here.begin()[0]["session"]["model"] == "voice"
    say(here, "say: one two")
    response = respond(here, output_modalities=["text"])
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "one two"}]
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_token_details"]["cached_tokens"] == 0
    again = respond(here, output_modalities=["text"])["usage"]
    assert again["input_token_details"]["cached_tokens"] == usage["input_tokens"]
    assert again["input_tokens"] == usage["total_tokens"]


def test_speech_is_counted_as_audio() -> None:
    here = session()
    here.receive(audio(10 * BYTES_PER_TOKEN))
    assert "input_audio_buffer.committed" in kinds(here.receive({"type": "input_audio_buffer.commit"}))
    usage = respond(here)["usage"]
    assert usage["input_token_details"]["audio_tokens"] == 10
    assert usage["output_token_details"]["audio_tokens"] > 0


def test_a_session_that_listens_responds_by_itself() -> None:
    here = session(turn_detection={"type": "server_vad"})
    events = kinds(here.receive(audio(SPEECH_BYTES)))
    assert events[:3] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]
    assert "response.created" in events
    assert here.turn is not None


def test_a_transcription_has_usage_of_its_own() -> None:
    here = session(input_audio_transcription={"model": "whisper-1"})
    here.receive(audio(BYTES_PER_TOKEN))
    events = here.receive({"type": "input_audio_buffer.commit"})
    assert events[-1]["type"] == "conversation.item.input_audio_transcription.completed"
    assert events[-1]["usage"]["total_tokens"] == 7


def test_a_cancelled_response_counts_what_was_said() -> None:
    here = session()
    say(here, "say: a b c d")
    here.receive({"type": "response.create", "response": {"output_modalities": ["text"]}})
    assert here.turn is not None
    here.turn.said = 2
    done = here.receive({"type": "response.cancel"})[-1]
    assert (done["response"]["status"], done["response"]["usage"]["output_tokens"]) == ("cancelled", 2)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x", "invalid_event"),
        ({"type": "nonsense"}, "unknown_event"),
        ({"type": "session.update"}, "missing_required_parameter"),
        ({"type": "input_audio_buffer.append", "audio": "§"}, "invalid_value"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
        ({"type": "response.cancel"}, "response_cancel_not_active"),
    ],
)
def test_errors(message: Any, code: str) -> None:
    (told,) = session().receive(message)
    assert (told["type"], told["error"]["code"]) == ("error", code)


def test_one_response_at_a_time() -> None:
    here = session()
    here.receive({"type": "response.create"})
    (told,) = here.receive({"type": "response.create"})
    assert told["error"]["code"] == "conversation_already_has_active_response"


def test_a_response_beyond_the_limits_fails() -> None:
    here = session()
    here.book = lambda tokens: False
    created, done = here.receive({"type": "response.create"})
    assert created["type"] == "response.created"
    assert done["response"]["status_details"]["error"]["code"] == "rate_limit_exceeded"
    assert here.turn is None


def test_the_previews_have_other_names() -> None:
    here = session(preview=True)
    assert here.begin()[0]["session"]["modalities"] == ["audio", "text"]
    here.receive({"type": "response.create"})
    assert here.turn is not None
    assert {event["type"] for event in here.turn.deltas} == {
        "response.audio_transcript.delta",
        "response.audio.delta",
    }
    assert json.dumps(here.turn.begin).count("conversation.item.created") == 1
