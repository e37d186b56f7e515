"""Images and audio cost money: the most is booked, and what the answer tells is settled."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.effects import Reserve, Settle
from aoai_gateway.usage.record import cost_of
from aoai_gateway.wire.usage import Usage, facts_of, read_usage
from tests.engine_driver import Answer, Trace, world

RICH = Client.model_validate({"name": "rich", "key": "k", "max_cost_per_day": 1000})
IMAGES = "/openai/v1/images/generations"
EDITS = "/openai/v1/images/edits"
HEARD = "/openai/v1/audio/transcriptions"
SPOKEN = "/openai/v1/audio/speech"
GPT_IMAGE = {"input": 5, "output": 10, "image_input": 8, "image_output": 40}
DALL_E = {"input": 0, "output": 0, "image": 0.04}
WHISPER = {"input": 0, "output": 0, "audio_minute": 0.006}
TRANSCRIBE = {"input": 2.5, "output": 10, "audio_input": 6}
TTS = {"input": 0, "output": 0, "characters": 15}
MINI_TTS = {"input": 0.6, "output": 12, "audio_output": 12}


def form(file: bytes = b"", **fields: str) -> bytes:
    disposition = "content-disposition: form-data; name="
    parts = [f'{disposition}"{name}"\r\n\r\n{value}' for name, value in fields.items()]
    parts.append(f'{disposition}"file"; filename="a"\r\n\r\n')
    body = b"".join(b"--b\r\n" + part.encode() + b"\r\n" for part in parts[:-1])
    return body + b"--b\r\n" + parts[-1].encode() + file + b"\r\n--b--\r\n"


def wave(seconds: float, rate: int = 32_000) -> bytes:
    """Make a WAV file with so many bytes a second."""
    sound = b"\0" * int(seconds * rate)
    head = struct.pack("<HHIIHH", 1, 1, rate // 2, rate, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(sound)) + b"WAVEfmt " + struct.pack("<I", 16) + head + sound


def asked(
    price: dict[str, float], path: str, answer: Answer, body: bytes | None = None, **members: Any
) -> Trace:
    here = world("a", prices={"gpt": price}).script(a=answer)
    if body is None:
        trace = here.call(path=path, client=RICH, **members)
    else:
        trace = here.call(body, path=path, client=RICH, content_type="multipart/form-data; boundary=b")
    assert trace.call.status == 200, trace.call.error
    return trace


def booked(trace: Trace) -> float:
    (reservation,) = (effect.reservation for _, effect in trace.effects if isinstance(effect, Reserve))
    assert reservation.cost is not None
    return reservation.cost / 1e6


def settled(trace: Trace) -> float:
    (settlement,) = (effect for _, effect in trace.effects if isinstance(effect, Settle))
    assert settlement.cost is not None
    cost = cost_of(trace.call)
    assert settlement.cost / 1e6 == pytest.approx(cost, abs=2e-6), "the record says the same"
    return settlement.cost / 1e6


# --- images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({}, 6240),
        ({"quality": "auto", "size": "auto"}, 6240),
        ({"quality": "low", "size": "1024x1024", "n": 3}, 3 * 272),
        ({"quality": "medium", "size": "1024x1536"}, 1584),
        ({"quality": "high", "size": "1536x1024", "n": 2}, 2 * 6208),
        ({"quality": "low", "size": "1024x1024", "stream": True, "partial_images": 3}, 272 + 300),
        ({"quality": ["x"], "size": {"a": 1}, "n": "many"}, 6240),
        ({"n": 10**30}, 6240),
    ],
)
def test_images_are_booked_by_their_quality_and_size(members: dict[str, Any], tokens: int) -> None:
    usage = Usage(input_tokens=20, output_tokens=272, total_tokens=292)
    trace = asked(GPT_IMAGE, IMAGES, Answer(usage=usage), prompt="a dot", **members)
    assert booked(trace) == pytest.approx(tokens * 40 / 1e6, abs=1e-4)
    assert settled(trace) == pytest.approx((20 * 5 + 272 * 40) / 1e6, abs=1e-6)


def test_images_in_the_prompt_have_a_price_of_their_own() -> None:
    usage = read_usage(
        {
            "input_tokens": 500,
            "input_tokens_details": {"text_tokens": 100, "image_tokens": 400},
            "output_tokens": 1056,
            "total_tokens": 1556,
        }
    )
    trace = asked(GPT_IMAGE, EDITS, Answer(usage=usage), form(b"PNG", model="gpt", n="2", quality="low"))
    assert booked(trace) == pytest.approx(2 * 408 * 40 / 1e6, abs=1e-4)
    assert settled(trace) == pytest.approx((100 * 5 + 400 * 8 + 1056 * 40) / 1e6, abs=1e-6)


def test_a_model_without_usage_is_priced_by_the_image() -> None:
    trace = asked(DALL_E, IMAGES, Answer(), prompt="a dot", n=2)
    assert booked(trace) == settled(trace) == pytest.approx(0.08)


# --- audio -----------------------------------------------------------------------------------------------


def test_a_wave_file_is_booked_and_settled_by_its_length() -> None:
    trace = asked(WHISPER, HEARD, Answer(), form(wave(120), model="gpt"))
    assert booked(trace) == pytest.approx(0.012, rel=0.01)
    assert settled(trace) == pytest.approx(0.012, rel=0.01)


def test_another_file_is_booked_for_as_long_as_it_may_be() -> None:
    trace = asked(WHISPER, HEARD, Answer(), form(b"x" * 480_000, model="gpt"))
    assert booked(trace) == pytest.approx(0.012, rel=0.01)
    assert settled(trace) == pytest.approx(0.006, rel=0.01)


def test_the_length_that_the_answer_names_counts() -> None:
    trace = asked(WHISPER, HEARD, Answer(seconds=30.0), form(b"x" * 480_000, model="gpt"))
    assert settled(trace) == pytest.approx(0.003)


@pytest.mark.parametrize("rate", [0, 4_000_000_000])
def test_a_head_that_cannot_be_true_is_not_believed(rate: int) -> None:
    file = bytearray(wave(60))
    file[28:32] = struct.pack("<I", rate)
    trace = asked(WHISPER, HEARD, Answer(), form(bytes(file), model="gpt"))
    assert settled(trace) >= 0.006


def test_tokens_of_audio_that_is_heard() -> None:
    usage = read_usage(
        {
            "type": "tokens",
            "input_tokens": 600,
            "input_token_details": {"audio_tokens": 580, "text_tokens": 20},
            "output_tokens": 150,
            "total_tokens": 750,
        }
    )
    trace = asked(TRANSCRIBE, HEARD, Answer(usage=usage), form(wave(60), model="gpt"))
    assert booked(trace) >= settled(trace)
    assert settled(trace) == pytest.approx((580 * 6 + 20 * 2.5 + 150 * 10) / 1e6, abs=1e-6)


def test_speech_is_priced_by_the_character_or_by_its_tokens() -> None:
    text = "Hello there. " * 100
    trace = asked(TTS, SPOKEN, Answer(), input=text, voice="alloy")
    assert booked(trace) == settled(trace) == pytest.approx(len(text) * 15 / 1e6, abs=1e-6)
    usage = Usage(input_tokens=300, output_tokens=1700, total_tokens=2000)
    trace = asked(MINI_TTS, SPOKEN, Answer(usage=usage), input=text, voice="alloy")
    assert booked(trace) >= settled(trace)
    assert settled(trace) == pytest.approx((300 * 0.6 + 1700 * 12) / 1e6, abs=1e-6)


@pytest.mark.parametrize(
    ("document", "seconds"),
    [
        ({"text": "x", "usage": {"type": "duration", "seconds": 9}}, 9.0),
        ({"text": "x", "duration": 8.5, "language": "english"}, 8.5),
        ({"text": "x", "usage": {"type": "tokens", "input_tokens": 1, "seconds": 9}}, None),
        ({"text": "x", "duration": -1}, None),
        ({"text": "x", "duration": 1e300}, None),
        ({"text": "x", "duration": True}, None),
        ({"text": "x", "duration": "8"}, None),
        ({"object": "video", "duration": 8}, None),
    ],
)
def test_the_length_in_an_answer(document: dict[str, Any], seconds: float | None) -> None:
    assert facts_of(document).seconds == seconds
