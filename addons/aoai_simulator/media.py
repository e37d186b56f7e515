"""Audio and images: answers of the right form, which say and show nothing.

Transcripts and translations of audio, in each form that can be asked for.

Source: the reference of the audio API. The newer models tell the tokens that they took; whisper tells none,
but has forms with times: ``verbose_json``, ``srt`` and ``vtt``.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

from aoai_simulator.replies import Reply, Whole, invalid_request, json_reply, named_events
from aoai_simulator.requests import Sent

TEXT = "This is a simulated transcript."
_BYTES_PER_SECOND = 32_000
"""Of speech as WAV, 16 bits at 16 kHz."""


def transcript(operation: str, sent: Sent, model: str) -> Reply:
    """Answer a call that has sent a file."""
    assert sent.file is not None
    taken = max(1, len(sent.file) // 1_000)
    cost = taken + 6
    usage = {} if model.startswith("whisper") else {"usage": _usage(taken)}
    form = sent.fields.get("response_format")
    seconds = round(max(0.1, len(sent.file) / _BYTES_PER_SECOND), 2)
    if form in ("text", "srt", "vtt"):
        return Whole(200, (("content-type", "text/plain; charset=utf-8"),), _text(form, seconds), cost)
    if sent.fields.get("stream") == "true" and operation.endswith("transcriptions"):
        delta = {"type": "transcript.text.delta", "delta": TEXT}
        return named_events([delta, {"type": "transcript.text.done", "text": TEXT, **usage}], cost)
    if form == "verbose_json":
        task = "translate" if operation.endswith("translations") else "transcribe"
        # Of a field that is sent twice, forms keep one value: a request for either kind gets the words, too.
        words = "timestamp_granularities[]" in sent.fields
        body = {"task": task, "language": "english", **_timed(seconds, words=words), **usage}
        return json_reply(body, cost)
    return json_reply({"text": TEXT, **usage}, cost)


def _usage(taken: int) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": taken,
        "input_token_details": {"audio_tokens": taken, "text_tokens": 0},
        "output_tokens": 6,
        "total_tokens": taken + 6,
    }


def _text(form: str, seconds: float) -> bytes:
    begin, end = (_clock(at, "," if form == "srt" else ".") for at in (0.0, seconds))
    if form == "srt":
        return f"1\n{begin} --> {end}\n{TEXT}\n\n".encode()
    if form == "vtt":
        return f"WEBVTT\n\n{begin} --> {end}\n{TEXT}\n\n".encode()
    return f"{TEXT}\n".encode()


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _timed(seconds: float, *, words: bool) -> dict[str, Any]:
    """The text with the times of its one segment, and those of its words if they are asked for."""
    end = {"avg_logprob": -0.2, "compression_ratio": 1.0, "no_speech_prob": 0.01, "temperature": 0.0}
    segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": TEXT, "tokens": [], **end}
    timed: dict[str, Any] = {"duration": seconds, "text": TEXT, "segments": [segment]}
    if words:
        spoken = TEXT.rstrip(".").split()
        each = seconds / len(spoken)
        timed["words"] = [
            {"word": word, "start": round(n * each, 2), "end": round((n + 1) * each, 2)}
            for n, word in enumerate(spoken)
        ]
    return timed


VIDEO = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"
"""The beginning of an MP4 file, and no more."""

_SAMPLES_PER_SECOND = 8_000


def answer(operation: str, sent: Sent, unix_time: int, model: str) -> Reply:
    """Answer a call of `targets.MEDIA`. ``model``: the deployment's base model."""
    if operation == "audio/speech":
        if not isinstance(sent.fields.get("input"), str):
            return invalid_request("Missing required parameter: 'input'.", param="input")
        return Whole(200, (("content-type", "audio/wav"),), _silence(), 1)
    if operation.startswith("images/"):
        return _image(operation, sent, unix_time)
    if sent.file is None:
        return invalid_request("Missing required parameter: 'file'.", param="file")
    return transcript(operation, sent, model)


def _image(operation: str, sent: Sent, unix_time: int) -> Reply:
    prompt = sent.fields.get("prompt")
    if not isinstance(prompt, str):
        return invalid_request("Missing required parameter: 'prompt'.", param="prompt")
    usage = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
    shown = base64.b64encode(_pixel()).decode()
    if sent.fields.get("stream") in (True, "true"):
        name = "image_generation" if operation.endswith("generations") else "image_edit"
        partial = {"type": f"{name}.partial_image", "partial_image_index": 0, "b64_json": shown}
        return named_events([partial, {"type": f"{name}.completed", "b64_json": shown, "usage": usage}], 282)
    body = {"created": unix_time, "data": [{"b64_json": shown}], "usage": usage}
    return json_reply(body, 282)


def _silence() -> bytes:
    """A tenth of a second of silence, as WAV."""
    samples = bytes(_SAMPLES_PER_SECOND // 10)
    form = struct.pack("<HHIIHH", 1, 1, _SAMPLES_PER_SECOND, _SAMPLES_PER_SECOND, 1, 8)
    parts = (
        b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    )
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WAVE" + parts


def _pixel() -> bytes:
    """One grey pixel, as PNG."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\x00\x80"))
        + chunk(b"IEND", b"")
    )
