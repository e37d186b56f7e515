"""Audio and images: answers of the right form, which say and show nothing."""

from __future__ import annotations

import base64
import struct
import zlib

from aoai_simulator.forms import Sent
from aoai_simulator.replies import JSON_TYPE, Reply, Whole, compact, invalid_request, named_events
from aoai_simulator.transcripts import transcript

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
    return Whole(200, (JSON_TYPE,), compact(body), 282)


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
